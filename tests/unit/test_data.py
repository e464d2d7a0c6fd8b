"""Datasets: answers by counting, splits that nest, and exact training sizes."""

from decimal import Decimal
from fractions import Fraction
from math import floor

import numpy as np
import pytest

from grokdistill.data import Dataset, answers, generate, order, pairs, train_size
from grokdistill.params import is_prime

PRIMES = (3, 5, 7, 13, 31)


@pytest.mark.parametrize("prime", PRIMES)
def test_every_pair_and_its_answers_by_counting(prime):
    """Pair i is the i-th of two nested loops; answers are found by stepping round a circle of `prime` numbers."""
    dataset = generate(prime, seed=1)
    circle = list(range(prime))
    number = 0
    for a in range(prime):
        for b in range(prime):
            assert (dataset.a[number], dataset.b[number]) == (a, b)
            forward, back = circle[a], circle[a]
            for _ in range(b):
                forward = 0 if forward == prime - 1 else forward + 1
                back = prime - 1 if back == 0 else back - 1
            assert dataset.answers["add"][number] == forward
            assert dataset.answers["sub"][number] == back
            number += 1
    assert len(dataset.a) == len(dataset.order) == number == prime**2


def test_answers_under_another_modulus_and_a_modulus_by_modulus_count():
    """Same answers of 113's and 107's pairs, as often as two loops count them."""
    for prime, other in ((113, 107), (107, 113), (5, 7)):
        dataset = generate(prime, 0)
        for op, sign in (("add", 1), ("sub", -1)):
            same = [(a + sign * b) % prime == (a + sign * b) % other for a in range(prime) for b in range(prime)]
            assert dataset.same_answer(op, other).tolist() == same
        covered = [a < other and b < other for a in range(prime) for b in range(prime)]
        assert dataset.covered(other).tolist() == covered
    # The design's numbers: 5,778 of p1's sums are the same under 107, and half of p2's labels equal p1's.
    assert generate(113, 0).same_answer("add", 107).sum() == 5778
    assert round(generate(107, 0).same_answer("add", 113).mean(), 3) == 0.505


@pytest.mark.parametrize("prime", (*PRIMES, 107))
def test_the_order_is_a_permutation_that_depends_on_seed_and_prime(prime):
    first = order(prime, 0)
    assert sorted(first.tolist()) == list(range(prime**2))
    assert np.array_equal(first, order(prime, 0))
    assert not np.array_equal(first, order(prime, 1))
    assert not np.array_equal(first, np.arange(prime**2))
    larger = order(prime + 2, 0)
    assert not np.array_equal(first, larger[larger < prime**2])


def test_the_order_is_uniform():
    """Over 900 seeds, how often each of 9 pairs comes first: chi-squared with 8 degrees of freedom, far from its 1e-6 tail."""
    counts = np.bincount([order(3, seed)[0] for seed in range(900)], minlength=9)
    assert ((counts - 100.0) ** 2 / 100.0).sum() < 42.7


@pytest.mark.parametrize("prime", (7, 31, 107))
def test_smaller_training_sets_are_nested_and_the_rest_is_the_test_set(prime):
    dataset = generate(prime, seed=3)
    before: set[int] = set()
    for fraction in (0.1, 0.2, 0.25, 0.3, 0.35):
        training = set(dataset.training(fraction).tolist())
        assert len(training) == floor(Fraction(str(fraction)) * prime**2)
        assert before < training
        inside = dataset.inside(fraction)
        assert set(np.flatnonzero(inside).tolist()) == training
        assert (~inside).sum() == prime**2 - len(training)
        before = training


def test_the_training_size_is_exact():
    """floor(f * p * p) in rational arithmetic, for every percent and many longer decimals, up to the largest modulus."""
    rng = np.random.default_rng(0)
    primes = [n for n in range(3, 10_000) if is_prime(n)]
    decimals = [f"0.{n:02d}" for n in range(1, 100)]
    decimals += [f"0.{n:0{digits}d}" for digits in (1, 3, 4, 5, 6) for n in rng.integers(1, 10**digits, 60)]
    for text in decimals:
        for prime in [3, 5, 7, 11, 97, 107, 113, 9973, *rng.choice(primes, 5).tolist()]:
            assert train_size(prime, float(text)) == floor(Fraction(Decimal(text)) * prime * prime), (text, prime)


def test_the_sizes_of_the_paper():
    """35% of 113 and 20% of 107 (2,289 pairs: a batch of 2,048 and one of 241)."""
    assert train_size(113, 0.35) == 4469
    assert train_size(107, 0.20) == 2289


def test_is_prime_agrees_with_a_sieve():
    sieve = np.ones(10_001, bool)
    sieve[:2] = False
    for n in range(2, 101):
        sieve[n * n :: n] = False
    assert [n for n in range(10_001) if is_prime(n)] == np.flatnonzero(sieve).tolist()


def test_operators_of_a_hand_made_dataset():
    a, b = pairs(3)
    assert answers(a, b, "sub", 3).tolist() == [0, 2, 1, 1, 0, 2, 2, 1, 0]
    dataset = Dataset(3, a, b, {"add": answers(a, b, "add", 3)}, np.array([8, 0, 1, 2, 3, 4, 5, 6, 7]))
    assert dataset.training(0.34).tolist() == [8, 0, 1]
    assert dataset.inside(0.12).tolist() == [False] * 8 + [True]
