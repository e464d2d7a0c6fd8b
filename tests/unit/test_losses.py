"""Losses against their definitions, written out."""

import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
import torch
from torch.nn.functional import kl_div, log_softmax, softmax

from grokdistill.losses import (
    distillation_loss,
    entropy,
    kl_to_targets,
    log_stablemax,
    softmax_cross_entropy,
    stablemax_cross_entropy,
)


def g(x: float) -> float:
    """The paper's equation 2."""
    return math.log(x + 1) if x >= 0 else -math.log(-x + 1)


def s(x: float) -> float:
    """exp(g(x)), without an exponential."""
    return x + 1 if x >= 0 else 1 / (1 - x)


def slope(x: float) -> float:
    """s'(x)."""
    return 1.0 if x >= 0 else (1 - x) ** -2


def literal(logits):
    """log StableMax in torch for autograd; `where` is given arguments for which both branches are finite."""
    positive = logits >= 0
    return torch.log(
        torch.where(positive, torch.where(positive, logits, 0.0) + 1, 1 / (1 - torch.where(positive, 0.0, logits)))
    ) - torch.log(torch.where(positive, logits.clamp_min(0) + 1, 1 / (1 - logits.clamp_max(0))).sum(-1, keepdim=True))


def random_logits(*shape, scale=5.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, dtype=torch.float64, generator=generator)


EDGES = (1.0, 0.0, -1.0, -0.0, 1e30, -1e30, 1e-30, -1e-30, 2.0)


def test_log_stablemax_is_the_logarithm_of_its_definition():
    logits = random_logits(4, 9, scale=30.0)
    found = log_stablemax(logits)
    assert found.shape == logits.shape
    for row, expected in zip(logits.tolist(), found.tolist(), strict=True):
        total = sum(s(x) for x in row)
        for x, value in zip(row, expected, strict=True):
            assert value == pytest.approx(math.log(s(x) / total), rel=1e-12)
            assert value == pytest.approx(g(x) - math.log(sum(math.exp(g(y)) for y in row)), rel=1e-12)


def test_log_stablemax_along_another_dimension_and_in_single_precision():
    logits = random_logits(5, 3, 2)
    for dim in (0, 1, -2):
        probabilities = log_stablemax(logits, dim).exp()
        assert torch.allclose(probabilities.sum(dim), torch.ones(()).double(), atol=1e-12)
        moved = log_stablemax(logits.movedim(dim, -1)).movedim(-1, dim)
        assert torch.allclose(log_stablemax(logits, dim), moved, atol=1e-14)
    single = log_stablemax(logits.float())
    assert single.dtype == torch.float32
    assert torch.allclose(single.double(), log_stablemax(logits), atol=1e-5)


def test_log_stablemax_gradient_is_that_of_its_definition():
    logits = random_logits(6, 7).requires_grad_()
    weights = random_logits(6, 7, seed=1)
    (found,) = torch.autograd.grad((log_stablemax(logits) * weights).sum(), logits)
    (expected,) = torch.autograd.grad((literal(logits) * weights).sum(), logits)
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_stablemax_gradient_at_edges(dtype):
    """s has a derivative everywhere, also at zero: d log p_y / d x_j = [j = y] s'(x_y) / s(x_y) - s'(x_j) / sum s."""
    logits = torch.tensor(EDGES, dtype=dtype, requires_grad=True)
    values = logits.tolist()
    total = math.fsum(map(s, values))
    for y, at in enumerate(values):
        (found,) = torch.autograd.grad(log_stablemax(logits)[y], logits)
        expected = [(j == y) * slope(at) / s(at) - slope(x) / total for j, x in enumerate(values)]
        assert torch.isfinite(found).all()
        assert found.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-7), at


def test_stablemax_cross_entropy_value():
    logits, targets = random_logits(3, 5, 11, scale=100.0), torch.arange(15).reshape(3, 5) % 11
    each = stablemax_cross_entropy(logits, targets, "none")
    assert each.shape == targets.shape
    expected = [
        -math.log(s(row[y]) / sum(map(s, row)))
        for row, y in zip(logits.reshape(-1, 11).tolist(), targets.flatten().tolist(), strict=True)
    ]
    assert each.flatten().tolist() == pytest.approx(expected, rel=1e-12)
    assert stablemax_cross_entropy(logits, targets).item() == pytest.approx(sum(expected) / 15, rel=1e-12)


@pytest.mark.parametrize("scale", [0.1, 3.0, 1e3])
def test_stablemax_cross_entropy_gradient_is_autograds_of_the_definition(scale):
    logits, targets = random_logits(20, 13, scale=scale).requires_grad_(), torch.arange(20) % 13
    weights = random_logits(20, seed=2)
    (found,) = torch.autograd.grad((stablemax_cross_entropy(logits, targets, "none") * weights).sum(), logits)
    each = -literal(logits).gather(1, targets[:, None])[:, 0]
    (expected,) = torch.autograd.grad((each * weights).sum(), logits, retain_graph=True)
    assert torch.allclose(found, expected, rtol=1e-11, atol=1e-300)
    (mean,) = torch.autograd.grad(stablemax_cross_entropy(logits, targets), logits)
    (expected,) = torch.autograd.grad(each.mean(), logits)
    assert torch.allclose(mean, expected, rtol=1e-11, atol=1e-300)


