"""Forward passes for training: several seeds as one stacked model, computing only the positions that are read.

A *query* is one read position: the operator token at position 2, or one modulus token at position 3. With one layer, keys
and values at positions 0 and 1 depend on token and position alone, so they are tables over the numbers; the vector at a
read position is one per query. What remains per example is four attention weights per head, a sum of four value rows,
and the matrix products behind it. LayerNorm acts on one token at one position, so it keeps the tables.

Parameters are the textbook `Transformer`'s, by the same names, with a leading dimension for the seeds. Deeper models and
dropout go through the textbook model itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, layer_norm

from grokdistill.model import MODULUS_POSITION, OPERATOR_POSITION, Shape, Transformer

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Rows:
    """What to read: one row is a pair and a query.

    Attributes:
        a, b: int64 [seeds, rows], numbers.
        query: int64 [seeds, rows], index into the engine's queries.
    """

    a: Tensor
    b: Tensor
    query: Tensor

    def pick(self, index: Tensor) -> Rows:
        """The rows at `index` [seeds, n]."""
        return Rows(*(part.gather(1, index) for part in (self.a, self.b, self.query)))


class Engine:
    """Logits of stacked models at the queries of one operator.

    Args:
        shape: the models' shape.
        op: "add" or "sub".
        moduli: the primes whose modulus tokens may be read; query `1 + i` is the i-th, query 0 is the operator position.
    """

    OPERATOR = 0

    def __init__(self, shape: Shape, op: str, moduli: tuple[int, ...]) -> None:
        self.shape, self.moduli = shape, moduli
        self.op = shape.token(op)
        self.tokens = [shape.token(f"mod {prime}") for prime in moduli]
        self.factored = shape.n_layers == 1 and shape.dropout == 0
        with torch.device("meta"):
            self.textbook = Transformer(shape)

    def query(self, position: str, modulus: int) -> int:
        """The query that reads `position` ("operator" or "modulus") with the given modulus token."""
        return self.OPERATOR if position == "operator" else 1 + self.moduli.index(modulus)

    def logits(self, weights: Weights, rows: Rows, dropout_keys: list[int] | None = None) -> Tensor:
        """Logits [seeds, rows, numbers] of stacked weights [seeds, ...].

        `dropout_keys`, one per seed, switch dropout on; equal keys drop equal units, whatever ran before.
        """
        return self._factored(weights, rows) if self.factored else self._general(weights, rows, dropout_keys)

    def _factored(self, weights: Weights, rows: Rows) -> Tensor:
        shape = self.shape
        seeds, heads, numbers = rows.a.shape[0], shape.n_heads, shape.numbers
        width = shape.d_model // heads
        queries = 1 + len(self.tokens)
        embed, position = weights["embedding.weight"], weights["position.weight"]
        # The residual stream before the block: number tables at positions 0 and 1, one row per read position.
        read = torch.cat([embed[:, [self.op]] + position[:, 2:3], embed[:, self.tokens] + position[:, 3:4]], 1)
        table = torch.cat([embed[:, :numbers] + position[:, 0:1], embed[:, :numbers] + position[:, 1:2], read], 1)
        before = self._norm(weights, table, "blocks.0.norm_attention") if shape.norm == "before" else table
        keys = before @ weights["blocks.0.attention.key.weight"].mT
        values = before @ weights["blocks.0.attention.value.weight"].mT
        asked = before[:, -queries:] @ weights["blocks.0.attention.query.weight"].mT
        # Scores of every query against every table row: [seeds, queries, table, heads].
        split = (heads, width)
        scores = torch.einsum("sqhw,sthw->sqth", asked.unflatten(-1, split), keys.unflatten(-1, split)) / math.sqrt(width)
        at = torch.arange(seeds, device=rows.a.device)[:, None]
        own = at * queries + rows.query
        # The table rows that each example attends to: a's, b's, the operator's, and its own.
        op_row = 2 * numbers
        size = table.shape[1]
        operator = torch.full_like(rows.a, op_row)
        attended = torch.stack([rows.a, rows.b + numbers, operator, rows.query + op_row], -1)
        score = embedding(own[..., None] * size + attended, scores.reshape(-1, heads))  # [seeds, rows, 4, heads]
        # At the operator position, the operator's row is its own: it counts once.
        twice = _OWN.to(own.device) & (rows.query == self.OPERATOR)[..., None]
        weight = score.masked_fill(twice[..., None], -math.inf).softmax(-2)
        mixed = _Mix.apply(weight, attended + (at * size)[..., None], values)
        x = embedding(own, read.reshape(-1, shape.d_model))
        x = torch.baddbmm(x, mixed, weights["blocks.0.attention.output.weight"].mT)
        if shape.norm == "after":
            x = self._norm(weights, x, "blocks.0.norm_attention")
        inner = self._norm(weights, x, "blocks.0.norm_mlp") if shape.norm == "before" else x
        mlp = (weights[f"blocks.0.mlp_{part}"] for part in ("in.weight", "in.bias", "out.weight", "out.bias"))
        x = _ResidualMLP.apply(x, inner, *mlp)
        if shape.norm == "after":
            x = self._norm(weights, x, "blocks.0.norm_mlp")
        if shape.norm == "before":
            x = self._norm(weights, x, "norm_output")
        return torch.bmm(x, weights["unembedding.weight"].mT)

    @staticmethod
    def _norm(weights: Weights, x: Tensor, name: str) -> Tensor:
        """LayerNorm with each seed's own gain and bias, [seeds, rows, d]."""
        normal = layer_norm(x, x.shape[-1:])
        return normal * weights[f"{name}.weight"].unsqueeze(1) + weights[f"{name}.bias"].unsqueeze(1)

    def _general(self, weights: Weights, rows: Rows, dropout_keys: list[int] | None = None) -> Tensor:
        tokens = torch.tensor([self.op, *self.tokens], device=rows.a.device)
        # A row that reads the operator position never sees position 3: any token there gives the same logits.
        sequence = torch.stack([rows.a, rows.b, torch.full_like(rows.a, self.op), tokens[rows.query]], -1)
        self.textbook.train(dropout_keys is not None)
        logits = []
        for seed in range(len(sequence)):
            if dropout_keys is not None:
                torch.manual_seed(dropout_keys[seed])
            own = {name: value[seed] for name, value in weights.items()}
            logits.append(torch.func.functional_call(self.textbook, own, (sequence[seed],)))
        where = torch.where(rows.query == self.OPERATOR, OPERATOR_POSITION, MODULUS_POSITION)
        every = torch.stack(logits)
        return every.gather(2, where[..., None, None].expand(-1, -1, 1, every.shape[-1])).squeeze(2)


