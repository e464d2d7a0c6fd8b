"""Forward passes for training: several seeds as one stacked model, computing only the positions that are read.

A *query* is one read position: the operator token at position 2, or one modulus token at position 3. With one layer, keys
and values at positions 0 and 1 depend on token and position alone, so they are tables over the numbers; the vector at a
read position is one per query. What remains per example is the attention weights, a weighted sum of value rows, and the
matrix products behind it. LayerNorm acts on one token at one position, so it keeps the tables; without it, large batches on
a CPU take those products on the tables, too (`grokdistill.folded`).

Parameters are the textbook `Transformer`'s, by the same names, with a leading dimension for the seeds. Deeper models and
dropout go through the textbook model itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, layer_norm, one_hot

from grokdistill import folded
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


@dataclass(frozen=True)
class _Attended:
    """What attention makes of the rows: a base per query and weighted value rows.

    Attributes:
        base: [seeds, queries, d_model], the residual stream at the read position without those.
        values: [seeds, places, d_model].
        weight: [seeds, rows, attended, heads].
        places: int64 [seeds, rows, attended].
    """

    base: Tensor
    values: Tensor
    weight: Tensor
    places: Tensor


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
        self.read = torch.tensor([self.op, *self.tokens])
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
        if not self.factored:
            return self._general(weights, rows, dropout_keys)
        if self.folds(rows):
            return folded.logits(weights, rows.a, rows.b, rows.query, self.read, self.shape.n_heads)
        return self._factored(weights, rows)

    def folds(self, rows: Rows) -> bool:
        """Whether `folded` is used: without LayerNorm, on a CPU (good at sums of rows), for more examples than table rows."""
        table_rows = self.shape.n_heads * (2 * self.shape.numbers + len(self.read))
        return self.factored and self.shape.norm == "none" and not rows.a.is_cuda and rows.a.shape[1] > table_rows

    def _attend(self, weights: Weights, rows: Rows) -> _Attended:
        """Attention of every row, up to the sum of value rows that it stands for."""
        shape = self.shape
        heads, numbers = shape.n_heads, shape.numbers
        split = (heads, shape.d_model // heads)
        queries = 1 + len(self.tokens)
        embed, position = weights["embedding.weight"], weights["position.weight"]
        # The residual stream before the block: number tables at positions 0 and 1, one row per read position.
        moduli = torch.cat([embed[:, token : token + 1] for token in self.tokens], 1) + position[:, 3:4]
        read = torch.cat([embed[:, self.op : self.op + 1] + position[:, 2:3], moduli], 1)
        table = torch.cat([embed[:, :numbers] + position[:, 0:1], embed[:, :numbers] + position[:, 1:2], read], 1)
        before = self._norm(weights, table, "blocks.0.norm_attention") if shape.norm == "before" else table
        keys = before @ weights["blocks.0.attention.key.weight"].mT
        values = before @ weights["blocks.0.attention.value.weight"].mT
        asked = before[:, -queries:] @ weights["blocks.0.attention.query.weight"].mT
        # Scores of every query against every table row.
        scores = torch.einsum("sqhw,sthw->sqth", asked.unflatten(-1, split), keys.unflatten(-1, split)) / math.sqrt(split[1])
        operator = 2 * numbers
        on_a, on_b = (scores[:, :, start : start + numbers].flatten(1, 2) for start in (0, numbers))
        # A row attends to a, b, its own position and the operator's; at the operator's own they are one, which counts once.
        own = scores[:, :, operator:].diagonal(0, 1, 2).mT
        own = torch.cat([torch.full_like(own[:, :1], -math.inf), own[:, 1:]], 1)
        number = rows.query * numbers
        found = ((on_a, number + rows.a), (on_b, number + rows.b), (own, rows.query), (scores[:, :, operator], rows.query))
        weight = torch.stack([_Lookup.apply(table_of, at) for table_of, at in found], 2).softmax(2)[:, :, :3]
        places = torch.stack([rows.a, rows.b + numbers, rows.query + operator], -1)
        # The four weights sum to one: count values from the operator's, and its own weight drops out.
        origin = values[:, operator : operator + 1]
        base = read + origin @ weights["blocks.0.attention.output.weight"].mT
        return _Attended(base, values - origin, weight, places)

    def _factored(self, weights: Weights, rows: Rows) -> Tensor:
        """One product per matrix of the model, on the read positions alone."""
        norm, found = self.shape.norm, self._attend(weights, rows)
        mixed = _Mix.apply(found.weight, found.values, found.places)
        x = _Lookup.apply(found.base, rows.query)
        x = torch.baddbmm(x, mixed, weights["blocks.0.attention.output.weight"].mT)
        if norm == "after":
            x = self._norm(weights, x, "blocks.0.norm_attention")
        inner = self._norm(weights, x, "blocks.0.norm_mlp") if norm == "before" else x
        mlp = (weights[f"blocks.0.mlp_{part}"] for part in ("in.weight", "in.bias", "out.weight", "out.bias"))
        x = _ResidualMLP.apply(x, inner, *mlp)
        if norm == "after":
            x = self._norm(weights, x, "blocks.0.norm_mlp")
        if norm == "before":
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


def gather_rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows [seeds, n, d] of a table [seeds, size, d] at `index` [seeds, n]."""
    first = torch.arange(table.shape[0], device=table.device)[:, None] * table.shape[1]
    return embedding(index + first, table.contiguous().flatten(0, 1))  # rows that are not contiguous are 40 times slower


