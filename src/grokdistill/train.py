"""The training loop: stacked seeds, one optimizer, full evaluation on all pairs.

A stage says what is trained on what (an `Experiment`); this module does it and returns curves and weights. It reads no
file and writes none.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from grokdistill.replay import Replayed

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
    """Trains one experiment. On a GPU an update is captured once per batch length and replayed as a CUDA graph."""

    def __init__(self, experiment: Experiment, device: torch.device) -> None:
        self.experiment, self.device = experiment, device
        self.config = config = experiment.config
        self.weights = {name: value.clone().requires_grad_() for name, value in experiment.weights.items()}
        self.parameters = list(self.weights.values())
        on_gpu = device.type == "cuda"
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            # Where updates are captured, the rate is read from the device: it changes while warming up.
            lr=torch.tensor(config.learning_rate, device=device) if on_gpu else config.learning_rate,
            betas=(config.beta1, config.beta2),
            weight_decay=config.weight_decay,
            fused=True,
            capturable=on_gpu,
        )
        self.cross_entropy = CROSS_ENTROPY[config.loss]
        self.alpha = config.alpha or 0.0
        vocabulary = experiment.engine.shape.vocabulary
        self.used = torch.tensor([token in set(experiment.tokens) for token in vocabulary], device=device)
        self.read = sum(token.isdigit() for token in experiment.tokens)
        self.seeds = next(iter(experiment.weights.values())).shape[0]
        # Dropout's masks are drawn from a key per step, which a captured update could not change.
        self.step = Replayed(self.update, self.untouched) if on_gpu and experiment.engine.factored else self.update

    def run(self, report: Callable[[Progress], None] | None = None) -> list[Outcome]:
        """Train to the end, or to the early stop; one outcome per seed, in the experiment's order."""
        config, started = self.config, time.monotonic()
        history = [self.evaluate(0)]
        outcomes: dict[int, Outcome] = {}
        for start in range(0, config.steps, config.eval_every):
            step = min(start + config.eval_every, config.steps)
            history.append(row := self.evaluate(step, self.train(start, step)))
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

    def train(self, start: int, stop: int) -> Tensor:
        """The updates after step `start` up to step `stop`, without waiting for the device in between.

        Returns the loss parts per seed summed over these updates, float64 [2, seeds].
        """
        experiment = self.experiment
        total = torch.zeros(2, self.seeds, dtype=torch.float64, device=self.device)
        drawn = self.draw(experiment.batches, start, stop)
        kl_drawn = drawn if experiment.kl_batches is None else self.draw(experiment.kl_batches, start, stop)
        for step, picks, kl_picks in zip(range(start + 1, stop + 1), drawn, kl_drawn, strict=True):
            self.set_rate(self.config.learning_rate * min(1.0, step / max(1, self.config.warmup_steps)))
            total += self.step(picks, kl_picks, *self.dropout_keys(step))
        return total

    def set_rate(self, rate: float) -> None:
        """The optimizer's learning rate from here on."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def update(self, picks: Tensor, kl_picks: Tensor, *dropout_keys: int) -> Tensor:
        """One optimizer update on the examples at these numbers, int64 [seeds, batch].

        Returns the loss parts per seed, float64 [2, seeds].
        """
        experiment, alpha = self.experiment, self.alpha
        labelled, taught = experiment.labelled, experiment.taught
        parts = []
        if labelled:
            parts.append(labelled.rows.pick(picks))
        if taught and not taught.same_rows:
            parts.append(taught.rows.pick(kl_picks))
        rows = parts[0] if len(parts) == 1 else Rows(*(torch.cat(pair, 1) for pair in zip(*map(_fields, parts))))
        logits = experiment.engine.logits(self.weights, rows, list(dropout_keys) or None)
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
        gradients = torch.autograd.grad(sum(terms).sum(), self.parameters)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient.contiguous()  # the fused optimizer reads memory in the parameter's order
        self.optimizer.step()
        return loss

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Take back, at the end, what updates inside did to the weights and the optimizer."""
        before = [parameter.detach().clone() for parameter in self.parameters]
        yield
        with torch.no_grad():
            for parameter, value in zip(self.parameters, before, strict=True):
                parameter.copy_(value)
                for tensor in self.optimizer.state[parameter].values():
                    tensor.zero_()

    def dropout_keys(self, step: int) -> list[int]:
        """What dropout is drawn from at a step, per seed; empty without dropout."""
        if not self.experiment.engine.shape.dropout:
            return []
        return [int(generator(stream.seed, "dropout", step).integers(2**62)) for stream in self.experiment.batches]

    def draw(self, streams: list[Batches], start: int, stop: int) -> tuple[Tensor, ...]:
        """The example numbers of the updates after `start` up to `stop`, each int64 [seeds, batch], sent in one go."""
        batches = [np.stack([stream(step) for stream in streams]) for step in range(start, stop)]
        together = torch.from_numpy(np.concatenate(batches, 1)).to(self.device)
        return together.split([batch.shape[1] for batch in batches], 1)

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
