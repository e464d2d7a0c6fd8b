"""Stage `joint`: the larger model f_M on p1 and p2 together (paper §5, fig. 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from grokdistill.batches import Batches
from grokdistill.data import train_size
from grokdistill.distill import Targets, teach
from grokdistill.engine import Rows
from grokdistill.model import Shape
from grokdistill.stages.setup import Material, engine, tokens
from grokdistill.train import Experiment, Labelled, Taught


@dataclass(frozen=True)
class Halves:
    """Batches with half of the examples from each prime; the second pool's numbers follow the first's."""

    first: Batches
    second: Batches

    @property
    def seed(self) -> int:
        return self.first.seed

    def __call__(self, step: int) -> np.ndarray:
        return np.concatenate([self.first(step), self.second(step) + self.first.examples])


def experiment(material: Material) -> Experiment:
    """f_M on fractions of both primes: with labels, or distilled only, each example taught by its own prime's model."""
    config = material.config
    shape = Shape.of(config)
    queries = engine(config, shape, config.p1, config.p2)
    parts, exams, sizes = [], [], []
    sides = ((material.p1, config.p1_fraction, "p1_"), (material.p2, config.fraction, ""))
    for datasets, fraction, prefix in sides:
        prime = datasets[0].prime
        query = queries.query("modulus", prime)
        inside = [dataset.inside(fraction) for dataset in datasets]
        test = [~mask for mask in inside]
        # p1's held-out accuracy is called p1_acc, p2's test_acc, as in the other stages.
        masks = {f"{prefix}train_acc": inside, "p1_acc" if prefix else "test_acc": test}
        other = config.p2 if prefix else config.p1
        same = [dataset.same_answer(config.op, other) for dataset in datasets]
        masks[f"{prefix}same_acc"] = [mask & equal for mask, equal in zip(test, same, strict=True)]
        masks[f"{prefix}different_acc"] = [mask & ~equal for mask, equal in zip(test, same, strict=True)]
        exams.append(material.exam(datasets, query, masks, None if prefix else "train_acc"))
        parts.append(material.labelled(datasets, query, [dataset.training(fraction) for dataset in datasets]))
        sizes.append(train_size(prime, fraction))
    pool = _concatenate(parts)
    taught = None
    if config.method == "distilled":
        rows = pool.rows
        if config.position == "operator":
            rows = Rows(rows.a, rows.b, torch.full_like(rows.query, queries.OPERATOR))
        taught = Taught(rows, targets(material, parts), same_rows=config.position == "modulus" and config.alpha < 1)
    return Experiment(
        config=config,
        engine=queries,
        weights=material.fresh(shape, "f_M"),
        labelled=pool if config.method == "supervised" or config.alpha < 1 else None,
        taught=taught,
        batches=streams(material, sizes),
        exams=exams,
        judged=("test_acc", "p1_acc"),
        primes={"own": config.p2, "teacher": config.p1},
        tokens=tokens(config.op, config.p1, config.p2),
    )


def streams(material: Material, sizes: list[int]) -> list:
    """Batches over both pools, one stream per seed."""
    config = material.config
    if config.batches == "shuffled":
        return material.streams(sum(sizes))
    half = max(1, config.batch_size // 2)
    first, second = (material.streams(size, f"batches {side}", half) for side, size in enumerate(sizes))
    return [Halves(*pair) for pair in zip(first, second, strict=True)]


def targets(material: Material, parts: list[Labelled]) -> Targets:
    """Each prime's training pairs as the model grokked on that prime answers them."""
    config = material.config
    found = []
    for part, teacher, prime in zip(parts, (material.teacher, material.p2_teacher), (config.p1, config.p2), strict=True):
        queries = engine(config, teacher.shape, prime)
        read = Rows(part.rows.a, part.rows.b, torch.full_like(part.rows.query, queries.query(config.position, prime)))
        weights = material.stacked(teacher.weights)
        found.append(teach(queries, weights, read, prime, config.temperature_reading, config.temperature))
    first, second = found
    return Targets(
        torch.cat([first.probabilities, second.probabilities], 1),
        torch.cat([first.entropy, second.entropy], 1),
        torch.cat([first.covered, second.covered], 1),
        torch.cat([first.temperature, second.temperature], 1),
    )


def _concatenate(parts: list[Labelled]) -> Labelled:
    rows = [(part.rows.a, part.rows.b, part.rows.query) for part in parts]
    return Labelled(
        Rows(*(torch.cat(pair, 1) for pair in zip(*rows, strict=True))), torch.cat([part.labels for part in parts], 1)
    )
