"""The textbook decoder-only transformer, its vocabulary, and its initial weights.

This is the reference: the full sequence `[a, b, @, P]` through causal attention, logits at every position. Training uses
the same parameters through `grokdistill.engine`, which computes only what is read.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from grokdistill.config import RunConfig

OPERATOR_POSITION = 2
MODULUS_POSITION = 3
SEQUENCE = 4


def _primes(limit: int) -> list[int]:
    return [n for n in range(2, limit + 1) if all(n % k for k in range(2, int(n**0.5) + 1))]


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; a checkpoint's header carries them.

    The vocabulary is fixed by `numbers`: the number tokens, one token per operator, one per prime up to `numbers`.
    """

    numbers: int = 128
    d_model: int = 128
    n_heads: int = 4
    d_mlp: int = 512
    n_layers: int = 1
    norm: str = "none"
    dropout: float = 0.0
    init_scale: float = 1.0

    @classmethod
    def of(cls, config: RunConfig) -> Shape:
        """The shape that a run's configuration asks for."""
        return cls(**{name: getattr(config, name) for name in cls.__dataclass_fields__})

    @property
    def vocabulary(self) -> list[str]:
        """Names of the tokens in the order of their numbers: "0", ..., "add", "sub", "mod 2", "mod 3", ..."""
        return [*map(str, range(self.numbers)), "add", "sub", *(f"mod {prime}" for prime in _primes(self.numbers))]

    def token(self, name: str) -> int:
        """A token's number from its name."""
        return self.vocabulary.index(name)


class Attention(nn.Module):
    """Causal multi-head attention without biases."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.n_heads
        for name in ("query", "key", "value", "output"):
            setattr(self, name, nn.Linear(shape.d_model, shape.d_model, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(-3, -2) for part in (self.query, self.key, self.value))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(mixed.transpose(-3, -2).flatten(-2))


class Block(nn.Module):
    """Attention and a ReLU MLP, each added to the residual stream, with LayerNorm before, after or nowhere."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm = shape.norm
        self.attention = Attention(shape)
        self.mlp_in = nn.Linear(shape.d_model, shape.d_mlp)
        self.mlp_out = nn.Linear(shape.d_mlp, shape.d_model)
        self.dropout = nn.Dropout(shape.dropout)
        if shape.norm != "none":
            self.norm_attention = nn.LayerNorm(shape.d_model)
            self.norm_mlp = nn.LayerNorm(shape.d_model)

    def forward(self, x: Tensor) -> Tensor:
        before, after = self.norm == "before", self.norm == "after"
        x = x + self.dropout(self.attention(self.norm_attention(x) if before else x))
        x = self.norm_attention(x) if after else x
        hidden = torch.relu(self.mlp_in(self.norm_mlp(x) if before else x))
        x = x + self.dropout(self.mlp_out(hidden))
        return self.norm_mlp(x) if after else x


class Transformer(nn.Module):
    """Decoder-only transformer with learned positions and separate embedding and unembedding (paper §3; sizes assumed)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(len(shape.vocabulary), shape.d_model)
        self.position = nn.Embedding(SEQUENCE, shape.d_model)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.n_layers))
        if shape.norm == "before":
            self.norm_output = nn.LayerNorm(shape.d_model)
        self.unembedding = nn.Linear(shape.d_model, shape.numbers, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [..., sequence, numbers] at every position, from int64 tokens [..., sequence], sequence at most 4."""
        x = self.embedding(tokens) + self.position.weight[: tokens.shape[-1]]
        for block in self.blocks:
            x = block(x)
        return self.unembedding(self.norm_output(x) if self.shape.norm == "before" else x)


def initial_weights(shape: Shape, seed: int, role: str = "") -> dict[str, Tensor]:
    """Initial parameters by name, fp32 on the CPU, the same on every machine up to rounding.

    Matrices are normal with standard deviation `init_scale / sqrt(d_model)` (the unembedding: over sqrt(numbers)), biases
    zero, LayerNorm one and zero; the scheme of Nanda et al. 2023. Each matrix has a generator of its own, keyed by the seed
    and its name, and each token and each logit by the seed and the token alone, so that nothing depends on what else a
    vocabulary or a model holds. Models of one seed, shape and `role` begin alike, as a baseline and the student beside it;
    another role draws other weights, as a student's that shall not begin where its teacher did.
    """
    deviation = shape.init_scale / math.sqrt(shape.d_model)

    def normal(size: tuple[int, ...], *key: object) -> Tensor:
        digest = hashlib.sha256("\0".join(map(str, (seed, "weights", *filter(None, [role]), *key))).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        return torch.randn(size, generator=generator)

    weights = {}
    with torch.device("meta"):
        template = Transformer(shape)
    for name, parameter in template.named_parameters():
        if name == "embedding.weight":
            rows = [normal((shape.d_model,), "token", token) for token in shape.vocabulary]
            weights[name] = torch.stack(rows) * deviation
        elif name == "unembedding.weight":
            rows = [normal((shape.d_model,), "logit", number) for number in range(shape.numbers)]
            weights[name] = torch.stack(rows) * (shape.init_scale / math.sqrt(shape.numbers))
        elif name.endswith("bias"):
            weights[name] = torch.zeros(parameter.shape)
        elif "norm_" in name:
            weights[name] = torch.ones(parameter.shape)
        else:
            weights[name] = normal(tuple(parameter.shape), name) * deviation
    return weights


def load(weights: dict[str, Tensor], shape: Shape) -> Transformer:
    """A textbook model with the given weights, in evaluation mode."""
    with torch.device("meta"):
        model = Transformer(shape)
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval()
