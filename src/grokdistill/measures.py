"""When a run memorized and when it grokked, from its curve."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def grokking_time(steps: Sequence[int], accuracy: Sequence[float], threshold: float = 0.95, hold: int = 500) -> int | None:
    """First step from which test accuracy stays at or above the threshold for `hold` steps.

    Args:
        steps: increasing evaluation steps, in optimizer updates.
        accuracy: test accuracy at those steps, in 0..1.
        threshold: accuracy that counts as grokked.
        hold: updates for which it must not fall below; 0 asks for the first crossing alone.

    Returns:
        The step, or None where the run is censored: it never held the threshold long enough within its length.
    """
    steps, above = np.asarray(steps), np.asarray(accuracy) >= threshold
    start = None
    for step, good in zip(steps.tolist(), above.tolist(), strict=True):
        if not good:
            start = None
        elif start is None:
            start = step
        if start is not None and step - start >= hold:
            return start
    return None


def first_reached(steps: Sequence[int], accuracy: Sequence[float], threshold: float) -> int | None:
    """First step with accuracy at or above the threshold (t_mem, on the training set), or None."""
    reached = np.flatnonzero(np.asarray(accuracy) >= threshold)
    return int(np.asarray(steps)[reached[0]]) if len(reached) else None