def test_stablemax_cross_entropy_passes_gradcheck():
    logits, targets = random_logits(4, 6, scale=2.0).requires_grad_(), torch.tensor([0, 5, 2, 2])
    assert torch.autograd.gradcheck(lambda x: stablemax_cross_entropy(x, targets, "none"), logits)
    assert torch.autograd.gradcheck(lambda x: stablemax_cross_entropy(x, targets), logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stablemax_cross_entropy_at_edges(dtype):
    """Exact, and so finite, for logits of exactly 1, 0 and -1 and for very large ones, whichever is the answer."""
    logits = torch.tensor(EDGES, dtype=dtype).repeat(len(EDGES), 1).requires_grad_()
    targets = torch.arange(len(EDGES))
    losses = stablemax_cross_entropy(logits, targets, "none")
    (found,) = torch.autograd.grad(losses.sum(), logits)
    assert losses.dtype == torch.float64
    assert found.dtype == dtype
    values = logits[0].tolist()
    total = math.fsum(map(s, values))
    for y, at in enumerate(values):
        # Each term is rounded to the logits' precision, the sum and its logarithm are not.
        assert losses[y].item() == pytest.approx(math.log(total) - g(at), rel=1e-12 if dtype == torch.float64 else 1e-7)
        expected = [slope(x) / total - (j == y) * slope(at) / s(at) for j, x in enumerate(values)]
        assert found[y].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-37)


def test_stablemax_cross_entropy_of_a_confident_model_in_single_precision():
    """Where p is 1 to eight digits, loss and gradient still have theirs: against exact rational arithmetic."""
    values = [Fraction(x) for x in (5e7, -4e3, -7e5, -0.25, -9e6)]
    terms = [1 + x if x >= 0 else 1 / (1 - x) for x in values]
    slopes = [min(term, 1) ** 2 for term in terms]
    total, wrong = sum(terms), sum(terms[1:])
    logits = torch.tensor([list(map(float, values))], dtype=torch.float32, requires_grad=True)
    loss = stablemax_cross_entropy(logits, torch.tensor([0]))
    (found,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(math.log1p(wrong / terms[0]), rel=1e-6)
    expected = [-wrong / (total * terms[0]), *(slope / total for slope in slopes[1:])]
    assert found[0].tolist() == pytest.approx(list(map(float, expected)), rel=1e-6, abs=0)


@pytest.mark.parametrize("magnitude", [3e38, -3e38])
def test_stablemax_cross_entropy_survives_the_largest_single_precision_logits(magnitude):
    logits = torch.full((2, 128), magnitude, dtype=torch.float32)
    logits[0, 3] = 0.0
    logits.requires_grad_()
    loss = stablemax_cross_entropy(logits, torch.tensor([3, 4]))
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(logits.grad).all()


def test_softmax_cross_entropy():
    logits, targets = random_logits(2, 7, 5), torch.arange(14).reshape(2, 7) % 5
    expected = [
        -(row[y] - math.log(sum(map(math.exp, row))))
        for row, y in zip(logits.reshape(-1, 5).tolist(), targets.flatten().tolist(), strict=True)
    ]
    each = softmax_cross_entropy(logits, targets, "none")
    assert each.shape == targets.shape
    assert each.flatten().tolist() == pytest.approx(expected, rel=1e-12)
    assert softmax_cross_entropy(logits, targets).item() == pytest.approx(np.mean(expected), rel=1e-12)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 64.0])
def test_distillation_loss_is_the_divergence_of_softened_outputs(temperature):
    """Teacher first: KL(q_T || q_S), without a factor of the temperature squared (the paper's equation 3)."""
    student, teacher = random_logits(30, 9).requires_grad_(), random_logits(30, 9, scale=20.0, seed=1)
    found = distillation_loss(student, teacher, temperature)
    expected = kl_div(log_softmax(student / temperature, -1), softmax(teacher / temperature, -1), reduction="batchmean")
    assert found.item() == pytest.approx(expected.item(), rel=1e-11)
    (mine,) = torch.autograd.grad(found, student)
    (theirs,) = torch.autograd.grad(expected, student)
    assert torch.allclose(mine, theirs, rtol=1e-10, atol=1e-14)
    by_hand = scipy.stats.entropy(
        scipy.special.softmax(teacher.numpy() / temperature, -1),
        scipy.special.softmax(student.detach().numpy() / temperature, -1),
        axis=-1,
    )
    assert found.item() == pytest.approx(by_hand.mean(), rel=1e-10)


def test_distillation_loss_vanishes_for_equal_outputs_and_is_not_symmetric():
    one, two = random_logits(8, 5), random_logits(8, 5, seed=3)
    assert distillation_loss(one, one + 7.0, 2.0).item() == pytest.approx(0.0, abs=1e-12)
    assert distillation_loss(one, two, 1.0).item() > 0
    assert distillation_loss(one, two, 1.0).item() != pytest.approx(distillation_loss(two, one, 1.0).item(), rel=1e-3)


def test_kl_to_targets_takes_zero_probabilities_and_a_temperature_per_example():
    logits = random_logits(2, 4, 6)
    targets = softmax(random_logits(2, 4, 6, seed=5), -1)
    targets[..., 4:] = 0
    targets /= targets.sum(-1, keepdim=True)
    temperature = torch.tensor([0.5, 3.0], dtype=torch.float64)[:, None].expand(2, 4)
    found = kl_to_targets(logits, targets, entropy(targets), temperature)
    for seed in range(2):
        student = scipy.special.softmax(logits[seed].numpy() / temperature[seed, 0].item(), -1)
        expected = scipy.stats.entropy(targets[seed].numpy(), student, axis=-1)
        assert found[seed].numpy() == pytest.approx(expected, rel=1e-10)


def test_entropy():
    probabilities = softmax(random_logits(10, 7), -1)
    assert entropy(probabilities).numpy() == pytest.approx(scipy.stats.entropy(probabilities.numpy(), axis=-1), rel=1e-12)
    assert entropy(torch.full((8,), 1 / 8, dtype=torch.float64)).item() == pytest.approx(math.log(8), rel=1e-12)
    assert entropy(torch.tensor([0.0, 1.0, 0.0])).item() == 0.0
