"""Statistics of a few seeds: the share that grok, the median step at which, and medians with an interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import CensoredData, binom, binomtest, ecdf

CONFIDENCE = 0.95


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The Wilson score interval of a share (Wilson 1927)."""
    found = binomtest(int(successes), int(n)).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def median_time(times: Sequence[float | None], lengths: Sequence[int]) -> float | None:
    """The median of times of which some are only known to lie beyond the length of their run (Kaplan and Meier 1958).

    Args:
        times: of each run, None where it never came.
        lengths: how long each run was watched.

    Returns:
        The first time by which more than half have come, as Kaplan and Meier's estimate has it; None where that is never seen.
    """
    seen = [time for time in times if time is not None]
    if not seen:
        return None
    unseen = [length for time, length in zip(times, lengths, strict=True) if time is None]
    waiting = ecdf(CensoredData(seen, right=unseen)).sf
    reached = waiting.quantiles[waiting.probabilities < 0.5 - 1e-9]
    return float(reached[0]) if len(reached) else None


def bootstrap_median(values: Sequence[float]) -> tuple[float, float]:
    """The percentile bootstrap interval of a median (Efron 1979).

    Nothing is drawn: how often each value would be the median of as many, drawn with replacement, is known. Values may be
    infinite. Up to six of them, the interval ends at the smallest and the largest.
    """
    ranked, n = sorted(values), len(values)
    drawn = np.arange(1, n + 1) / n  # the chance that one draw is among the first k values
    # The middle one of n draws is among them exactly if half of the draws are; of an even n there are two in the middle.
    low = binom.sf((n - 1) // 2, n, drawn) > (1 - CONFIDENCE) / 2
    high = binom.sf(n // 2, n, drawn) >= (1 + CONFIDENCE) / 2
    return ranked[int(low.argmax())], ranked[int(high.argmax())]
