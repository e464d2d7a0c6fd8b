"""The training loop: stacked seeds, one optimizer, full evaluation on all pairs.

A stage says what is trained on what (an `Experiment`); this module does it and returns curves and weights. It reads no
file and writes none.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

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
MOMENTS = ("exp_avg", "exp_avg_sq")  # of the optimizer
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


@dataclass(frozen=True)
class State:
    """Where one seed's training stands: all that it takes to go on as if it had never stopped.

    Attributes:
        step: updates done.
        tensors: weights and both moments of the optimizer, on the CPU, as "weight/<name>", "exp_avg/<name>", ...
        losses: the two loss parts, summed since the last evaluation.
        history: one row per evaluation so far.
    """

    step: int
    tensors: Weights
    losses: list[float]
    history: list[dict[str, float]]


class Keeper(Protocol):
    """Who keeps states, and says when."""

    def due(self) -> bool:
        """Whether to keep the states now."""

    def keep(self, states: list[State]) -> None:
        """Keep one state per seed; it may raise to stop the training."""


@dataclass
class Outcome:
    """What came of one seed.

    Attributes:
        curve: column -> values, one per evaluation; `step` is the first column.
        weights: final parameters by name, on the CPU; of a diverged seed, the last ones with a finite loss and gradient (on a
            GPU: those found at the next evaluation).
        diverged: the update whose loss or gradient was not finite, or None.
        facts: numbers of the run that have no step, such as the covered share.
    """

    curve: dict[str, list[float]]
    weights: Weights
    diverged: int | None = None
    facts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """Where a job stands; handed to the caller after every evaluation. `since` is the step that it went on from."""

    step: int
    steps: int
    seconds: float
    train_acc: list[float]
    test_acc: list[float]
    since: int = 0


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
        # Where the seeds stand: updates done, the evaluations so far, the loss parts of the interval that `train` is in, and
        # those of its beginning where the training goes on from inside one.
        self.at = 0
        self.history: list[dict[str, list[float]]] = []
        self.losses = self.carried = torch.zeros(2, self.seeds, dtype=torch.float64, device=device)
        # Per seed, how many updates were done before the first with a loss or gradient that is not finite; -1 without one.
        self.done = torch.zeros((), dtype=torch.int64, device=device)
        self.bad = torch.full((self.seeds,), -1, dtype=torch.int64, device=device)
        self.last_good: dict[int, Weights] = {}
        # Dropout's masks are drawn from a key per step, which a captured update could not change.
        self.step = Replayed(self.update, self.untouched) if on_gpu and experiment.engine.factored else self.update

    def run(
        self,
        report: Callable[[Progress], None] | None = None,
        keeper: Keeper | None = None,
        ended: Callable[[int, Outcome], None] | None = None,
    ) -> list[Outcome]:
        """Train to the end, or to the early stop, from the beginning or from where `resume` has put it.

        Args:
            report: told where the job stands, after every evaluation.
            keeper: keeps the states meanwhile.
            ended: told what came of a seed as soon as it ends.

        Returns:
            One outcome per seed, in the experiment's order.
        """
        config, started, since = self.config, time.monotonic(), self.at
        outcomes: dict[int, Outcome] = {}
        self.history = self.history or [self.evaluate(0)]

        def end(seeds: Iterator[int]) -> None:
            for seed in seeds:
                if seed not in outcomes:
                    outcomes[seed] = self.outcome(seed)
                    if ended:
                        ended(seed, outcomes[seed])

        def end_diverged() -> None:
            end(seed for seed, step in enumerate(self.bad.tolist()) if step >= 0)

        def pause() -> None:
            if keeper and keeper.due():
                end_diverged()  # a diverged seed has an outcome, and no state to go on from
                keeper.keep(self.states())

        while len(outcomes) < self.seeds:
            stop = min((self.at // config.eval_every + 1) * config.eval_every, config.steps)
            losses = self.train(self.at, stop, pause)
            end_diverged()
            if len(outcomes) == self.seeds:
                break
            self.history.append(row := self.evaluate(self.at, losses))
            # A seed ends at its own step, whatever the seeds beside it still do.
            end(seed for seed in range(self.seeds) if self.at == config.steps or self.ended(seed))
            if report:
                elapsed = time.monotonic() - started
                accuracies = row[self.experiment.memorized], row[self.experiment.judged[0]]
                report(Progress(self.at, config.steps, elapsed, *accuracies, since))
        return [outcomes[seed] for seed in range(self.seeds)]

    def train(self, start: int, stop: int, pause: Callable[[], None] | None = None) -> Tensor:
        """The updates after step `start` up to step `stop`, without waiting for the device in between.

        `pause` is called between two of them. It ends early where every seed has diverged (on a CPU, where that shows at once).
        Returns the loss parts per seed summed over these updates (and those before a stop, where it goes on from one), float64
        [2, seeds].
        """
        experiment = self.experiment
        self.losses, self.carried = self.carried.clone(), torch.zeros_like(self.carried)
        drawn = self.draw(experiment.batches, start, stop)
        kl_drawn = drawn if experiment.kl_batches is None else self.draw(experiment.kl_batches, start, stop)
        for step, picks, kl_picks in zip(range(start + 1, stop + 1), drawn, kl_drawn, strict=True):
            self.set_rate(self.config.learning_rate * min(1.0, step / max(1, self.config.warmup_steps)))
            self.losses += self.step(picks, kl_picks, *self.dropout_keys(step))
            self.at = step
            if len(self.last_good) == self.seeds:
                break
            if pause and step < stop:
                pause()
        return self.losses

    def states(self) -> list[State]:
        """Where every seed stands."""
        tensors = {}
        for name, parameter in self.weights.items():
            tensors[f"weight/{name}"] = parameter.detach().cpu()
            tensors |= {f"{moment}/{name}": self.optimizer.state[parameter][moment].cpu() for moment in MOMENTS}
        return [
            State(
                self.at,
                {name: value[seed].clone() for name, value in tensors.items()},
                self.losses[:, seed].tolist(),
                [{name: values[seed] for name, values in row.items()} for row in self.history],
            )
            for seed in range(self.seeds)
        ]

    def resume(self, states: list[State]) -> None:
        """Stand where these states, one per seed and all of one step, were taken."""
        (self.at,) = {state.step for state in states}
        self.done.fill_(self.at)
        self.carried = torch.tensor([state.losses for state in states], dtype=torch.float64).T.contiguous().to(self.device)
        rows = zip(*(state.history for state in states), strict=True)
        self.history = [{name: [row[name] for row in seeds] for name in seeds[0]} for seeds in rows]
        with torch.no_grad():
            for name, parameter in self.weights.items():
                weight, *moments = (
                    torch.stack([state.tensors[f"{kind}/{name}"] for state in states]).to(self.device)
                    for kind in ("weight", *MOMENTS)
                )
                parameter.copy_(weight)
                steps = torch.tensor(float(self.at), device=self.device)
                self.optimizer.state[parameter] = {"step": steps, **dict(zip(MOMENTS, moments, strict=True))}

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
        self.watch(loss, gradients)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient.contiguous()  # the fused optimizer reads memory in the parameter's order
        self.optimizer.step()
        return loss

    def watch(self, loss: Tensor, gradients: tuple[Tensor, ...]) -> None:
        """Notice seeds whose loss or gradient is not finite; on a CPU, keep their weights as they are before the update."""
        sums = torch.stack([loss.sum(0), *(gradient.flatten(1).sum(1).double() for gradient in gradients)])
        fresh = ~torch.isfinite(sums).all(0) & (self.bad < 0)
        self.bad.copy_(torch.where(fresh, self.done, self.bad))
        self.done += 1
        if not self.bad.is_cuda and fresh.any():
            for seed in fresh.nonzero().flatten().tolist():
                self.last_good[seed] = unstack(self.weights, seed)

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Take back, at the end, what updates inside did to the weights, the optimizer and the watch."""
        changed = (*self.parameters, self.done, self.bad)
        before = [tensor.detach().clone() for tensor in changed]
        moments = {parameter: copy.deepcopy(self.optimizer.state[parameter]) for parameter in self.parameters}
        yield
        with torch.no_grad():
            for tensor, value in zip(changed, before, strict=True):
                tensor.copy_(value)
            for parameter, known in moments.items():
                for key, tensor in self.optimizer.state[parameter].items():
                    tensor.copy_(known[key]) if known else tensor.zero_()

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

    def ended(self, seed: int) -> bool:
        """Whether a seed ends before its last step: memorized (a control), or stopped early."""
        config, now = self.config, self.history[-1]
        if config.until == "memorized":
            return now[self.experiment.memorized][seed] >= MEMORIZED
        if config.early_stop is None:
            return False
        steps = [row["step"][0] for row in self.history]
        accuracy = [min(row[name][seed] for name in self.experiment.judged) for row in self.history]
        start = grokking_time(steps, accuracy, config.threshold, config.hold)
        return start is not None and steps[-1] >= start + max(config.hold, config.early_stop)

    def outcome(self, seed: int) -> Outcome:
        """What has come of a seed by now."""
        bad = int(self.bad[seed])
        diverged = bad + 1 if bad >= 0 else None
        facts = {}
        if self.experiment.taught:
            targets = self.experiment.taught.targets
            facts["covered_share"] = targets.covered[seed].double().mean().item()
            facts["target_entropy"] = targets.entropy[seed][targets.covered[seed]].double().mean().item()
        curve = {name: [row[name][seed] for row in self.history] for name in self.history[0]}
        weights = self.last_good[seed] if seed in self.last_good else unstack(self.weights, seed)
        return Outcome(curve, weights, diverged, facts)


def _fields(rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    return rows.a, rows.b, rows.query


def _mean(values: Tensor, mask: Tensor) -> list[float]:
    """Mean over the masked entries per seed; NaN for an empty mask."""
    return ((values * mask).sum(1) / mask.sum(1)).tolist()
