"""The one enumeration of runs: from parameters to every run of a study, what it is made from, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

from pydantic import ValidationError

from grokdistill import sources
from grokdistill.batches import batches_per_epoch
from grokdistill.config import STAGES, RunConfig
from grokdistill.data import train_size
from grokdistill.params import Params, ParamsError, Variant


@dataclass(frozen=True)
class Run:
    """A configuration with one seed, the runs it is made from, and the digest of the sources that make it."""

    config: RunConfig
    parents: dict[str, Run]
    sources: str
    variant: str = ""

    @cached_property
    def fingerprint(self) -> str:
        """What the run is, in 20 hex digits: configuration, sources and parents; nothing of where or when it ran."""
        recipe = {
            "config": self.config.model_dump(exclude_none=True),
            "sources": self.sources,
            "parents": {role: parent.fingerprint for role, parent in self.parents.items()},
        }
        text = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    @cached_property
    def cell(self) -> str:
        """The run's name without its seed."""
        suffix = f"-{self.variant.replace('=', '_').replace(',', '-')}" if self.variant else ""
        return "-".join(self.config.cell) + suffix

    @property
    def name(self) -> str:
        return f"{self.cell}-s{self.config.seed}"


@dataclass(frozen=True)
class Study:
    """Every run of a study, parents before children, without duplicates."""

    params: Params
    runs: tuple[Run, ...]

    def of(self, stage: str) -> list[Run]:
        """The stage's runs, in the order of the parameters."""
        return [run for run in self.runs if run.config.stage == stage]

    def batches(self) -> list[tuple[Run, ...]]:
        """Runs that one job trains side by side: seeds of one cell, `execution.seeds_per_job` at a time."""
        cells: dict[tuple[str, str], list[Run]] = {}
        for run in self.runs:
            cells.setdefault((run.config.stage, run.cell), []).append(run)
        size = self.params.execution.seeds_per_job
        return [tuple(runs[i : i + size]) for runs in cells.values() for i in range(0, len(runs), size)]

    @cached_property
    def ahead(self) -> dict[str, Run]:
        """Fingerprint -> the run before it in its job: the first one's job trains all, the others find theirs done."""
        return {later.fingerprint: earlier for batch in self.batches() for earlier, later in pairwise(batch)}


def enumerate_runs(params: Params) -> Study:
    """Every run that the parameters ask for, with all that those are made from.

    Raises:
        ParamsError: where a variant names a field or value that a run cannot have.
    """
    found: dict[str, Run] = {}
    names: dict[tuple[str, str], str] = {}
    recipes = _Recipes(params)

    def add(run: Run) -> None:
        if run.fingerprint in found:
            return
        for parent in run.parents.values():
            add(parent)
        clash = names.setdefault((run.config.stage, run.name), run.fingerprint)
        if clash != run.fingerprint:
            raise ParamsError(f"{run.config.stage}: two different runs would both be named {run.name}")
        found[run.fingerprint] = run

    for run in recipes.all():
        add(run)
    order = {stage: place for place, stage in enumerate(STAGES)}
    return Study(params, tuple(sorted(found.values(), key=lambda run: order[run.config.stage])))


