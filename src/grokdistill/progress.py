"""Live progress of a training job: one line that rewrites itself on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from grokdistill.train import Outcome, Progress

CLEAR = "\r\x1b[K"
PLAIN_EVERY = 10.0  # seconds between lines where the output is not a terminal, or not one job's alone


def duration(seconds: float) -> str:
    """A duration as people read it: 42s, 3m05s, 2h07m."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours}h{minutes_left:02d}m" if hours else f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def span(values: list[float]) -> str:
    """One accuracy, or the range over seeds."""
    low, high = min(values), max(values)
    return f"{low:.3f}" if high - low < 5e-4 else f"{low:.3f}-{high:.3f}"


class Reporter:
    """Prints where a job stands, `among` several at a time: step, rate, time left, train and test accuracy."""

    def __init__(self, cell: str, seeds: list[int], stream: TextIO | None = None, among: int = 1) -> None:
        self.stream = stream or sys.stderr
        self.cell, self.title = cell, f"{cell} seed{'s' if len(seeds) > 1 else ''} {','.join(map(str, seeds))}"
        self.live, self.every = among == 1 and self.stream.isatty(), among * PLAIN_EVERY
        self.shown = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if not self.live and now - self.shown < self.every and progress.step != progress.steps:
            return
        self.shown = now
        rate = (progress.step - progress.since) / max(progress.seconds, 1e-9)
        line = (
            f"{self.title}: step {progress.step:,}/{progress.steps:,}, {rate:.0f} steps/s, "
            f"{duration((progress.steps - progress.step) / rate)} left, "
            f"train {span(progress.train_acc)}, test {span(progress.test_acc)}"
        )
        self.stream.write(f"{CLEAR}{line}" if self.live else f"{line}\n")
        self.stream.flush()

    def note(self, text: str) -> None:
        """A line beside the progress."""
        self.stream.write(f"{CLEAR if self.live else ''}{self.title}: {text}\n")
        self.stream.flush()

    def ended(self, seed: int, outcome: Outcome, seconds: float) -> None:
        """What came of a seed."""
        curve, clear = outcome.curve, CLEAR if self.live else ""
        if outcome.diverged:
            state = (
                f"DIVERGED at step {outcome.diverged:,}: the loss or a gradient is not finite there; what is kept of it ends "
                f"before. {duration(seconds)}"
            )
        else:
            state = f"{curve['step'][-1]:,} steps in {duration(seconds)}"
        p1 = f", p1 {curve['p1_acc'][-1]:.3f}" if "p1_acc" in curve else ""
        self.stream.write(f"{clear}{self.cell} seed {seed}: {state}, test {curve['test_acc'][-1]:.3f}{p1}\n")
        self.stream.flush()