def add_rows(index: Tensor, rows: Tensor, size: int) -> Tensor:
    """The gradient of `gather_rows`: rows [seeds, n, d] summed by `index` [seeds, n] into [seeds, size, d]."""
    if rows.is_cuda:
        return one_hot_sum(index, rows, size)
    total = rows.new_zeros(rows.shape[0] * size, rows.shape[-1])
    first = torch.arange(rows.shape[0])[:, None] * size
    return total.index_add_(0, (index + first).flatten(), rows.flatten(0, 1)).unflatten(0, (-1, size))


def one_hot_sum(index: Tensor, rows: Tensor, size: int) -> Tensor:
    """`add_rows` as a matrix product: on a GPU, a sum by index adds in an order that changes from run to run."""
    return one_hot(index, size).to(rows.dtype).mT @ rows


class _Lookup(torch.autograd.Function):
    """`gather_rows`, with `add_rows` as its gradient."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.size = table.shape[1]
        return gather_rows(table, index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return add_rows(*ctx.saved_tensors, grad, ctx.size), None


class _Mix(torch.autograd.Function):
    """Attention-weighted sum of table rows per head, with in-place arithmetic instead of a [rows, attended, d] intermediate.

    Args (of `apply`): weight [seeds, rows, attended, heads]; table [seeds, size, d]; places in it, int64 [seeds, rows,
    attended]. Returns [seeds, rows, d].
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, table: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(weight, table, places)
        split, mixed = (weight.shape[-1], -1), None
        for at, part in zip(places.unbind(2), weight.unbind(2), strict=True):
            term, by = gather_rows(table, at).unflatten(-1, split), part.unsqueeze(-1)
            mixed = term.mul_(by) if mixed is None else mixed.addcmul_(term, by)
        return mixed.flatten(-2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, table, places = ctx.saved_tensors
        grad = grad.unflatten(-1, (weight.shape[-1], -1))
        grad_weight, grad_table = torch.empty_like(weight), None
        for at, part, grad_part in zip(places.unbind(2), weight.unbind(2), grad_weight.unbind(2), strict=True):
            term = gather_rows(table, at).view_as(grad).mul_(grad)
            torch.sum(term, -1, out=grad_part)
            added = add_rows(at, torch.mul(grad, part.unsqueeze(-1), out=term).flatten(-2), table.shape[1])
            grad_table = added if grad_table is None else grad_table.add_(added)
        return grad_weight, grad_table, None


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


def stack(weights: list[Weights]) -> Weights:
    """One stacked model from several seeds' weights."""
    return {name: torch.stack([one[name] for one in weights]) for name in weights[0]}


def unstack(weights: Weights, place: int) -> Weights:
    """One seed's weights, detached, on the CPU, in memory of their own."""
    return {name: value[place].detach().cpu().clone() for name, value in weights.items()}
