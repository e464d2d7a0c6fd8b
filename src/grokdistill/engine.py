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

    def logits(self, weights: Weights, rows: Rows, training: bool = False) -> Tensor:
        """Logits [seeds, rows, numbers] of stacked weights [seeds, ...]; `training` switches dropout on."""
        return self._factored(weights, rows) if self.factored else self._general(weights, rows, training)

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
        # The rows each example attends to: a's, b's, the operator's, and its own (masked where that is the operator).
        op_row = 2 * numbers
        attended = torch.stack(
            [rows.a, rows.b + numbers, torch.full_like(rows.a, op_row), rows.query + op_row], -1
        )  # [seeds, rows, 4]
        size = table.shape[1]
        at = torch.arange(seeds, device=rows.a.device)[:, None]
        flat = (at * queries + rows.query)[..., None] * size + attended
        score = embedding(flat, scores.reshape(-1, heads))  # [seeds, rows, 4, heads]
        score = score.masked_fill((_OWN.to(flat.device) & (rows.query == self.OPERATOR)[..., None])[..., None], -math.inf)
        weight = score.softmax(-2)
        value = embedding(attended + (at * size)[..., None], values.reshape(-1, shape.d_model))  # [seeds, rows, 4, d]
        mixed = (weight.unsqueeze(-1) * value.unflatten(-1, split)).sum(2).flatten(-2)  # [seeds, rows, d]
        x = embedding(at * queries + rows.query, read.reshape(-1, shape.d_model))
        x = torch.baddbmm(x, mixed, weights["blocks.0.attention.output.weight"].mT)
        if shape.norm == "after":
            x = self._norm(weights, x, "blocks.0.norm_attention")
        inner = self._norm(weights, x, "blocks.0.norm_mlp") if shape.norm == "before" else x
        hidden = torch.baddbmm(
            weights["blocks.0.mlp_in.bias"].unsqueeze(1), inner, weights["blocks.0.mlp_in.weight"].mT
        ).relu_()
        x = torch.baddbmm(x + weights["blocks.0.mlp_out.bias"].unsqueeze(1), hidden, weights["blocks.0.mlp_out.weight"].mT)
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

    def _general(self, weights: Weights, rows: Rows, training: bool) -> Tensor:
        tokens = torch.tensor([self.op, *self.tokens], device=rows.a.device)
        at_operator = rows.query == self.OPERATOR
        # A row that reads the operator position never sees position 3: any token there gives the same logits.
        sequence = torch.stack([rows.a, rows.b, torch.full_like(rows.a, self.op), tokens[rows.query]], -1)
        self.textbook.train(training)

        def one(parameters: Weights, tokens: Tensor) -> Tensor:
            return torch.func.functional_call(self.textbook, parameters, (tokens,))

        logits = torch.func.vmap(one, randomness="different")(weights, sequence)
        where = torch.where(at_operator, OPERATOR_POSITION, MODULUS_POSITION)
        return logits.gather(2, where[..., None, None].expand(-1, -1, 1, logits.shape[-1])).squeeze(2)


_OWN = torch.tensor([False, False, False, True])


def stack(weights: list[Weights]) -> Weights:
    """One stacked model from several seeds' weights."""
    return {name: torch.stack([one[name] for one in weights]) for name in weights[0]}


def unstack(weights: Weights, place: int) -> Weights:
    """One seed's weights, detached, on the CPU, in memory of their own."""
    return {name: value[place].detach().cpu().clone() for name, value in weights.items()}
