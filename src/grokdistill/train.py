"""The training loop: stacked seeds, one optimizer, full evaluation on all pairs.

A stage says what is trained on what (an `Experiment`); this module does it and returns curves and weights. It reads no
file and writes none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from grokdistill.batches import generator
from grokdistill.engine import Engine, Rows, unstack
from grokdistill.losses import CROSS_ENTROPY, kl_to_targets
from grokdistill.measures import grokking_time
from grokdistill.probes import fourier_gini, weight_norm

if TYPE_CHECKING:
    from grokdistill.batches import Batches
    from grokdistill.config import RunConfig
    from grokdistill.distill import Targets
    from grokdistill.engine import Weights

CHUNK = 4096
MEMORIZED = 0.99  # training accuracy at which the ungrokked control stops


@dataclass(frozen=True)
class Labelled:
    """Examples with labels: the cross-entropy's pool.

    Attributes:
        rows: [seeds, examples].
        labels: int64 [seeds, examples].
    """

    rows: Rows
    labels: Tensor


@dataclass(frozen=True)
class Taught:
    """Examples with soft targets: the KL's pool.

    Attributes:
        rows: [seeds, examples].
        targets: the teacher's.
        same_rows: the pool's batches are the cross-entropy's, read at the same queries.
    """

    rows: Rows
    targets: Targets
    same_rows: bool = False


@dataclass(frozen=True)
class Exam:
    """All pairs of one prime, and the subsets whose accuracy is reported.

    Attributes:
        rows: [seeds, pairs].
        labels: int64 [seeds, pairs].
        subsets: curve column -> bool [seeds, pairs]; an empty subset gives NaN.
        train: bool [seeds, pairs] where the loss on training pairs is reported, or None.
    """

    rows: Rows
    labels: Tensor
    subsets: dict[str, Tensor]
    train: Tensor | None = None


@dataclass(frozen=True)
class Experiment:
    """What one job trains: runs that differ in their seed alone, stacked.

    Attributes:
        config: of the first seed; the others differ in `seed` only.
        engine: of the models trained.
        weights: stacked initial weights.
        labelled, taught: the pools; None without cross-entropy or without KL.
        batches, kl_batches: one stream per seed; without `kl_batches` the KL sees the cross-entropy's batches.
        exams: what is evaluated.
        judged: curve columns that must all reach the threshold for the run to count as grokked.
        memorized: curve column of the training accuracy.
        primes: prime of the run's own and, where there is one, of the teacher's Fourier basis.
        tokens: names of the tokens that occur.
    """

    config: RunConfig
    engine: Engine
    weights: Weights
    batches: list[Batches]
    exams: list[Exam]
    judged: tuple[str, ...]
    primes: dict[str, int]
    tokens: tuple[str, ...]
    labelled: Labelled | None = None
    taught: Taught | None = None
    kl_batches: list[Batches] | None = None
    memorized: str = "train_acc"


@dataclass
class Outcome:
    """What came of one seed.

    Attributes:
        curve: column -> values, one per evaluation; `step` is the first column.
        weights: final parameters by name, on the CPU.
        diverged: first evaluated step with a weight that is not finite (as a bad loss leaves it), or None.
        facts: numbers of the run that have no step, such as the covered share.
    """

    curve: dict[str, list[float]]
    weights: Weights
    diverged: int | None = None
    facts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """Where a job stands; handed to the caller after every evaluation."""

    step: int
    steps: int
    seconds: float
    train_acc: list[float]
    test_acc: list[float]


class Trainer:
    """Trains one experiment."""

    def __init__(self, experiment: Experiment, device: torch.device) -> None:
        self.experiment, self.device = experiment, device
        self.config = experiment.config
        self.weights = {name: value.clone().requires_grad_() for name, value in experiment.weights.items()}
        config = self.config
        self.optimizer = torch.optim.AdamW(
            list(self.weights.values()),
            lr=config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=True,
        )
        self.cross_entropy = CROSS_ENTROPY[config.loss]
        self.alpha = config.alpha or 0.0
        vocabulary = experiment.engine.shape.vocabulary
        self.used = torch.tensor([token in set(experiment.tokens) for token in vocabulary], device=device)
        self.read = sum(token.isdigit() for token in experiment.tokens)
        self.seeds = next(iter(experiment.weights.values())).shape[0]

    def run(self, report: Callable[[Progress], None] | None = None) -> list[Outcome]:
        """Train to the end, or to the early stop; one outcome per seed, in the experiment's order."""
        config, started = self.config, time.monotonic()
        history = [self.evaluate(0)]
        loss_sums = torch.zeros(2, self.seeds, dtype=torch.float64, device=self.device)
        outcomes: dict[int, Outcome] = {}
        for step in range(1, config.steps + 1):
            loss_sums += self.update(step)
            if step % config.eval_every and step != config.steps:
                continue
            history.append(row := self.evaluate(step, loss_sums))
            loss_sums.zero_()
            # A seed ends at its own step, whatever the seeds beside it still do.
            for seed in range(self.seeds):
                if seed not in outcomes and (step == config.steps or self.ended(history, seed)):
                    outcomes[seed] = self.outcome(history, seed)
            if report:
                elapsed = time.monotonic() - started
                report(Progress(step, config.steps, elapsed, row[self.experiment.memorized], row[self.experiment.judged[0]]))
            if len(outcomes) == self.seeds:
                break
        return [outcomes[seed] for seed in range(self.seeds)]

    def update(self, step: int) -> Tensor:
        """One optimizer update; step counts from 1. Returns the loss parts per seed, float64 [2, seeds]."""
        experiment, alpha = self.experiment, self.alpha
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * min(1.0, step / max(1, self.config.warmup_steps))
        picks = self.draw(experiment.batches, step)
        kl_picks = picks if experiment.kl_batches is None else self.draw(experiment.kl_batches, step)
        labelled, taught = experiment.labelled, experiment.taught
        parts = []
        if labelled:
            parts.append(labelled.rows.pick(picks))
        if taught and not taught.same_rows:
            parts.append(taught.rows.pick(kl_picks))
        rows = parts[0] if len(parts) == 1 else Rows(*(torch.cat(pair, 1) for pair in zip(*map(_fields, parts))))
        logits = experiment.engine.logits(self.weights, rows, self.dropout_keys(step))
        loss = torch.zeros(2, self.seeds, dtype=torch.float64, device=self.device)
        terms = []
        if labelled:
            per_example = self.cross_entropy(logits[:, : picks.shape[1]], labelled.labels.gather(1, picks), "none")
            terms.append((1 - alpha) * (cross := per_example.mean(1).double()))
            loss[0] = cross.detach()
        if taught:
            own = logits if taught.same_rows else logits[:, logits.shape[1] - kl_picks.shape[1] :]
            targets = taught.targets
            wide = kl_picks.unsqueeze(-1).expand(-1, -1, targets.probabilities.shape[-1])
            kl = kl_to_targets(
                own,
                targets.probabilities.gather(1, wide),
                targets.entropy.gather(1, kl_picks),
                targets.temperature.gather(1, kl_picks),
            )
            kl = (kl * targets.covered.gather(1, kl_picks)).mean(1).double()
            terms.append(alpha * kl)
            loss[1] = kl.detach()
        self.optimizer.zero_grad(set_to_none=True)
        sum(terms).sum().backward()
        self.optimizer.step()
        return loss

    def dropout_keys(self, step: int) -> list[int] | None:
        """What dropout is drawn from at a step, per seed; None without dropout."""
        if not self.experiment.engine.shape.dropout:
            return None
        return [int(generator(stream.seed, "dropout", step).integers(2**62)) for stream in self.experiment.batches]

    def draw(self, streams: list[Batches], step: int) -> Tensor:
        """The step's example numbers, int64 [seeds, batch]."""
        return torch.from_numpy(np.stack([stream(step - 1) for stream in streams])).to(self.device, non_blocking=True)

    @torch.no_grad()
    def evaluate(self, step: int, loss_sums: Tensor | None = None) -> dict[str, list[float]]:
        """Every measure at this step: column -> value per seed. `kl` is the mean over the updates since the last one."""
        experiment, row = self.experiment, {"step": [step] * self.seeds}
        for exam in experiment.exams:
            correct, losses = [], []
            for a, b, query, label in zip(*(part.split(CHUNK, 1) for part in (*_fields(exam.rows), exam.labels)), strict=True):
                logits = experiment.engine.logits(self.weights, Rows(a, b, query))
                correct.append(logits.argmax(-1) == label)
                if exam.train is not None:
                    losses.append(self.cross_entropy(logits, label, "none"))
            right = torch.cat(correct, 1).double()
            for name, mask in exam.subsets.items():
                row[name] = _mean(right, mask)
            if exam.train is not None:
                every = torch.cat(losses, 1).double()
                row["train_loss"], row["test_loss"] = _mean(every, exam.train), _mean(every, ~exam.train)
        if experiment.taught:
            updates = step % self.config.eval_every or self.config.eval_every
            row["kl"] = (loss_sums[1] / updates).tolist() if loss_sums is not None else [float("nan")] * self.seeds
        row["weight_norm"] = weight_norm(self.weights, self.used).tolist()
        for name, prime in experiment.primes.items():
            row[f"fourier_{name}"] = fourier_gini(self.weights["embedding.weight"], prime, self.read).tolist()
        return row

    def ended(self, history: list[dict[str, list[float]]], seed: int) -> bool:
        """Whether a seed ends before its last step: diverged, memorized (a control), or stopped early."""
        config, now = self.config, history[-1]
        if not math.isfinite(now["weight_norm"][seed]):
            return True
        if config.until == "memorized":
            return now[self.experiment.memorized][seed] >= MEMORIZED
        if config.early_stop is None:
            return False
        steps = [row["step"][0] for row in history]
        accuracy = [min(row[name][seed] for name in self.experiment.judged) for row in history]
        start = grokking_time(steps, accuracy, config.threshold, config.hold)
        return start is not None and steps[-1] >= start + max(config.hold, config.early_stop)

    def outcome(self, history: list[dict[str, list[float]]], seed: int) -> Outcome:
        """What has come of a seed by now."""
        diverged = None if math.isfinite(history[-1]["weight_norm"][seed]) else history[-1]["step"][0]
        rows = history if diverged is None else history[:-1]
        facts = {}
        if self.experiment.taught:
            targets = self.experiment.taught.targets
            facts["covered_share"] = targets.covered[seed].double().mean().item()
            facts["target_entropy"] = targets.entropy[seed][targets.covered[seed]].double().mean().item()
        curve = {name: [row[name][seed] for row in rows] for name in rows[0]}
        return Outcome(curve, unstack(self.weights, seed), diverged, facts)


def _fields(rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    return rows.a, rows.b, rows.query


def _mean(values: Tensor, mask: Tensor) -> list[float]:
    """Mean over the masked entries per seed; NaN for an empty mask."""
    return ((values * mask).sum(1) / mask.sum(1)).tolist()
