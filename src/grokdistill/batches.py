"""The order in which training examples are seen: a pure function of seed and step, the same on every machine."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def generator(*key: object) -> np.random.Generator:
    """A generator for one purpose, such as `generator(seed, "batches", epoch)`; equal keys give equal streams."""
    digest = hashlib.sha256("\0".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


def batches_per_epoch(examples: int, batch_size: int, short: str) -> int:
    """Updates in one pass over the examples; a set smaller than a batch makes one batch of itself.

    With `short="full"` epochs run into each other, and this is the rounded-up number of batches that start in one.
    """
    if short == "drop":
        return max(1, examples // batch_size)
    return -(-examples // batch_size)


def updates(epochs: int, examples: int, batch_size: int, short: str) -> int:
    """Updates in a number of passes over the examples."""
    if short == "full":
        return -(-epochs * examples // min(batch_size, examples))
    return epochs * batches_per_epoch(examples, batch_size, short)


class Batches:
    """Batches of one pool of examples, reshuffled every epoch.

    Args:
        examples: size of the pool.
        batch_size: examples per update; a smaller pool is one batch.
        short: the short last batch: "keep" it, "drop" it, or make it "full" from the next epoch.
        seed: seed of the run.
        purpose: names the stream, so that two pools of one run are shuffled independently.
    """

    def __init__(self, examples: int, batch_size: int, short: str, seed: int, purpose: str = "batches") -> None:
        self.examples, self.batch_size = examples, min(batch_size, examples)
        self.short, self.seed, self.purpose = short, seed, purpose
        self.per_epoch = batches_per_epoch(examples, self.batch_size, short)
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __call__(self, step: int) -> NDArray[np.int64]:
        """Indices of the examples of update `step` (from 0), int64 [batch]."""
        if self.short == "full":
            start = step * self.batch_size
            epoch, offset = divmod(start, self.examples)
            head = self.order(epoch)[offset : offset + self.batch_size]
            missing = self.batch_size - len(head)
            return np.concatenate([head, self.order(epoch + 1)[:missing]]) if missing else head
        epoch, place = divmod(step, self.per_epoch)
        return self.order(epoch)[place * self.batch_size : (place + 1) * self.batch_size]

    def order(self, epoch: int) -> NDArray[np.int64]:
        """The epoch's random order of the pool, int64 [examples]."""
        if epoch != self._epoch:
            self._epoch, self._order = epoch, generator(self.seed, self.purpose, epoch).permutation(self.examples)
        return self._order
