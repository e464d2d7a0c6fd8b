"""Soft targets: what a frozen teacher says about a training set, computed once (paper eq. 3).

Targets are distributions over the teacher's own answers, 0..p1-1: it never learned to say anything else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from grokdistill.engine import Engine, Rows
from grokdistill.losses import entropy

if TYPE_CHECKING:
    from grokdistill.engine import Weights

CHUNK = 8192


@dataclass(frozen=True)
class Targets:
    """Soft targets of a pool of examples.

    Attributes:
        probabilities: [seeds, examples, numbers], zero beyond the teacher's numbers.
        entropy: nats, [seeds, examples].
        covered: bool [seeds, examples], whether the teacher knows both numbers; elsewhere there is no KL.
        temperature: of the student's side, [seeds, examples].
    """

    probabilities: Tensor
    entropy: Tensor
    covered: Tensor
    temperature: Tensor


def soften(logits: Tensor, covered: Tensor, reading: str, value: float) -> tuple[Tensor, Tensor]:
    """Teacher logits as probabilities, and the student's temperature per example.

    Args:
        logits: the teacher's own answers, [seeds, examples, classes].
        covered: bool [seeds, examples], the examples that count for a mean entropy.
        reading: "absolute" (softmax(f/t) on both sides, paper eq. 3), "relative" (logits standardised per example, then
            multiplied by `value`; the student at 1) or "matched" (as relative, with the one scale per
            teacher for which its targets' mean entropy over the covered examples is `value` nats).
        value: t, the scale, or nats.

    Raises:
        ValueError: where no temperature gives the entropy asked for.
    """
    if reading == "absolute":
        return torch.softmax(logits / value, -1), torch.full_like(logits[..., 0], value)
    centred = logits - logits.mean(-1, keepdim=True)
    standard = centred / centred.std(-1, correction=0, keepdim=True).clamp_min(1e-12)
    scaled = value * standard if reading == "relative" else standard / matched_temperature(standard, covered, value)
    return torch.softmax(scaled, -1), torch.ones_like(logits[..., 0])


def matched_temperature(logits: Tensor, covered: Tensor, nats: float) -> Tensor:
    """Temperature per seed [seeds, 1, 1] at which softmax(logits / t) has the given mean entropy over the covered examples,
    by bisection of log t.

    Raises:
        ValueError: where no temperature gives it.
    """

    def mean_entropy(log_t: Tensor) -> Tensor:
        each = entropy(torch.softmax(wide / log_t.exp(), -1))
        return ((each * covered).sum(-1) / covered.sum(-1))[:, None, None]

    wide = logits.double()
    low = torch.full((len(logits), 1, 1), -30.0, dtype=torch.float64, device=logits.device)
    high = -low
    for _ in range(100):
        middle = (low + high) / 2
        softer = mean_entropy(middle) < nats
        low, high = torch.where(softer, middle, low), torch.where(softer, high, middle)
    found = (low + high) / 2
    if nats <= 0 or not torch.allclose(mean_entropy(found), torch.full_like(found, nats), atol=1e-6, rtol=0):
        raise ValueError(
            f"no temperature gives the targets a mean entropy of {nats} nats: {logits.shape[-1]} answers have at most "
            f"{math.log(logits.shape[-1]):.3f}, and these {mean_entropy(low).min():.3f} to {mean_entropy(high).max():.3f}"
        )
    return found.exp().to(logits.dtype)


@torch.no_grad()
def teach(engine: Engine, weights: Weights, rows: Rows, prime: int, reading: str, value: float) -> Targets:
    """A teacher's targets for a pool of examples.

    Args:
        engine: of the teacher's shape, with the queries that `rows` name.
        weights: stacked teacher weights.
        rows: the pool, [seeds, examples].
        prime: the teacher's modulus; it knows the numbers below.
    """
    covered = (rows.a < prime) & (rows.b < prime)
    parts = (Rows(*part) for part in zip(*(tensor.split(CHUNK, 1) for tensor in (rows.a, rows.b, rows.query)), strict=True))
    logits = torch.cat([engine.logits(weights, part) for part in parts], 1)
    probabilities, temperature = soften(logits[..., :prime], covered, reading, value)
    padded = torch.nn.functional.pad(probabilities, (0, logits.shape[-1] - prime))
    return Targets(padded, entropy(padded), covered, temperature)


def hard(answers: Tensor, covered: Tensor, numbers: int, dtype: torch.dtype) -> Targets:
    """The oracle's targets: all weight on the right answer [seeds, examples], without any model."""
    probabilities = torch.nn.functional.one_hot(answers, numbers).to(dtype)
    zeros = torch.zeros(answers.shape, dtype=dtype, device=answers.device)
    return Targets(probabilities, zeros, covered, torch.ones_like(zeros))
