"""The textbook transformer against an implementation in plain numpy, loops and all; and its initial weights."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.stats
import torch

from grokdistill.model import Shape, Transformer, initial_weights, load

NORMS = ("none", "before", "after")


def random_weights(shape, seed=0, dtype=torch.float64):
    """Weights without any structure: LayerNorm gains are not 1, biases not 0."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(dtype)
        for name, parameter in Transformer(shape).named_parameters()
    }


def plain_forward(weights, shape, tokens):
    """Logits [positions][numbers] of one sequence: every attention weight computed in a loop."""
    w = {name: value.numpy() for name, value in weights.items()}
    width = shape.d_model // shape.n_heads

    def norm(x, name):
        return (x - x.mean()) / math.sqrt(x.var() + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    stream = [w["embedding.weight"][token] + w["position.weight"][place] for place, token in enumerate(tokens)]
    for block in range(shape.n_layers):
        at = f"blocks.{block}."
        seen = [norm(x, at + "norm_attention") if shape.norm == "before" else x for x in stream]
        attended = []
        for place in range(len(tokens)):
            mixed = np.zeros(shape.d_model)
            for head in range(shape.n_heads):
                part = slice(head * width, (head + 1) * width)
                query = (w[at + "attention.query.weight"] @ seen[place])[part]
                scores = [query @ (w[at + "attention.key.weight"] @ seen[j])[part] / math.sqrt(width) for j in range(place + 1)]
                total = sum(math.exp(score) for score in scores)
                for j in range(place + 1):
                    mixed[part] += math.exp(scores[j]) / total * (w[at + "attention.value.weight"] @ seen[j])[part]
            attended.append(stream[place] + w[at + "attention.output.weight"] @ mixed)
        if shape.norm == "after":
            attended = [norm(x, at + "norm_attention") for x in attended]
        stream = []
        for x in attended:
            inner = norm(x, at + "norm_mlp") if shape.norm == "before" else x
            hidden = np.maximum(w[at + "mlp_in.weight"] @ inner + w[at + "mlp_in.bias"], 0)
            x = x + w[at + "mlp_out.weight"] @ hidden + w[at + "mlp_out.bias"]
            stream.append(norm(x, at + "norm_mlp") if shape.norm == "after" else x)
    if shape.norm == "before":
        stream = [norm(x, "norm_output") for x in stream]
    return np.array([w["unembedding.weight"] @ x for x in stream])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layers", [1, 2])
def test_logits_at_every_position(norm, layers):
    shape = Shape(numbers=7, d_model=12, n_heads=3, d_mlp=10, n_layers=layers, norm=norm)
    weights = random_weights(shape)
    model = load(weights, shape)
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, len(shape.vocabulary), (6, 4)))
    found = model(tokens).detach().numpy()
    assert found.shape == (6, 4, 7)
    for row, sequence in zip(found, tokens.tolist(), strict=True):
        assert np.allclose(row, plain_forward(weights, shape, sequence), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layers", [1, 2])
def test_attention_is_causal(norm, layers):
    """A token changes its own position and later ones, and no earlier one: the operator position never sees the modulus."""
    shape = Shape(numbers=11, d_model=8, n_heads=2, d_mlp=12, n_layers=layers, norm=norm)
    model = load(random_weights(shape), shape)
    base = [3, 5, shape.token("add"), shape.token("mod 11")]
    reference = model(torch.tensor(base))
    for place, other in enumerate((4, 6, shape.token("sub"), shape.token("mod 7"))):
        changed = [*base]
        changed[place] = other
        difference = (model(torch.tensor(changed)) - reference).abs().amax(-1)
        assert (difference[:place] == 0).all()
        assert (difference[place:] > 1e-6).all()
    assert torch.allclose(model(torch.tensor(base[:3])), reference[:3], rtol=1e-12)


def test_dropout_acts_in_training_alone():
    shape = Shape(numbers=7, d_model=8, n_heads=2, d_mlp=12, dropout=0.5)
    weights = random_weights(shape)
    plain = load(weights, dataclasses.replace(shape, dropout=0.0))
    model = load(weights, shape)
    tokens = torch.tensor([[1, 2, 7, 9]])
    assert torch.equal(model(tokens), plain(tokens))
    torch.manual_seed(0)
    assert not torch.allclose(model.train()(tokens), plain(tokens))


def test_the_vocabulary():
    """Numbers, two operators, one token per prime keyed by the prime; each name once."""
    vocabulary = Shape(numbers=13).vocabulary
    assert vocabulary == [*"0123456789", "10", "11", "12", "add", "sub", *(f"mod {n}" for n in (2, 3, 5, 7, 11, 13))]
    full = Shape().vocabulary
    assert len(full) == len(set(full)) == 128 + 2 + 31
    assert [full[i] for i in (0, 127, 128, 129)] == ["0", "127", "add", "sub"]
    assert full[Shape().token("mod 113")] == "mod 113"
    assert Transformer(Shape()).embedding.weight.shape == (161, 128)
    assert Transformer(Shape()).unembedding.weight.shape == (128, 128)


def test_a_tokens_initial_row_depends_on_seed_and_token_alone():
    """Neither the vocabulary's size nor depth, heads, MLP or LayerNorm change a token's vector (a logit's: up to scale)."""
    small = initial_weights(Shape(numbers=16), 5)
    others = [
        Shape(numbers=128),
        Shape(numbers=16, n_layers=2),
        Shape(numbers=16, n_heads=8, d_mlp=64),
        Shape(numbers=16, norm="before", dropout=0.1),
    ]
    for shape in others:
        weights = initial_weights(shape, 5)
        for name in (*map(str, range(16)), "add", "sub", "mod 2", "mod 3", "mod 13"):
            row = weights["embedding.weight"][shape.token(name)]
            assert torch.equal(row, small["embedding.weight"][Shape(numbers=16).token(name)])
        rescaled = weights["unembedding.weight"][:16] * math.sqrt(shape.numbers / 16)
        assert torch.allclose(rescaled, small["unembedding.weight"], rtol=1e-6)
        assert torch.equal(weights["position.weight"], small["position.weight"])
        assert torch.equal(weights["blocks.0.attention.key.weight"], small["blocks.0.attention.key.weight"])


def test_two_layers_share_the_first_layers_weights():
    one, two = initial_weights(Shape(), 0), initial_weights(Shape(n_layers=2), 0)
    assert set(one) < set(two)
    assert all(torch.equal(one[name], two[name]) for name in one)
    for name in ("attention.query.weight", "mlp_in.weight"):
        assert not torch.equal(two[f"blocks.0.{name}"], two[f"blocks.1.{name}"])


def test_initial_weights_are_normal_with_the_documented_deviation():
    shape = Shape(numbers=64, d_model=96, n_heads=4, d_mlp=200, norm="before", init_scale=0.5)
    weights = initial_weights(shape, 0)
    template = dict(Transformer(shape).named_parameters())
    assert {name: value.shape for name, value in weights.items()} == {name: value.shape for name, value in template.items()}
    for name, value in weights.items():
        assert value.dtype == torch.float32
        assert value.device.type == "cpu"
        if name.endswith("bias"):
            assert (value == 0).all()
        elif "norm" in name:
            assert (value == 1).all()
        else:
            deviation = 0.5 / math.sqrt(64 if name == "unembedding.weight" else 96)
            # The standard deviation of n normal numbers is off by more than 5/sqrt(2n) once in two million times.
            assert value.std().item() == pytest.approx(deviation, rel=5 / math.sqrt(2 * value.numel()))
            assert scipy.stats.kstest(value.flatten().numpy() / deviation, "norm").pvalue > 1e-6


def test_matrices_and_seeds_have_streams_of_their_own():
    """No two matrices, tokens or seeds are correlated: of n pairs, more than 6/sqrt(n) once in 5e8 times."""
    first, second = initial_weights(Shape(), 0), initial_weights(Shape(), 1)
    same = [name for name in first if name != "position.weight" and first[name].shape == (128, 128)]
    assert len(same) == 5
    for i, one in enumerate(same):
        assert not torch.equal(first[one], second[one])
        for other in (*(first[name] for name in same[i + 1 :]), second[one]):
            assert abs(np.corrcoef(first[one].flatten(), other.flatten())[0, 1]) < 6 / 128
    rows = first["embedding.weight"]
    assert np.abs(np.corrcoef(rows) - np.eye(len(rows))).max() < 6 / math.sqrt(128)
    assert all(torch.equal(value, initial_weights(Shape(), 0)[name]) for name, value in first.items())


def test_initial_weights_leave_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = initial_weights(Shape(numbers=5, d_model=8), 0)
    assert torch.equal(torch.rand(4), expected)
    assert torch.equal(initial_weights(Shape(numbers=5, d_model=8), 0)["embedding.weight"], first["embedding.weight"])


def test_loading_refuses_weights_of_another_shape():
    weights = initial_weights(Shape(numbers=5, d_model=8), 0)
    del weights["blocks.0.mlp_in.bias"]
    with pytest.raises(RuntimeError, match=r"mlp_in\.bias"):
        load(weights, Shape(numbers=5, d_model=8))
