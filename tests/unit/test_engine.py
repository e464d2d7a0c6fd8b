"""The training engine against the textbook transformer: logits and the gradient of every parameter, seed by seed."""

import numpy as np
import pytest
import torch

from grokdistill.engine import Engine, Rows, add_rows, one_hot_sum, stack, unstack
from grokdistill.losses import stablemax_cross_entropy
from grokdistill.model import Shape, Transformer, initial_weights, load

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
CASES = [
    # d_model, heads, d_mlp, norm, numbers, op, moduli, seeds
    (16, 4, 24, "none", 11, "add", (11, 7), 1),
    (12, 1, 8, "none", 13, "sub", (5,), 3),
    (24, 3, 40, "before", 17, "add", (17, 13, 3), 2),
    (10, 5, 16, "after", 7, "sub", (5, 7), 2),
    (8, 2, 32, "before", 31, "sub", (29, 31), 4),
    (32, 8, 12, "none", 23, "add", (2, 23), 2),
]


def random_stack(shape, seeds, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (0.4 * torch.randn(seeds, *parameter.shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
        for name, parameter in Transformer(shape).named_parameters()
    }


def random_rows(numbers, queries, seeds, rows, seed=0):
    rng = np.random.default_rng(seed)
    a, b, query = (torch.from_numpy(rng.integers(0, high, (seeds, rows))) for high in (numbers, numbers, queries))
    return Rows(a, b, query)


def primes_to(limit):
    return [n for n in range(2, limit + 1) if not any(n % k == 0 for k in range(2, n))]


def textbook(shape, weights, rows, op, moduli, seed):
    """One seed's logits: whole sequences through the textbook model, then the position that each row asks for."""
    first_modulus = shape.numbers + 2
    tokens, positions = [], []
    for a, b, query in zip(rows.a[seed].tolist(), rows.b[seed].tolist(), rows.query[seed].tolist(), strict=True):
        modulus = moduli[query - 1] if query else moduli[0]  # the operator position does not see it
        tokens.append([a, b, shape.numbers + ("add", "sub").index(op), first_modulus + primes_to(shape.numbers).index(modulus)])
        positions.append(3 if query else 2)
    own = {name: value[seed] for name, value in weights.items()}
    logits = torch.func.functional_call(load({n: v.detach() for n, v in own.items()}, shape), own, (torch.tensor(tokens),))
    return logits[torch.arange(len(tokens)), positions]


def compare(shape, op, moduli, seeds, dtype, rows=25, folds=False):
    engine = Engine(shape, op, moduli)
    weights = random_stack(shape, seeds, dtype)
    picked = random_rows(shape.numbers, 1 + len(moduli), seeds, rows)
    assert engine.folds(picked) == folds
    found = engine.logits(weights, picked)
    expected = torch.stack([textbook(shape, weights, picked, op, moduli, seed) for seed in range(seeds)])
    assert found.shape == (seeds, rows, shape.numbers)
    assert found.dtype == dtype
    close(found, expected, "logits")
    cotangent = torch.randn(found.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(dtype)
    mine = torch.autograd.grad((found * cotangent).sum(), list(weights.values()))
    theirs = torch.autograd.grad((expected * cotangent).sum(), list(weights.values()))
    for name, one, two in zip(weights, mine, theirs, strict=True):
        close(one, two, name)


def close(found, expected, name):
    assert expected.abs().max() > 0, name
    assert (found - expected).abs().max() <= TOLERANCE[found.dtype] * expected.abs().max(), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("d_model", "heads", "d_mlp", "norm", "numbers", "op", "moduli", "seeds"), CASES)
def test_the_factored_path(d_model, heads, d_mlp, norm, numbers, op, moduli, seeds, dtype):
    shape = Shape(numbers=numbers, d_model=d_model, n_heads=heads, d_mlp=d_mlp, norm=norm)
    assert Engine(shape, op, moduli).factored
    compare(shape, op, moduli, seeds, dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("d_model", "heads", "d_mlp", "norm", "numbers", "op", "moduli", "seeds"), [case for case in CASES if case[3] == "none"]
)
def test_the_folded_path(d_model, heads, d_mlp, norm, numbers, op, moduli, seeds, dtype):
    shape = Shape(numbers=numbers, d_model=d_model, n_heads=heads, d_mlp=d_mlp, norm=norm)
    compare(shape, op, moduli, seeds, dtype, rows=heads * (2 * numbers + len(moduli) + 1) + 1, folds=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_folded_path_at_the_papers_size(dtype):
    compare(Shape(), "sub", (113, 107), 1, dtype, rows=2048, folds=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("norm", ["none", "before", "after"])
def test_the_general_path_of_two_layers(norm, dtype):
    shape = Shape(numbers=11, d_model=12, n_heads=3, d_mlp=16, n_layers=2, norm=norm)
    assert not Engine(shape, "add", (7,)).factored
    compare(shape, "add", (7, 11), 2, dtype)


def test_the_general_path_with_dropout_evaluates_like_the_factored_one():
    shape = Shape(numbers=11, d_model=12, n_heads=3, d_mlp=16, dropout=0.3)
    compare(shape, "sub", (5, 11), 2, torch.float64)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("query", [0, 1])
def test_rows_that_all_ask_for_one_position(layers, query):
    """A batch at the operator position alone, or at the modulus alone, as most stages draw them."""
    shape = Shape(numbers=7, d_model=8, n_heads=2, d_mlp=12, n_layers=layers)
    weights = random_stack(shape, 2, torch.float64)
    rows = random_rows(7, 1, 2, 10)
    rows = Rows(rows.a, rows.b, torch.full_like(rows.a, query))
    found = Engine(shape, "add", (5,)).logits(weights, rows)
    for seed in range(2):
        close(found[seed], textbook(shape, weights, rows, "add", (5,), seed), "logits")


def test_queries_name_positions_and_moduli():
    """Reading `position` with a modulus gives the textbook's logits there."""
    shape = Shape(numbers=13, d_model=8, n_heads=2, d_mlp=12)
    engine = Engine(shape, "sub", (13, 7))
    weights = random_stack(shape, 1, torch.float64)
    model = load({name: value[0].detach() for name, value in weights.items()}, shape)
    for modulus in (7, 13):
        tokens = torch.tensor([4, 9, shape.token("sub"), shape.token(f"mod {modulus}")])
        for position, place in (("operator", 2), ("modulus", 3)):
            one = torch.tensor([[4]]), torch.tensor([[9]]), torch.tensor([[engine.query(position, modulus)]])
            assert torch.allclose(engine.logits(weights, Rows(*one))[0, 0], model(tokens)[place], rtol=1e-10)


@pytest.mark.parametrize(("layers", "size"), [(1, 20), (1, 100), (2, 20)])
def test_stacked_seeds_do_not_influence_each_other(layers, size):
    shape = Shape(numbers=11, d_model=12, n_heads=3, d_mlp=16, n_layers=layers)
    engine = Engine(shape, "add", (7, 11))
    weights, rows = random_stack(shape, 3, torch.float64), random_rows(11, 3, 3, size)
    assert engine.folds(rows) == (size == 100)
    logits = engine.logits(weights, rows)
    gradients = torch.autograd.grad(logits[1].square().sum(), list(weights.values()))
    for name, gradient in zip(weights, gradients, strict=True):
        assert (gradient[[0, 2]] == 0).all(), name
        assert gradient[1].abs().max() > 0, name
    others = {
        name: torch.where(torch.arange(3).view(-1, *[1] * (v.dim() - 1)) == 1, v, v * 7 + 1) for name, v in weights.items()
    }
    changed = Rows(*(torch.where(torch.arange(3)[:, None] == 1, part, part.flip(1)) for part in (rows.a, rows.b, rows.query)))
    assert torch.allclose(engine.logits(others, changed)[1], logits[1], rtol=1e-12)


@pytest.mark.parametrize("size", [9, 50])
def test_a_diverged_seed_does_not_spoil_its_neighbours(size):
    shape = Shape(numbers=7, d_model=8, n_heads=2, d_mlp=12)
    weights, rows = random_stack(shape, 2, torch.float64), random_rows(7, 2, 2, size)
    assert Engine(shape, "add", (7,)).folds(rows) == (size == 50)
    expected = Engine(shape, "add", (7,)).logits(weights, rows)[1]
    with torch.no_grad():
        for value in weights.values():
            value[0] = float("nan")
    found = Engine(shape, "add", (7,)).logits(weights, rows)
    assert torch.isnan(found[0]).all()
    assert torch.equal(found[1], expected)
    gradients = torch.autograd.grad(found[1].sum(), list(weights.values()))
    assert all(torch.isfinite(gradient[1]).all() for gradient in gradients)


SMALL = Shape(numbers=23, d_model=32, n_heads=4, d_mlp=64)


def after_200_updates(size, dtype, ours):
    """Parameters after AdamW with the paper's settings, on the engine or on the textbook model, as one vector."""
    start = {name: value.to(dtype) for name, value in initial_weights(SMALL, 0).items()}
    model, engine = load(start, SMALL).train(), Engine(SMALL, "add", (23,))
    parameters = stack([start]) if ours else dict(model.named_parameters())
    parameters = {name: value.requires_grad_() for name, value in parameters.items()}
    optimizer = torch.optim.AdamW(list(parameters.values()), lr=1e-3, betas=(0.9, 0.98), weight_decay=1.0)
    rng, ends = np.random.default_rng(0), torch.tensor([SMALL.token("add"), SMALL.token("mod 23")]).expand(size, 2)
    for _ in range(200):
        a, b = torch.from_numpy(rng.integers(0, 23, (2, 1, size)))
        rows = Rows(a, b, torch.full_like(a, engine.query("modulus", 23)))
        assert engine.folds(rows) == (size == 400)
        tokens = torch.cat([a[0, :, None], b[0, :, None], ends], 1)
        logits = engine.logits(parameters, rows)[0] if ours else model(tokens)[:, -1]
        optimizer.zero_grad()
        stablemax_cross_entropy(logits, ((a + b) % 23)[0]).backward()
        optimizer.step()
    return torch.cat([parameters[name].detach().double().flatten() for name in start])


@pytest.mark.parametrize("size", [60, 400])
def test_200_updates_stay_with_the_textbook(size):
    """In fp64 closely; in fp32, where Adam makes much of rounding (the textbook strays by 1e-3 itself), as closely as that."""
    exact = after_200_updates(size, torch.float64, ours=False)
    assert (after_200_updates(size, torch.float64, ours=True) - exact).norm() <= 1e-10 * exact.norm()
    strays = [(after_200_updates(size, torch.float32, ours) - exact).norm() for ours in (True, False)]
    assert strays[0] <= 1e-4 * exact.norm() or strays[0] <= 1.5 * strays[1]


def test_dropout_in_training_differs_between_seeds_and_is_right_on_average():
    shape = Shape(numbers=5, d_model=8, n_heads=2, d_mlp=12, dropout=0.25)
    one = {name: value[0].detach() for name, value in random_stack(shape, 1, torch.float64).items()}
    # With the MLP silent, dropout acts on the attention's output alone, and logits are linear in it.
    for name in ("blocks.0.mlp_out.weight", "blocks.0.mlp_out.bias"):
        one[name] = torch.zeros_like(one[name])
    engine, rows = Engine(shape, "add", (5,)), random_rows(5, 2, 2, 3)
    rows = Rows(*(part[:1].expand(2, -1) for part in (rows.a, rows.b, rows.query)))
    weights = stack([one, one])
    drawn = torch.stack([engine.logits(weights, rows, [2 * i, 2 * i + 1]) for i in range(400)])
    torch.rand(3)  # what else was drawn meanwhile does not matter
    assert torch.equal(engine.logits(weights, rows, [4, 5]), drawn[2])
    assert not torch.allclose(drawn[0, 0], drawn[0, 1])
    error = drawn.std(0) / 400**0.5
    assert ((drawn.mean(0) - engine.logits(weights, rows)).abs() < 6 * error + 1e-12).all()


def test_stack_and_unstack():
    models = [
        {name: value[seed].detach() for name, value in random_stack(Shape(numbers=5, d_model=8), 3, torch.float64).items()}
        for seed in range(3)
    ]
    stacked = stack(models)
    for seed, model in enumerate(models):
        apart = unstack(stacked, seed)
        assert all(torch.equal(apart[name], model[name]) for name in model)
    apart["embedding.weight"][0, 0] = 99.0
    assert stacked["embedding.weight"][2, 0, 0] != 99.0


def test_rows_pick():
    rows = random_rows(50, 3, 2, 12)
    index = torch.tensor([[3, 0, 3], [11, 5, 1]])
    picked = rows.pick(index)
    for seed in range(2):
        for place in range(3):
            for part in ("a", "b", "query"):
                assert getattr(picked, part)[seed, place] == getattr(rows, part)[seed, index[seed, place]]


def test_rows_are_added_by_index():
    """Against a loop; and as the product with a one-hot matrix, which is how a GPU adds them in a fixed order."""
    rng = np.random.default_rng(0)
    index, rows = torch.from_numpy(rng.integers(0, 5, (2, 40))), torch.from_numpy(rng.normal(size=(2, 40, 3)))
    expected = np.zeros((2, 6, 3))
    for seed in range(2):
        for at, row in zip(index[seed].tolist(), rows[seed].numpy(), strict=True):
            expected[seed, at] += row
    assert np.allclose(add_rows(index, rows, 6), expected, rtol=1e-12)
    assert np.allclose(one_hot_sum(index, rows, 6), expected, rtol=1e-12)