class _Mix(torch.autograd.Function):
    """Attention-weighted sum of table rows per head, with in-place arithmetic instead of a [rows, 4, d] intermediate.

    Args (of `apply`): weight [seeds, rows, 4, heads]; index int64 [seeds, rows, 4] into the flattened values; values
    [seeds, table, d]. Returns [seeds, rows, d].
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, index: Tensor, values: Tensor) -> Tensor:
        split = (weight.shape[-1], -1)
        flat = values.reshape(-1, values.shape[-1])
        mixed = None
        for part, weights in zip(index.unbind(-1), weight.unbind(-2), strict=True):
            term = embedding(part, flat).unflatten(-1, split)
            mixed = term.mul_(weights[..., None]) if mixed is None else mixed.addcmul_(term, weights[..., None])
        ctx.save_for_backward(weight, index, values)
        return mixed.flatten(-2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        weight, index, values = ctx.saved_tensors
        split = (weight.shape[-1], -1)
        flat = values.reshape(-1, values.shape[-1])
        grad_values = torch.zeros_like(flat)
        grad_heads = grad.unflatten(-1, split)
        grad_weight = torch.empty_like(weight)
        for place, (part, weights) in enumerate(zip(index.unbind(-1), weight.unbind(-2), strict=True)):
            term = embedding(part, flat).unflatten(-1, split).mul_(grad_heads)
            torch.sum(term, -1, out=grad_weight[:, :, place])
            torch.mul(grad_heads, weights[..., None], out=term)
            grad_values.index_add_(0, part.reshape(-1), term.reshape(-1, flat.shape[-1]))
        return grad_weight, None, grad_values.view_as(values)


class _ResidualMLP(torch.autograd.Function):
    """x + W2 relu(W1 inner + b1) + b2 per seed, with its gradient written out so that the hidden layer is masked in place.

    Args (of `apply`): x and inner [seeds, rows, d]; W1 [seeds, d_mlp, d], b1 [seeds, d_mlp], W2 [seeds, d, d_mlp], b2
    [seeds, d]. Returns [seeds, rows, d].
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, inner: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        hidden = torch.bmm(inner, w1.mT).add_(b1.unsqueeze(1)).relu_()
        ctx.save_for_backward(inner, w1, w2, hidden)
        return torch.bmm(hidden, w2.mT).add_(x).add_(b2.unsqueeze(1))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        inner, w1, w2, hidden = ctx.saved_tensors
        grad_hidden = torch.bmm(grad, w2)
        torch.ops.aten.threshold_backward.grad_input(grad_hidden, hidden, 0, grad_input=grad_hidden)
        grad_w1, grad_w2 = torch.bmm(grad_hidden.mT, inner), torch.bmm(grad.mT, hidden)
        return grad, torch.bmm(grad_hidden, w1), grad_w1, grad_hidden.sum(1), grad_w2, grad.sum(1)


_OWN = torch.tensor([False, False, False, True])


def stack(weights: list[Weights]) -> Weights:
    """One stacked model from several seeds' weights."""
    return {name: torch.stack([one[name] for one in weights]) for name in weights[0]}


def unstack(weights: Weights, place: int) -> Weights:
    """One seed's weights, detached, on the CPU, in memory of their own."""
    return {name: value[place].detach().cpu().clone() for name, value in weights.items()}
