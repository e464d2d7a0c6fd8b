"""The weight norm and the Fourier concentration, by explicit sums."""

import cmath
import math

import numpy as np
import pytest
import torch

from grokdistill.model import Shape, Transformer
from grokdistill.probes import fourier_gini, weight_norm


def gini(values):
    """Mean absolute difference of all pairs over twice the mean: the textbook coefficient."""
    values = list(values)
    pairs = sum(abs(x - y) for x in values for y in values)
    return pairs / (2 * len(values) ** 2 * (sum(values) / len(values)))


def explicit(rows, prime):
    """The Gini coefficient of the power at frequencies 1..(prime-1)/2, from the sums of the discrete Fourier transform."""
    power = []
    for k in range(1, (prime - 1) // 2 + 1):
        phases = [cmath.exp(-2j * math.pi * k * n / prime) for n in range(prime)]
        sums = [sum(phase * row[column] for phase, row in zip(phases, rows, strict=True)) for column in range(len(rows[0]))]
        power.append(sum(abs(one) ** 2 for one in sums))
    return gini(power)


@pytest.mark.parametrize("prime", [3, 5, 7, 13, 23])
def test_fourier_gini_by_explicit_sums(prime):
    rng = np.random.default_rng(prime)
    embedding = rng.normal(size=(3, 30, 6)) * np.exp(rng.normal(size=(3, 1, 6)))
    # One seed has a strong frequency among the noise.
    embedding[2, :prime, 0] += 5 * np.cos(2 * math.pi * np.arange(prime) / prime)
    found = fourier_gini(torch.from_numpy(embedding), prime, 30)
    assert found.shape == (3,)
    for seed in range(3):
        assert found[seed].item() == pytest.approx(explicit(embedding[seed, :prime].tolist(), prime), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("prime", [7, 107])
def test_a_pure_cosine_is_as_concentrated_as_can_be_and_noise_is_not(prime):
    """One of n frequencies carries everything: 1 - 1/n. White noise over 128 dimensions spreads evenly."""
    wave = np.cos(2 * math.pi * 2 * np.arange(prime) / prime)[:, None] * np.ones(128)
    noise = np.random.default_rng(0).normal(size=(prime, 128))
    found = fourier_gini(torch.from_numpy(np.stack([wave, noise, noise + 3 * wave])), prime, prime).tolist()
    most = 1 - 2 / (prime - 1)
    assert found[0] == pytest.approx(most, rel=1e-9)
    assert found[1] < 0.15
    assert found[1] < found[2] < most


def test_a_constant_shift_and_other_tokens_do_not_count():
    embedding = torch.randn(1, 20, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    changed = embedding.clone()
    changed[:, :11] += 100.0
    changed[:, 11:] = 7.0
    assert fourier_gini(changed, 11, 20).item() == pytest.approx(fourier_gini(embedding, 11, 20).item(), rel=1e-8)


def test_an_embedding_of_nothing_is_finite():
    assert torch.isfinite(fourier_gini(torch.zeros(2, 13, 4), 13, 13)).all()


@pytest.mark.parametrize("norm", ["none", "before"])
def test_weight_norm_counts_every_parameter_but_unused_tokens(norm):
    shape = Shape(numbers=11, d_model=8, n_heads=2, d_mlp=12, norm=norm)
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=(3, *value.shape)) for name, value in Transformer(shape).named_parameters()}
    used = np.zeros(len(shape.vocabulary), bool)
    used[[0, 1, 2, 3, 4, 11, 15]] = True
    found = weight_norm({name: torch.from_numpy(value) for name, value in weights.items()}, torch.from_numpy(used))
    for seed in range(3):
        total = 0.0
        for name, value in weights.items():
            for index in np.ndindex(value[seed].shape):
                if name != "embedding.weight" or used[index[0]]:
                    total += value[seed][index] ** 2
        assert found[seed].item() == pytest.approx(math.sqrt(total), rel=1e-12)


def test_numbers_that_a_run_never_reads_are_left_out():
    """The teacher's basis of 11 frequencies over the 7 numbers that the student reads, about their mean."""
    embedding = np.random.default_rng(1).normal(size=(1, 20, 6))
    rows = embedding[0, :7] - embedding[0, :7].mean(0)
    expected = explicit([*rows.tolist(), *[[0.0] * 6] * 4], 11)
    assert fourier_gini(torch.from_numpy(embedding), 11, 7).item() == pytest.approx(expected, rel=1e-9)
