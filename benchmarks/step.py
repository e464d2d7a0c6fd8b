"""How fast one training step is, as ratios taken side by side in one run: `make bench`.

This engine against the textbook full-sequence model (scaled_dot_product_attention, fused AdamW) with the same sizes, batch and
loss; the time that the machine's own matrix product needs for the same multiplications; a distilled step against a plain one.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from grokdistill.engine import Engine, Rows, stack
from grokdistill.jobs import keep_freed_memory
from grokdistill.losses import entropy, kl_to_targets, stablemax_cross_entropy
from grokdistill.model import Shape, initial_weights, load

PRIME = 113


def interleaved(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, float]:
    """Median seconds of each step, taken in turn so that a drift of the machine's speed hits all alike."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 2):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn >= 2:  # after a warm-up
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def make_steps(batch: int) -> dict[str, Callable[[], None]]:
    """The steps to compare."""
    shape = Shape()
    start = initial_weights(shape, 0)
    a, b = (torch.randint(PRIME, (1, batch), generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    labels = (a + b) % PRIME
    targets = torch.softmax(torch.randn(1, batch, shape.numbers, generator=torch.Generator().manual_seed(2)), -1)
    known, ones = entropy(targets), torch.ones(1, batch)
    engine = Engine(shape, "add", (PRIME,))

    def training(parameters: list, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.98), weight_decay=1.0, fused=True)

        def step() -> None:
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

        return step

    def ours(distilled: bool) -> Callable[[], None]:
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

    def textbook() -> Callable[[], None]:
        model = load({name: value.clone() for name, value in start.items()}, shape).train()
        ends = torch.tensor([shape.token("add"), shape.token(f"mod {PRIME}")]).expand(batch, 2)
        tokens = torch.cat([a[0, :, None], b[0, :, None], ends], 1)
        return training(list(model.parameters()), lambda: stablemax_cross_entropy(model(tokens)[:, -1], labels[0]))

    d, h, n = shape.d_model, shape.d_mlp, shape.numbers
    products = [(torch.randn(batch, k), torch.randn(k, m), torch.randn(batch, m)) for k, m in ((d, d), (d, h), (h, d), (d, n))]

    def multiply() -> None:
        for x, w, grad in products:
            _ = x @ w, grad @ w.T, x.T @ grad

    return {"engine": ours(False), "engine, distilled": ours(True), "textbook": textbook(), "matrix products alone": multiply}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/step.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    seconds = interleaved(make_steps(options.batch), options.rounds)
    ratios = {
        "engine over textbook, steps per second": seconds["textbook"] / seconds["engine"],
        "share of the matrix product rate": seconds["matrix products alone"] / seconds["engine"],
        "a distilled step over a plain one": seconds["engine, distilled"] / seconds["engine"],
    }
    about = {
        "batch": options.batch,
        "rounds": options.rounds,
        "threads": options.threads,
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    for name, value in seconds.items():
        print(f"{name:24} {1000 * value:8.2f} ms a step")
    for name, value in ratios.items():
        print(f"{name:40} {value:.2f}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        json.dumps({"about": about, "milliseconds": {k: 1000 * v for k, v in seconds.items()}, "ratios": ratios}, indent=1)
    )


if __name__ == "__main__":
    main()