class _Recipes:
    """How each stage's runs follow from the parameters."""

    def __init__(self, params: Params) -> None:
        self.params = params
        self.base = {
            **params.model.model_dump(),
            **params.optim.model_dump(),
            **params.training.model_dump(include={"batch_size", "short_batch", "precision", "early_stop"}),
            "eval_every": params.evaluation.every,
            "loss": params.teachers.loss,
        }
        if params.training.early_stop is not None:
            self.base |= params.evaluation.model_dump(include={"threshold", "hold"})
        self.known: dict[tuple, Run] = {}

    def all(self) -> Iterator[Run]:
        """Every run that is asked for by name; parents come along."""
        params = self.params
        main, others = params.primes.pair, params.other_pairs
        for seed in params.seeds:
            for prime in dict.fromkeys(prime for pair in params.pairs for prime in pair):
                yield self.dataset(prime, seed)
        stage = params.teachers
        for departure, op, optimizer, seed in self._cells(stage, stage.operators, stage.optimizers, (None,)):
            yield self.teacher(main[0], op, optimizer, seed, departure)
        for stage, make in ((params.baselines, self.baseline), (params.students, self.student)):
            for departure, op, optimizer, fraction, seed in self._cells(
                stage, stage.operators, stage.optimizers, stage.fractions
            ):
                yield make(main, op, fraction, optimizer, seed, departure)
            for pair in others.pairs:
                for op in others.operators:
                    for optimizer in others.optimizers:
                        for fraction in others.fractions:
                            for seed in params.seeds:
                                yield make(pair.pair, op, fraction, optimizer, seed, {})
        stage = params.joint
        for method in stage.methods:
            for cell in stage.cells:
                for departure, op, _, _, seed in self._cells(stage, stage.operators, ("adamw",), (cell.fraction,)):
                    yield self.joint(main, op, (cell.p1_fraction, cell.fraction), method, seed, departure)
        stage = params.continual
        for method in stage.methods:
            for departure, op, _, fraction, seed in self._cells(stage, stage.operators, ("adamw",), stage.fractions):
                yield self.continual(main, op, fraction, method, seed, departure)

    def _cells(self, stage: Any, operators: tuple, optimizers: tuple, fractions: tuple) -> Iterator[tuple]:
        """The stage's grid, then its variants on the cells they name; a fraction of None is left out of the tuple."""
        for variant in (Variant(fields={}), *stage.variants):
            for op in variant.operators or operators:
                for optimizer in variant.optimizers or optimizers:
                    for fraction in fractions:
                        if fraction is not None and fraction not in (variant.fractions or fractions):
                            continue
                        for seed in self.params.seeds:
                            yield (variant.fields, op, optimizer, *(() if fraction is None else (fraction,)), seed)

    def dataset(self, prime: int, seed: int) -> Run:
        return self._run({"stage": "datasets", "p1": prime, "seed": seed}, {}, {})

    def teacher(self, prime: int, op: str, optimizer: str, seed: int, departure: dict[str, Any]) -> Run:
        fraction = self.params.teachers.fraction
        fields = {"stage": "teachers", "p1": prime, "p1_fraction": fraction, "op": op, "method": "scratch", "seed": seed}
        fields |= self._training(optimizer, train_size(prime, fraction), scarce=False)
        return self._run(fields, {"p1_dataset": self.dataset(prime, seed)}, departure)

    def baseline(self, pair: tuple, op: str, fraction: float, optimizer: str, seed: int, departure: dict) -> Run:
        fields = self._on_p2("baselines", pair, op, fraction, optimizer, seed) | {"method": "scratch"}
        return self._run(fields, {"p2_dataset": self.dataset(pair[1], seed)}, departure)

    def student(self, pair: tuple, op: str, fraction: float, optimizer: str, seed: int, departure: dict) -> Run:
        stage = self.params.students
        fields = self._on_p2("students", pair, op, fraction, optimizer, seed) | self._distillation(stage)
        fields |= {"teacher": stage.teacher, "teacher_optimizer": stage.teacher_optimizer}
        fields |= {key: departure[key] for key in ("teacher", "teacher_optimizer") if key in departure}
        parents = {"p2_dataset": self.dataset(pair[1], seed)}
        if fields["teacher"] in ("grokked", "ungrokked"):
            until = {} if fields["teacher"] == "grokked" else {"until": "memorized"}
            parents["teacher"] = self.teacher(pair[0], op, fields["teacher_optimizer"], seed, until)
        return self._run(fields, parents, departure)

    def joint(self, pair: tuple, op: str, fractions: tuple, method: str, seed: int, departure: dict) -> Run:
        stage = self.params.joint
        fields = self._on_p2("joint", pair, op, fractions[1], "adamw", seed, p1_fraction=fractions[0])
        fields |= stage.model_dump(include={"d_model", "n_heads", "d_mlp", "batches"}) | {"method": method}
        parents = {"p1_dataset": self.dataset(pair[0], seed), "p2_dataset": self.dataset(pair[1], seed)}
        if method == "distilled":
            fields |= self._distillation(stage)
            parents["teacher"] = self.teacher(pair[0], op, "adamw", seed, {})
            parents["p2_teacher"] = self.student(pair, op, fractions[1], "adamw", seed, {})
        return self._run(fields, parents, departure)

    def continual(self, pair: tuple, op: str, fraction: float, method: str, seed: int, departure: dict) -> Run:
        stage = self.params.continual
        fields = self._on_p2("continual", pair, op, fraction, "adamw", seed, steps=stage.steps) | {"method": method}
        parents = {role: self.dataset(prime, seed) for role, prime in zip(("p1_dataset", "p2_dataset"), pair)}
        parents["teacher"] = self.teacher(pair[0], op, "adamw", seed, {})
        if method == "distilled":
            fields |= self._distillation(stage) | stage.model_dump(include={"modulus_token", "kl_inputs"})
        return self._run(fields, parents, departure)

    def _on_p2(
        self, stage: str, pair: tuple, op: str, fraction: float, optimizer: str, seed: int, *,
        p1_fraction: float | None = None, steps: int | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Fields of a run on p2's pairs (and, for joint runs, on p1's too)."""
        examples = train_size(pair[1], fraction) + (train_size(pair[0], p1_fraction) if p1_fraction else 0)
        scarce = min(fraction, p1_fraction or 1.0) <= self.params.training.scarce_fraction + 1e-9
        fields = {"stage": stage, "p1": pair[0], "p2": pair[1], "op": op, "fraction": fraction, "seed": seed}
        if p1_fraction:
            fields["p1_fraction"] = p1_fraction
        return fields | self._training(optimizer, examples, scarce, steps)

    def _training(self, optimizer: str, examples: int, scarce: bool, steps: int | None = None) -> dict[str, Any]:
        training = self.params.training
        length = steps or (training.steps_scarce if scarce else training.steps)
        if training.unit == "epochs":
            length *= batches_per_epoch(examples, training.batch_size, training.short_batch)
        decay = self.params.optim.weight_decay if optimizer == "adamw" else 0.0
        return self.base | {"optimizer": optimizer, "steps": length, "weight_decay": decay}

    @staticmethod
    def _distillation(stage: Any) -> dict[str, Any]:
        return {
            "method": "distilled",
            "alpha": stage.alpha,
            "position": stage.position,
            "temperature_reading": stage.temperature.reading,
            "temperature": stage.temperature.value,
        }

    def _run(self, fields: dict[str, Any], parents: dict[str, Run], departure: dict[str, Any]) -> Run:
        stage = fields["stage"]
        changed = {key: value for key, value in departure.items() if fields.get(key) != value}
        key = (*fields.items(), *sorted(changed.items()))
        if key in self.known:
            return self.known[key]
        try:
            config = RunConfig.model_validate(fields | changed)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(map(str, first["loc"]))
            raise ParamsError(f"{stage}: field {name} of a run: {first['msg']}, found {first['input']!r}") from None
        if config.d_model and config.d_model % config.n_heads:
            raise ParamsError(f"{stage}: n_heads {config.n_heads} does not divide d_model {config.d_model}")
        variant = ",".join(f"{name}={value}" for name, value in sorted(changed.items()))
        source = sources.digest(f"grokdistill.stages.{stage}")
        self.known[key] = Run(config, parents, source, variant)
        return self.known[key]
