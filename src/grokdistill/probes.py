"""What is measured of the weights at every evaluation: their norm and the Fourier structure of the number embedding."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from grokdistill.engine import Weights


def weight_norm(weights: Weights, used: Tensor) -> Tensor:
    """L2 norm over all parameters per seed, [seeds] (paper A.1).

    Args:
        weights: stacked, [seeds, ...].
        used: bool [tokens], the tokens that occur in the run; the embedding rows of others are never read and would only
            decay, so they do not count.
    """
    total = 0.0
    for name, value in weights.items():
        value = value[:, used] if name == "embedding.weight" else value
        total = total + value.double().square().flatten(1).sum(1)
    return total.sqrt()


def fourier_gini(embedding: Tensor, prime: int, numbers: int) -> Tensor:
    """How concentrated the number embedding is over the frequencies of Z_prime: the Gini coefficient of its power, [seeds].

    Near 0 for random rows, towards 1 when few frequencies carry everything, as in a grokked model (Nanda et al. 2023 use
    the same coefficient as a progress measure).

    Args:
        embedding: stacked embedding, [seeds, tokens, d_model]; the first rows are the numbers.
        prime: whose Fourier basis; frequencies 1..(prime-1)/2.
        numbers: how many number tokens the run reads; rows beyond are not its own and are left out.
    """
    rows = embedding[:, : min(numbers, prime)].double()
    centred = rows - rows.mean(1, keepdim=True)
    number = torch.arange(rows.shape[1], dtype=torch.float64, device=rows.device)
    frequency = torch.arange(1, (prime - 1) // 2 + 1, dtype=torch.float64, device=rows.device)
    angle = 2 * math.pi / prime * torch.outer(frequency, number)
    power = ((angle.cos() @ centred).square() + (angle.sin() @ centred).square()).sum(-1).sort(-1).values
    count = power.shape[-1]
    rank = torch.arange(1, count + 1, dtype=power.dtype, device=power.device)
    return (2 * (rank * power).sum(-1) / power.sum(-1).clamp_min(1e-300) - (count + 1)) / count
