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
    """Per-example -log StableMax, with the gradient written out; sums and the loss in fp64.

    With s(x) = exp(g(x)), that is 1 + x for x >= 0 and 1 / (1 - x) below, and r the sum of s over the wrong classes, the loss
    is log(1 + r / s_y). Its derivatives are s'(x_j) / (r + s_y) for a wrong class and -s'(x_y) r / (s_y (r + s_y)) for the
    right one. Since s' is 1 where s >= 1 and s^2 elsewhere, it is min(s, 1)^2: no exponential and no logarithm per logit. No
    term is a difference of near-equal numbers (1 - p of a confident model), so s itself keeps the logits' precision.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        index = targets.unsqueeze(-1)
        s = logits.clamp(max=0).neg_().add_(1).reciprocal_().add_(logits.clamp(min=0))
        right = s.gather(-1, index).double()
        wrong = s.scatter_(-1, index, 0).sum(-1, keepdim=True, dtype=torch.float64)
        ctx.save_for_backward(s, right, wrong, index)
        return torch.log1p(wrong / right).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        s, right, wrong, index = ctx.saved_tensors
        share = grad.unsqueeze(-1) / (wrong + right)
        slope = s.clamp(max=1).square_().mul_(share.to(s.dtype))
        return slope.scatter_(-1, index, (-share * right.clamp(max=1) ** 2 * wrong / right).to(s.dtype)), None


def stablemax_cross_entropy(logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
    """StableMax cross-entropy (paper eq. 1), fp64 whatever the logits' precision.

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
