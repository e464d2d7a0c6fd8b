"""Modular arithmetic datasets: all pairs of a prime, both operators, one nested order of the pairs per seed.

Source: paper §3. An example is `(a op b) mod P` for a, b in 0..P-1; pair number `i` is `(i // P, i % P)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from grokdistill.batches import generator

if TYPE_CHECKING:
    from numpy.typing import NDArray

OPERATORS = ("add", "sub")


def pairs(prime: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of a prime: two int64 arrays [p*p], a and b."""
    number = np.arange(prime * prime)
    return number // prime, number % prime


def answers(a: NDArray[np.int64], b: NDArray[np.int64], op: str, prime: int) -> NDArray[np.int64]:
    """`(a op b) mod prime`, in 0..prime-1, same shape as `a`."""
    return (a + b if op == "add" else a - b) % prime


def train_size(prime: int, fraction: float) -> int:
    """Training pairs at a fraction f of a prime's pairs: floor(f*p*p), guarded against 0.29 * 100 = 28.999999999999996."""
    return int(fraction * prime * prime + 1e-9)


def order(prime: int, seed: int) -> NDArray[np.int64]:
    """One random order of the pairs' numbers, int64 [p*p]; a prefix of it is a training set, so smaller sets are nested."""
    return generator(seed, "split", prime).permutation(prime * prime)


@dataclass(frozen=True)
class Dataset:
    """One prime's pairs, answers and split order.

    Attributes:
        prime: the modulus.
        a, b: int64 [p*p], the pairs by their number.
        answers: operator -> int64 [p*p].
        order: int64 [p*p], the pairs' numbers in the seed's random order.
    """

    prime: int
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    answers: dict[str, NDArray[np.int64]]
    order: NDArray[np.int64]

    def training(self, fraction: float) -> NDArray[np.int64]:
        """Numbers of the training pairs at a fraction: the head of the order. The rest is the test set."""
        return self.order[: train_size(self.prime, fraction)]

    def inside(self, fraction: float) -> NDArray[np.bool_]:
        """bool [p*p]: which pairs are in the training set at a fraction."""
        mask = np.zeros(len(self.a), bool)
        mask[self.training(fraction)] = True
        return mask

    def same_answer(self, op: str, other: int) -> NDArray[np.bool_]:
        """bool [p*p]: which pairs have the same answer under another modulus."""
        return self.answers[op] == answers(self.a, self.b, op, other)

    def covered(self, other: int) -> NDArray[np.bool_]:
        """bool [p*p]: which pairs are also pairs of another modulus (both numbers below it)."""
        return (self.a < other) & (self.b < other)


def generate(prime: int, seed: int) -> Dataset:
    """The dataset of one prime and split seed."""
    a, b = pairs(prime)
    return Dataset(prime, a, b, {op: answers(a, b, op, prime) for op in OPERATORS}, order(prime, seed))
