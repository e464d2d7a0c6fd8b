"""How fast one training step is, as ratios measured side by side in one run: `make bench`.

This engine against the textbook full-sequence PyTorch model (scaled_dot_product_attention) and, where it is installed,
TransformerLens 2.x's HookedTransformer: the same sizes, batch, loss and optimizer (fused AdamW). Also the time that the
machine's own matrix product needs for the same multiplications, and a distilled step against a plain one. With LayerNorm
after each part, the default, and without. HookedTransformer has it only before each part and at the end.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec

import torch
from about import about, save

from grokdistill.config import RunConfig
from grokdistill.data import generate
from grokdistill.engine import Engine, Rows, stack
from grokdistill.jobs import keep_freed_memory
from grokdistill.losses import entropy, kl_to_targets, stablemax_cross_entropy
from grokdistill.model import Shape, initial_weights, load
from grokdistill.stages import teachers
from grokdistill.stages.setup import Material
from grokdistill.train import Trainer

HookedTransformer = None
if find_spec("transformer_lens"):  # needs numpy below 2, hence an environment of its own
    from transformer_lens import HookedTransformer, HookedTransformerConfig

PRIME = 113
NORMS = ("after", "none")  # the default, and the paper to the letter
IN_A_ROW = 4
Step = Callable[[], None]


def interleaved(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Median seconds of each step. Each takes a few in a row, as training does, then the next has its turn, so that a drift of
    the machine's speed hits all alike."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            step()  # finds the caches as its predecessor left them
            for _ in range(IN_A_ROW):
                start = time.perf_counter()
                step()
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def training(parameters: list, loss: Callable[[], torch.Tensor]) -> Step:
    """One update of these parameters."""
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=1.0, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def make_steps(shape: Shape, batch: int) -> dict[str, Step]:
    """The steps to compare."""
    start = initial_weights(shape, 0)
    a, b = (torch.randint(PRIME, (1, batch), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    labels = (a + b) % PRIME
    targets = torch.softmax(torch.randn(1, batch, shape.numbers, generator=torch.Generator().manual_seed(2)), -1)
    known, ones = entropy(targets), torch.ones(1, batch)
    ends = torch.tensor([shape.token("add"), shape.token(f"mod {PRIME}")]).expand(batch, 2)
    tokens = torch.cat([a[0, :, None], b[0, :, None], ends], 1)
    engine = Engine(shape, "add", (PRIME,))

    def ours(distilled: bool) -> Step:
        weights = {name: value.requires_grad_() for name, value in stack([start]).items()}
        query = torch.full_like(a, engine.query("modulus", PRIME))
        rows = Rows(a, b, query)
        if distilled:
            rows = Rows(*(torch.cat([part, part], 1) for part in (a, b)), torch.cat([query, torch.zeros_like(a)], 1))

        def loss() -> torch.Tensor:
            logits = engine.logits(weights, rows)
            cross = stablemax_cross_entropy(logits[:, :batch], labels)
            return 0.1 * cross + 0.9 * kl_to_targets(logits[:, batch:], targets, known, ones).mean() if distilled else cross

        return training(list(weights.values()), loss)

    def full_sequence(model: torch.nn.Module) -> Step:
        return training(list(model.parameters()), lambda: stablemax_cross_entropy(model(tokens)[:, -1], labels[0]))

    d, h, n = shape.d_model, shape.d_mlp, shape.numbers
    products = [(torch.randn(batch, k), torch.randn(k, m), torch.randn(batch, m)) for k, m in ((d, d), (d, h), (h, d), (d, n))]

    def multiply() -> None:
        for x, w, grad in products:
            _ = x @ w, grad @ w.T, x.T @ grad

    steps = {
        "engine": ours(False),
        "engine, distilled": ours(True),
        "textbook": full_sequence(load({name: value.clone() for name, value in start.items()}, shape).train()),
        "matrix products alone": multiply,
    }
    if HookedTransformer:
        config = HookedTransformerConfig(
            n_layers=1,
            d_model=d,
            n_heads=shape.n_heads,
            d_head=d // shape.n_heads,
            d_mlp=h,
            n_ctx=4,
            act_fn="relu",
            normalization_type=None if shape.norm == "none" else "LN",
            d_vocab=len(shape.vocabulary),
            d_vocab_out=n,
            device="cpu",
            seed=0,
        )
        steps["HookedTransformer"] = full_sequence(HookedTransformer(config).train())
    return steps


def evaluation_share(shape: Shape, updates: int = 100) -> float:
    """What an evaluation with all its measures takes of a teacher's run, where one follows every hundred updates (the paper's
    35% of p1, batches as they come)."""
    config = RunConfig(
        **{"stage": "teachers", "seed": 0, "op": "add", "p1": PRIME, "p1_fraction": 0.35, "method": "scratch"},
        **{"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.98, "warmup_steps": 10, "weight_decay": 1.0, "optimizer": "adamw"},
        **{"batch_size": 2048, "short_batch": "keep", "precision": "float32", "steps": updates, "eval_every": updates},
        **{"loss": "stablemax"} | vars(shape),
    )
    material = Material([config], [generate(PRIME, 0)], None, None, None, torch.device("cpu"))
    trainer = Trainer(teachers.experiment(material), torch.device("cpu"))
    trainer.train(0, 3)
    times = []
    for work in (lambda: trainer.train(0, updates), lambda: [trainer.evaluate(0) for _ in range(5)]):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return times[1] / 5 / (times[0] + times[1] / 5)


def measure(norm: str, batch: int, rounds: int, threads: int) -> dict[str, object]:
    """Medians and ratios with so many threads."""
    torch.set_num_threads(threads)
    shape = Shape(norm=norm)
    seconds = interleaved(make_steps(shape, batch), rounds)
    peers = {name: f"engine over {name}, steps per second" for name in ("textbook", "HookedTransformer") if name in seconds}
    ratios = {title: seconds[name] / seconds["engine"] for name, title in peers.items()}
    ratios["share of the matrix product rate"] = seconds["matrix products alone"] / seconds["engine"]
    ratios["a distilled step over a plain one"] = seconds["engine, distilled"] / seconds["engine"]
    ratios["evaluation, share of a run's time"] = evaluation_share(shape)
    print(f"\nLayerNorm {norm}, batch {batch}, {threads} thread{'s' * (threads > 1)}, median of {IN_A_ROW * rounds}")
    for name, value in seconds.items():
        print(f"  {name:44} {1000 * value:8.2f} ms")
    for name, value in ratios.items():
        print(f"  {name:44} {value:8.2f}")
    milliseconds = {name: 1000 * value for name, value in seconds.items()}
    return {"norm": norm, "threads": threads, "milliseconds": milliseconds, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=2048, help="examples per update (default: 2048, as the paper)")
    parser.add_argument("--rounds", type=int, default=15, help="turns of four updates each (default: 15)")
    parser.add_argument("--threads", type=int, nargs="+", help="CPU threads (default: 1, then all)")
    options = parser.parse_args()
    keep_freed_memory()
    counts = options.threads or sorted(
        {1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()}
    )
    found = [measure(norm, options.batch, options.rounds, threads) for norm in NORMS for threads in counts]
    save("step", {"about": about(batch=options.batch, updates=IN_A_ROW * options.rounds), "steps": found})


if __name__ == "__main__":
    main()
