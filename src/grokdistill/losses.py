"""Losses: StableMax and softmax cross-entropy (paper eq. 1 and 2), and distillation (paper eq. 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def log_stablemax(logits: Tensor, dim: int = -1) -> Tensor:
    """Logarithm of StableMax along `dim`: log-softmax of g(x) = sign(x) log(1 + |x|) (paper eq. 2).

    Finite, with finite gradients, for every finite logit (any floating dtype and shape; the shape is kept).
    """
    g = torch.where(logits >= 0, torch.log1p(logits.clamp_min(0)), -torch.log1p(-logits.clamp_max(0)))
    return torch.log_softmax(g, dim)


class _StableMaxCrossEntropy(torch.autograd.Function):
    """Per-example -log StableMax in fp64, with the gradient written out.

    With s(x) = exp(g(x)), that is 1 + x for x >= 0 and 1 / (1 - x) below, the loss is log sum_j s(x_j) - g(x_y). Its
    derivative is s'(x_j) / sum s - [j = y] / (1 + |x_y|). Since s' is 1 where s >= 1 and s^2 elsewhere, it is min(s, 1)^2: no
    exponential and no logarithm per logit, and no division by anything smaller than 1.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        x = logits.to(torch.float64, copy=True)
        index = targets.unsqueeze(-1)
        picked = x.gather(-1, index).squeeze(-1)
        s = x.clamp(max=0).neg_().add_(1).reciprocal_().add_(x.clamp_(min=0))
        total = s.sum(-1)
        ctx.save_for_backward(s, total, index, picked)
        ctx.dtype = logits.dtype
        return total.log() - torch.sign(picked) * torch.log1p(picked.abs())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        s, total, index, picked = ctx.saved_tensors
        slope = s.clamp(max=1).square_().mul_((grad / total).unsqueeze(-1))
        slope.scatter_add_(-1, index, (-grad / (1 + picked.abs())).unsqueeze(-1))
        return slope.to(ctx.dtype), None


def stablemax_cross_entropy(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """StableMax cross-entropy (paper eq. 1), computed in fp64.

    Args:
        logits: floating [..., classes].
        targets: int64 [...], the right class.
        reduction: "mean" for a scalar, "none" for [...].
    """
    losses = _StableMaxCrossEntropy.apply(logits, targets)
    return losses.mean() if reduction == "mean" else losses


def softmax_cross_entropy(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """Plain softmax cross-entropy in the logits' own precision (the comparison of paper §3); arguments as above."""
    classes = logits.shape[-1]
    losses = torch.nn.functional.cross_entropy(logits.reshape(-1, classes), targets.reshape(-1), reduction="none")
    return losses.mean() if reduction == "mean" else losses.view(targets.shape)


CROSS_ENTROPY = {"stablemax": stablemax_cross_entropy, "softmax": softmax_cross_entropy}


def kl_to_targets(logits: Tensor, targets: Tensor, entropy: Tensor, temperature: Tensor) -> Tensor:
    """KL(targets || softmax(logits / temperature)) per example (paper eq. 3).

    Args:
        logits: the student's, [..., classes].
        targets: the teacher's probabilities, [..., classes], rows summing to 1.
        entropy: the targets' entropy in nats, [...].
        temperature: t > 0 on the student's side, [...].
    """
    log_q = torch.log_softmax(logits / temperature.unsqueeze(-1), -1)
    return -(targets * log_q).sum(-1) - entropy


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy in nats along the last dimension."""
    return -torch.special.xlogy(probabilities, probabilities).sum(-1)


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Mean KL(q_T || q_S) of outputs softened by the same temperature (paper eq. 3).

    Args:
        student_logits, teacher_logits: [..., classes].
        temperature: t > 0; larger is softer.
    """
    targets = torch.softmax(teacher_logits / temperature, -1)
    return kl_to_targets(student_logits, targets, entropy(targets), torch.full_like(targets[..., 0], temperature)).mean()
