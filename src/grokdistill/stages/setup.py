"""What the training stages share: the material of a job, and how pools and exams are made from datasets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from grokdistill.batches import Batches
from grokdistill.engine import Engine, Rows, stack
from grokdistill.model import Shape, initial_weights
from grokdistill.train import Exam, Labelled

if TYPE_CHECKING:
    from grokdistill.config import RunConfig
    from grokdistill.data import Dataset
    from grokdistill.engine import Weights


@dataclass(frozen=True)
class Teacher:
    """A frozen model, one set of weights per seed of the job."""

    shape: Shape
    weights: list[Weights]


@dataclass(frozen=True)
class Material:
    """What a job's runs are made from, one entry per seed.

    Attributes:
        configs: the runs' configurations, equal but for the seed.
        p1, p2: datasets of the first and second modulus, where the stage uses them.
        teacher: the p1 model, where there is one; a continual run starts from it.
        p2_teacher: the distilled p2 model that teaches f_M.
        device: where to train.
    """

    configs: list[RunConfig]
    p1: list[Dataset] | None
    p2: list[Dataset] | None
    teacher: Teacher | None
    p2_teacher: Teacher | None
    device: torch.device

    @property
    def config(self) -> RunConfig:
        return self.configs[0]

    @property
    def seeds(self) -> list[int]:
        return [config.seed for config in self.configs]

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.config.precision == "float64" else torch.float32

    def tensor(self, rows: list[np.ndarray]) -> Tensor:
        """One array per seed as a stacked tensor on the device."""
        return torch.from_numpy(np.stack(rows)).to(self.device)

    def stacked(self, weights: list[Weights]) -> Weights:
        """Stacked weights on the device, in the run's precision."""
        return {name: value.to(self.device, self.dtype) for name, value in stack(weights).items()}

    def fresh(self, shape: Shape, role: str) -> Weights:
        """Stacked initial weights of the seeds, independent between roles: p1's models, p2's, f_M, the untrained teacher."""
        return self.stacked([initial_weights(shape, seed, role) for seed in self.seeds])

    def rows(self, datasets: list[Dataset], query: int, index: list[np.ndarray] | None = None) -> Rows:
        """Rows of all pairs, or of those at `index`, read at one query."""
        index = index or [np.arange(len(dataset.a)) for dataset in datasets]
        a = self.tensor([dataset.a[at] for dataset, at in zip(datasets, index, strict=True)])
        b = self.tensor([dataset.b[at] for dataset, at in zip(datasets, index, strict=True)])
        return Rows(a, b, torch.full_like(a, query))

    def labelled(self, datasets: list[Dataset], query: int, index: list[np.ndarray]) -> Labelled:
        """The labelled pool of the pairs at `index`."""
        op = self.config.op
        labels = [dataset.answers[op][at] for dataset, at in zip(datasets, index, strict=True)]
        return Labelled(self.rows(datasets, query, index), self.tensor(labels))

    def streams(self, examples: int, purpose: str = "batches", size: int | None = None) -> list[Batches]:
        """Batches of a pool, one stream per seed."""
        size = size or self.config.batch_size
        return [Batches(examples, size, self.config.short_batch, seed, purpose) for seed in self.seeds]

    def exam(self, datasets: list[Dataset], query: int, masks: dict[str, list[np.ndarray]], train: str | None = None) -> Exam:
        """An exam on all pairs; `masks` gives each curve column its pairs, `train` names the training column."""
        labels = self.tensor([dataset.answers[self.config.op] for dataset in datasets])
        subsets = {name: self.tensor(rows) for name, rows in masks.items()}
        return Exam(self.rows(datasets, query), labels, subsets, subsets[train] if train else None)


def tokens(op: str, *primes: int) -> tuple[str, ...]:
    """Names of the tokens that occur with these moduli."""
    return (*map(str, range(max(primes))), op, *(f"mod {prime}" for prime in primes))


def engine(config: RunConfig, shape: Shape, *primes: int) -> Engine:
    """The engine of a shape with the queries of these moduli."""
    return Engine(shape, config.op, primes)
