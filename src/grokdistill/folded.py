"""The forward pass of a one-layer model without LayerNorm and its gradient, with all that can be done on tables done there.

Without LayerNorm the residual stream at a read position is a base, one per query, plus a sum of value rows weighted by
attention; so what the MLP's input and the unembedding make of it is the same sum of rows that have passed through both. These
tables are made once per update and have fewer rows than a batch has examples. Per example remain a weighted sum of table rows
(an `embedding_bag`) and one matrix product, from the hidden layer to the logits.

The gradient is written out: a few large operations instead of some hundred small ones. `tests/unit/test_engine.py` holds both
to the textbook model's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, embedding_bag

NAMES = (
    "embedding.weight",
    "position.weight",
    *(f"blocks.0.attention.{part}.weight" for part in ("query", "key", "value", "output")),
    *(f"blocks.0.mlp_{part}" for part in ("in.weight", "in.bias", "out.weight", "out.bias")),
    "unembedding.weight",
)


def logits(weights: dict[str, Tensor], a: Tensor, b: Tensor, query: Tensor, tokens: Tensor, heads: int) -> Tensor:
    """Logits [seeds, rows, numbers].

    Args:
        weights: the textbook model's parameters, stacked [seeds, ...].
        a, b: int64 [seeds, rows], numbers.
        query: int64 [seeds, rows]; 0 reads the operator position, i the modulus position with the i-th modulus.
        tokens: int64 [queries], the operator's token, then those of the moduli.
        heads: attention heads.
    """
    return _Folded.apply(a, b, query, tokens, heads, *(weights[name] for name in NAMES))


class _Folded(torch.autograd.Function):
    """`logits`. Shapes: s seeds, n rows, q queries, r table rows (numbers at either position, then queries), h heads."""

    @staticmethod
    def forward(
        ctx: Any, a: Tensor, b: Tensor, query: Tensor, tokens: Tensor, heads: int, embed: Tensor, position: Tensor,
        w_query: Tensor, w_key: Tensor, w_value: Tensor, w_output: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor,
        b_out: Tensor, unembed: Tensor,
    ) -> Tensor:  # fmt: skip
        seeds, rows = a.shape
        queries, numbers = len(tokens), 1 + max(int(a.max()), int(b.max()))  # only those that occur have rows
        first = 2 * numbers  # the operator's row, and the first of the queries'
        at_a, at_b = embed[:, :numbers] + position[:, 0:1], embed[:, :numbers] + position[:, 1:2]
        ends = position[:, [2] + [3] * (queries - 1)]
        table = torch.cat([at_a, at_b, embed[:, tokens] + ends], 1)
        keys, values = torch.bmm(table, w_key.mT), torch.bmm(table, w_value.mT)
        asked = torch.bmm(table[:, first:], w_query.mT) / math.sqrt(embed.shape[-1] // heads)
        scores = torch.matmul(_by_head(asked, heads), _by_head(keys, heads).mT)  # s h q r
        # A row attends to a, b, its own position and the operator's; at the operator's own they are one: a last, masked column.
        scores = torch.nn.functional.pad(scores.permute(0, 2, 3, 1), (0, 0, 0, 1), value=-math.inf)
        seen = torch.empty(seeds, rows, 4, dtype=torch.int64)
        seen[..., 0], seen[..., 1], seen[..., 2], seen[..., 3] = a, b + numbers, query + first, first
        places = seen[..., :3].clone()
        seen[..., 2].masked_fill_(query == 0, first + queries)
        lookup = (seen + (query * scores.shape[2]).unsqueeze(-1)).flatten(1)
        lookup += torch.arange(seeds).unsqueeze(1) * (queries * scores.shape[2])
        weight = embedding(lookup, scores.reshape(-1, heads)).view(seeds, rows, 4, heads).softmax(2)
        # The four weights sum to one: with values counted from the operator's, its weight drops out.
        origin = values[:, first : first + 1]
        base = torch.baddbmm(table[:, first:], origin.expand(-1, queries, -1), w_output.mT)
        by_head = _by_head(values - origin, heads)
        to_hidden, to_logits = (torch.bmm(matrix, w_output).mT.unflatten(1, (heads, -1)) for matrix in (w_in, unembed))
        hidden_table, logit_table = by_head @ to_hidden, by_head @ to_logits  # s h r d_mlp, s h r logits
        last = torch.bmm(unembed, w_out)
        # Table rows per example, over (attended, head).
        index = places.unsqueeze(-1) + (torch.arange(seeds * heads) * table.shape[1]).view(seeds, 1, 1, heads)
        index = index.view(seeds * rows, -1)
        shares = weight[:, :, :3].contiguous().view(seeds * rows, -1)
        at_base = (query + torch.arange(seeds).unsqueeze(1) * queries).flatten()

        def summed(part: Tensor, start: Tensor) -> Tensor:
            found = embedding_bag(index, part.flatten(0, 2), per_sample_weights=shares, mode="sum")
            return found.add_(embedding(at_base, start.flatten(0, 1))).unflatten(0, (seeds, rows))

        hidden = summed(hidden_table, (torch.bmm(base, w_in.mT) + b_in.unsqueeze(1)).contiguous()).relu_()
        plain = summed(logit_table, torch.bmm(base + b_out.unsqueeze(1), unembed.mT).contiguous())
        ctx.save_for_backward(
            tokens, table, keys, by_head, asked, lookup, weight, places, index, shares, at_base, base, hidden, hidden_table,
            logit_table, to_hidden, to_logits, last, w_query, w_key, w_value, w_output, w_in, w_out, b_out, unembed,
        )  # fmt: skip
        ctx.tokens = embed.shape[1]
        return torch.baddbmm(plain, hidden, last.mT)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (
            tokens, table, keys, by_head, asked, lookup, weight, places, index, shares, at_base, base, hidden, hidden_table,
            logit_table, to_hidden, to_logits, last, w_query, w_key, w_value, w_output, w_in, w_out, b_out, unembed,
        ) = ctx.saved_tensors  # fmt: skip
        (seeds, rows, _, heads), size = weight.shape, table.shape[1]
        queries, grad = len(tokens), grad.contiguous()
        first = size - queries
        numbers = first // 2
        # Through the one product per example.
        d_hidden = torch.bmm(grad, last)
        torch.ops.aten.threshold_backward.grad_input(d_hidden, hidden, 0, grad_input=d_hidden)
        d_last = torch.bmm(grad.mT, hidden)
        d_unembed, d_w_out = torch.bmm(d_last, w_out.mT), torch.bmm(unembed.mT, d_last)
        # Through the sums of table rows: to a row from the examples that attend to it, in the order of their places.
        entries = places.flatten(1)
        order = entries.argsort(dim=1, stable=True)
        seed = torch.arange(seeds).unsqueeze(1)
        count = torch.bincount((entries + seed * size).flatten(), minlength=seeds * size).view(seeds, 1, size)
        offsets = count.cumsum(2) - count + (torch.arange(seeds * heads) * entries.shape[1]).view(seeds, heads, 1)
        examples = (order // 3 + seed * rows).unsqueeze(1).expand(-1, heads, -1).flatten()
        attending = shares.view(seeds, -1, heads).gather(1, order.unsqueeze(-1).expand(-1, -1, heads)).transpose(1, 2).flatten()
        bags = torch.arange(seeds * rows)
        each = (index.flatten(), bags * index.shape[1], bags.repeat_interleave(index.shape[1]), 0)
        d_shares, d_tables, d_bases = 0, [], []
        for part, rows_of in ((d_hidden.flatten(0, 1), hidden_table), (grad.flatten(0, 1), logit_table)):
            to_rows = embedding_bag(examples, part, offsets.flatten(), per_sample_weights=attending, mode="sum")
            d_tables.append(to_rows.view_as(rows_of))
            d_shares += torch.ops.aten._embedding_bag_per_sample_weights_backward(part, rows_of.flatten(0, 2), *each)
            to_base = part.new_zeros(seeds * queries, part.shape[1]).index_add_(0, at_base, part)
            d_bases.append(to_base.view(seeds, queries, -1))
        # Through the tables and bases.
        d_w_in = torch.bmm(d_bases[0].mT, base)
        d_unembed.baddbmm_(d_bases[1].mT, base + b_out.unsqueeze(1))
        d_base = torch.bmm(d_bases[0], w_in)
        d_b_out = torch.bmm(d_bases[1].sum(1, keepdim=True), unembed).squeeze(1)
        d_base.baddbmm_(d_bases[1], unembed)
        d_by_head = d_tables[0] @ to_hidden.mT + d_tables[1] @ to_logits.mT
        d_values = d_by_head.transpose(1, 2).flatten(2)
        from_base = d_base.sum(1, keepdim=True)
        origin = torch.bmm(table[:, first : first + 1], w_value.mT)
        d_w_output = torch.bmm(from_base.mT, origin)
        for matrix, d_matrix, d_table in ((w_in, d_w_in, d_tables[0]), (unembed, d_unembed, d_tables[1])):
            d_product = (by_head.mT @ d_table).flatten(1, 2).mT  # of matrix @ w_output
            d_matrix.baddbmm_(d_product, w_output.mT)
            d_w_output.baddbmm_(matrix.mT, d_product)
        d_values[:, first] += torch.bmm(from_base, w_output).squeeze(1) - d_values.sum(1)
        # Through the attention weights and the scores.
        three, d_three = weight[:, :, :3], d_shares.view(seeds, rows, 3, heads)
        common = (three * d_three).sum(2, keepdim=True)
        d_found = torch.cat([three * (d_three - common), -weight[:, :, 3:] * common], 2)
        d_scores = d_found.new_zeros(seeds, queries, size + 1, heads)
        d_scores.view(-1, heads).index_add_(0, lookup.flatten(), d_found.view(-1, heads))
        d_scores = d_scores[:, :, :size].permute(0, 3, 1, 2)
        d_asked = (d_scores @ _by_head(keys, heads)).transpose(1, 2).flatten(2) / math.sqrt(table.shape[-1] // heads)
        d_keys = (d_scores.mT @ _by_head(asked, heads)).transpose(1, 2).flatten(2)
        d_table = torch.bmm(d_keys, w_key).baddbmm_(d_values, w_value)
        d_table[:, first:] += torch.bmm(d_asked, w_query) + d_base
        d_embed = d_table.new_zeros(seeds, ctx.tokens, d_table.shape[-1])
        torch.add(d_table[:, :numbers], d_table[:, numbers:first], out=d_embed[:, :numbers])
        d_embed[:, tokens] = d_table[:, first:]
        ends = (d_table[:, :numbers], d_table[:, numbers:first], d_table[:, first : first + 1], d_table[:, first + 1 :])
        d_position = torch.stack([end.sum(1) for end in ends], 1)
        d_w_query, d_w_key, d_w_value = (
            torch.bmm(out.mT, into) for out, into in ((d_asked, table[:, first:]), (d_keys, table), (d_values, table))
        )
        return (
            None, None, None, None, None, d_embed, d_position, d_w_query, d_w_key, d_w_value, d_w_output, d_w_in,
            d_bases[0].sum(1), d_w_out, d_b_out, d_unembed,
        )  # fmt: skip


def _by_head(x: Tensor, heads: int) -> Tensor:
    """[seeds, rows, d_model] as [seeds, heads, rows, d_model / heads]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)
