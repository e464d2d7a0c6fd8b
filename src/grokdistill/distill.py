"""Soft targets: what a frozen teacher says about a training set, computed once (paper eq. 3).

Targets are distributions over the teacher's own answers, 0..p1-1: it never learned to say anything else.
"""

from __future__ import annotations

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
        temperature: of the student's side, one number or [seeds, 1, 1].
    """

    probabilities: Tensor
    entropy: Tensor
    covered: Tensor
    temperature: float | Tensor


def soften(logits: Tensor, reading: str, value: float) -> tuple[Tensor, float | Tensor]:
    """Teacher logits as probabilities, and the student's temperature.

    Args:
        logits: the teacher's own answers, [..., examples, classes].
        reading: "absolute" (softmax(f/t) on both sides, paper eq. 3), "relative" (logits standardised per example, then
            multiplied by `value`; the student at 1) or "matched" (as absolute, with the one t per teacher for which its
            targets' mean entropy over the examples is `value` nats).
        value: t, the scale, or nats.

    Raises:
        ValueError: where no temperature gives the entropy asked for.
    """
    if reading == "absolute":
        return torch.softmax(logits / value, -1), value
    if reading == "relative":
        centred = logits - logits.mean(-1, keepdim=True)
        return torch.softmax(value * centred / centred.std(-1, correction=0, keepdim=True).clamp_min(1e-12), -1), 1.0
    temperature = matched_temperature(logits, value)
    return torch.softmax(logits / temperature, -1), temperature


def matched_temperature(logits: Tensor, nats: float) -> Tensor:
    """Temperature per seed [..., 1, 1] at which softmax(logits / t) has the given mean entropy, by bisection of log t."""
    most = torch.log(torch.tensor(float(logits.shape[-1]))).item()
    if not 0 < nats < most:
        raise ValueError(f"a mean entropy of {nats} nats is out of reach: {logits.shape[-1]} answers have at most {most:.3f}")
    wide = logits.double()
    low = torch.full((*logits.shape[:-2], 1, 1), -30.0, dtype=torch.float64, device=logits.device)
    high = -low
    for _ in range(100):
        middle = (low + high) / 2
        softer = entropy(torch.softmax(wide / middle.exp(), -1)).mean(-1)[..., None, None] < nats
        low, high = torch.where(softer, middle, low), torch.where(softer, high, middle)
    return ((low + high) / 2).exp().to(logits.dtype)


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
    probabilities, temperature = soften(logits[..., :prime], reading, value)
    padded = torch.nn.functional.pad(probabilities, (0, logits.shape[-1] - prime))
    return Targets(padded, entropy(padded), covered, temperature)


def hard(answers: Tensor, covered: Tensor, numbers: int, dtype: torch.dtype) -> Targets:
    """The oracle's targets: all weight on the right answer [seeds, examples], without any model."""
    probabilities = torch.nn.functional.one_hot(answers, numbers).to(dtype)
    return Targets(probabilities, torch.zeros(answers.shape, dtype=dtype, device=answers.device), covered, 1.0)
