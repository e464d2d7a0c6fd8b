"""Soft targets: the three readings of the temperature, what a teacher may say, and where it says nothing."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from grokdistill import distill
from grokdistill.distill import hard, matched_temperature, soften, teach
from grokdistill.engine import Engine, Rows, stack
from grokdistill.model import Shape, initial_weights, load

SHAPE = Shape(numbers=13, d_model=16, n_heads=2, d_mlp=24)


def random_logits(*shape, scale=1.0, seed=0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def teachers(seeds=2, scale=6.0):
    """Untrained models whose logits are spread enough to be interesting, one sharper than the other."""
    found = []
    for seed in range(seeds):
        weights = {name: value.double() for name, value in initial_weights(SHAPE, seed).items()}
        weights["unembedding.weight"] = weights["unembedding.weight"] * scale * (1 + 4 * seed)
        found.append(weights)
    return found


def all_pairs(prime, query, seeds=2):
    number = torch.arange(prime * prime).expand(seeds, -1)
    return Rows(number // prime, number % prime, torch.full_like(number, query))


def mean_entropy(probabilities):
    return scipy.stats.entropy(probabilities.numpy(), axis=-1).mean(-1)


def known(logits):
    """Every example is one that the teacher knows."""
    return torch.ones(logits.shape[:-1], dtype=torch.bool)


def test_absolute_is_the_papers_softmax_on_both_sides():
    logits = random_logits(2, 30, 7, scale=9.0)
    probabilities, temperature = soften(logits, known(logits), "absolute", 2.5)
    assert np.allclose(probabilities, scipy.special.softmax(logits.numpy() / 2.5, -1), rtol=1e-12)
    assert (temperature == 2.5).all()


def test_relative_standardises_each_example_and_leaves_the_student_at_one():
    logits = random_logits(2, 30, 7, scale=9.0)
    probabilities, temperature = soften(logits, known(logits), "relative", 3.0)
    values = logits.numpy()
    z = (values - values.mean(-1, keepdims=True)) / values.std(-1, keepdims=True)
    assert np.allclose(probabilities, scipy.special.softmax(3.0 * z, -1), rtol=1e-10)
    assert (temperature == 1.0).all()
    for factor, shift in ((1e-3, 5.0), (1e4, -70.0)):  # the scale of StableMax logits does not matter
        assert torch.allclose(soften(logits * factor + shift, known(logits), "relative", 3.0)[0], probabilities, rtol=1e-6)


def test_relative_survives_logits_without_spread():
    flat = torch.full((1, 2, 5), 3.0)
    probabilities, _ = soften(flat, known(flat), "relative", 3.0)
    assert torch.allclose(probabilities, torch.full((1, 2, 5), 0.2))


@pytest.mark.parametrize("nats", [0.1, 1.0, 1.9])
def test_matched_gives_the_entropy_asked_for_with_one_scale_per_teacher(nats):
    logits = random_logits(3, 200, 7) * torch.tensor([0.01, 5.0, 5000.0], dtype=torch.float64)[:, None, None]
    probabilities, temperature = soften(logits, known(logits), "matched", nats)
    assert mean_entropy(probabilities) == pytest.approx(nats, rel=1e-8)
    assert (temperature == 1.0).all()  # of the student
    for seed in range(3):
        values = logits[seed].numpy()
        z = (values - values.mean(-1, keepdims=True)) / values.std(-1, keepdims=True)

        def excess(scale, z=z):
            return scipy.stats.entropy(scipy.special.softmax(scale * z, -1), axis=-1).mean() - nats

        expected = scipy.special.softmax(scipy.optimize.brentq(excess, 1e-3, 1e4, xtol=1e-13) * z, -1)
        assert np.allclose(probabilities[seed], expected, rtol=1e-6, atol=1e-12)


def test_matched_temperature_scales_with_the_logits():
    logits = random_logits(1, 100, 9)
    one, ten = (matched_temperature(many * logits, known(logits), 1.2) for many in (1, 10))
    assert ten.item() == pytest.approx(10 * one.item(), rel=1e-9)
    single = soften(logits.float(), known(logits), "matched", 1.2)[0]
    assert single.dtype == torch.float32
    assert mean_entropy(single) == pytest.approx(1.2, rel=1e-4)


@pytest.mark.parametrize("nats", [math.log(7) + 1e-3, 5.0, 0.0, -1.0])
def test_an_entropy_out_of_reach_is_an_error(nats):
    with pytest.raises(ValueError, match="entropy"):
        soften(random_logits(1, 20, 7), torch.ones(1, 20, dtype=torch.bool), "matched", nats)


@pytest.mark.parametrize("logits", [torch.ones(1, 4, 7), torch.tensor([[[5.0, 5.0, 0.0, -1.0]] * 4])])
def test_an_entropy_that_no_temperature_reaches_is_an_error(logits):
    """Equal logits have log 7 nats at any temperature, and a tie at the top never falls below log 2."""
    with pytest.raises(ValueError, match="entropy"):
        soften(logits.double(), known(logits), "matched", 0.5)


@pytest.mark.parametrize("position", ["operator", "modulus"])
@pytest.mark.parametrize(("reading", "value"), [("absolute", 2.0), ("relative", 3.0)])
def test_a_teacher_says_what_the_textbook_model_says_over_its_own_numbers(position, reading, value):
    prime = 7
    models = teachers()
    engine = Engine(SHAPE, "sub", (prime,))
    targets = teach(engine, stack(models), all_pairs(prime, engine.query(position, prime)), prime, reading, value)
    place = 2 if position == "operator" else 3
    tokens = [[a, b, SHAPE.token("sub"), SHAPE.token("mod 7")] for a in range(prime) for b in range(prime)]
    for seed, model in enumerate(models):
        logits = load(model, SHAPE)(torch.tensor(tokens))[:, place, :prime].detach().numpy()
        if reading == "relative":
            logits = 3.0 * (logits - logits.mean(-1, keepdims=True)) / logits.std(-1, keepdims=True)
        else:
            logits = logits / 2.0
        expected = scipy.special.softmax(logits, -1)
        assert np.allclose(targets.probabilities[seed, :, :prime], expected, rtol=1e-9)
        assert np.allclose(targets.entropy[seed], scipy.stats.entropy(expected, axis=-1), rtol=1e-9)
    assert targets.probabilities.shape == (2, prime**2, SHAPE.numbers)
    assert targets.covered.all()


@pytest.mark.parametrize("reading", ["absolute", "relative", "matched"])
def test_nothing_is_taught_beyond_the_teachers_numbers(reading):
    """Probability zero beyond its answers; where a pair holds a number it never saw, it is not covered."""
    prime, other = 5, 11
    engine = Engine(SHAPE, "add", (prime,))
    targets = teach(engine, stack(teachers()), all_pairs(other, engine.OPERATOR), prime, reading, 1.0)
    assert (targets.probabilities[..., prime:] == 0).all()
    assert torch.allclose(targets.probabilities.sum(-1), torch.ones(2, other**2, dtype=torch.float64))
    expected = [a < prime and b < prime for a in range(other) for b in range(other)]
    assert targets.covered.tolist() == [expected, expected]
    assert sum(expected) == 25


def test_matched_entropy_is_that_of_the_examples_that_are_taught():
    """For p2 > p1 the teacher's words on numbers it never saw are not used, so they do not set its temperature."""
    prime, other = 7, 11
    engine = Engine(SHAPE, "add", (prime,))
    targets = teach(engine, stack(teachers()), all_pairs(other, engine.OPERATOR), prime, "matched", 0.8)
    for seed in range(2):
        taught = targets.probabilities[seed][targets.covered[seed]]
        assert mean_entropy(taught) == pytest.approx(0.8, rel=1e-6)


