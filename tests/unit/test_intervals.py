"""Intervals and medians, against formulas and against brute force."""

from __future__ import annotations

from math import inf, sqrt

import numpy as np
import pytest

from grokdistill.intervals import bootstrap_median, median_time, wilson


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (1, 3), (3, 3), (7, 10), (50, 113)])
def test_wilson(hits, n):
    z, share = 1.959963985, hits / n
    middle, half = share + z * z / (2 * n), z * sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    expected = (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)
    assert wilson(hits, n) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 7, 9, 15, 31])
def test_the_bootstrap_is_that_of_many_draws(n):
    rng = np.random.default_rng(n)
    values = rng.normal(size=n)
    draws = rng.choice(values, (100_000, n))
    ends = np.sort(draws, axis=1)
    low, high = ends[:, (n - 1) // 2], ends[:, n // 2]  # the two in the middle
    expected = np.quantile(low, 0.025), np.quantile(high, 0.975)
    assert bootstrap_median(list(values)) == pytest.approx(expected, abs=1e-9)
    if n <= 6:
        assert bootstrap_median(list(values)) == (min(values), max(values))


def test_the_bootstrap_takes_what_never_came():
    assert bootstrap_median([300, inf, 100]) == (100, inf)
    assert bootstrap_median([inf] * 3) == (inf, inf)


@pytest.mark.parametrize(
    ("times", "lengths", "expected"),
    [
        ([300, 100, 200], [900] * 3, 200),
        ([100, None, 300], [900] * 3, 300),  # the censored run counts as longest
        ([100, None, None], [900] * 3, None),
        ([100, 200, None, None], [900] * 4, None),  # half is not more than half
        ([100, 200, 300, None], [900] * 4, 300),
        # Watched too briefly to tell: S = 2/3 at 100, then of one left in two S = 1/3 at 300.
        ([100, None, 300, 400], [900, 50, 900, 900], 300),
        ([100, None, 300], [900, 200, 900], 300),
        ([None], [900], None),
        ([], [], None),
    ],
)
def test_the_median_of_times_that_are_partly_unknown(times, lengths, expected):
    assert median_time(times, lengths) == expected


def test_the_median_follows_kaplan_and_meiers_product():
    rng = np.random.default_rng(5)
    for _ in range(50):
        n = int(rng.integers(2, 12))
        moments = rng.permutation(100)[:n] + 1  # no two at a time
        seen = rng.random(n) < 0.6
        left, reached = 1.0, None
        for rank, place in enumerate(np.argsort(moments)):
            if seen[place]:
                left *= 1 - 1 / (n - rank)
                if left < 0.5 - 1e-9:
                    reached = moments[place]
                    break
        assert median_time([m if s else None for m, s in zip(moments, seen)], list(moments)) == reached