def test_targets_do_not_depend_on_how_the_pool_is_cut(monkeypatch):
    engine = Engine(SHAPE, "add", (11,))
    arguments = engine, stack(teachers()), all_pairs(11, 1), 11, "relative", 3.0
    whole = teach(*arguments)
    monkeypatch.setattr(distill, "CHUNK", 17)
    parts = teach(*arguments)
    assert torch.allclose(parts.probabilities, whole.probabilities, rtol=1e-12)
    assert torch.equal(parts.covered, whole.covered)


def test_targets_carry_no_gradient():
    engine = Engine(SHAPE, "add", (5,))
    weights = {name: value.requires_grad_() for name, value in stack(teachers()).items()}
    targets = teach(engine, weights, all_pairs(5, 1), 5, "absolute", 1.0)
    assert not targets.probabilities.requires_grad
    assert not targets.entropy.requires_grad


def test_the_oracle_puts_everything_on_the_right_answer():
    answers = torch.tensor([[0, 4, 2], [1, 1, 3]])
    covered = torch.tensor([[True, False, True], [True, True, True]])
    targets = hard(answers, covered, 6, torch.float64)
    for seed in range(2):
        for example in range(3):
            assert targets.probabilities[seed, example].tolist() == [float(n == answers[seed, example]) for n in range(6)]
    assert (targets.entropy == 0).all()
    assert targets.covered is covered
    assert (targets.temperature == 1.0).all()
