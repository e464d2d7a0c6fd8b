"""The one enumeration of runs: from parameters to every run of a study, what it is made from, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from typing import Any

from pydantic import ValidationError

from grokdistill import sources
from grokdistill.batches import updates
from grokdistill.config import IDENTITY, STAGES, RunConfig
from grokdistill.data import train_size
from grokdistill.params import Model, Params, ParamsError, Variant


@dataclass(frozen=True)
class Run:
    """A configuration with one seed, the runs it is made from, and the digest of the sources that make it."""

    config: RunConfig
    parents: dict[str, Run]
    sources: str
    variant: str = ""

    @cached_property
    def fingerprint(self) -> str:
        parents = {role: parent.fingerprint for role, parent in self.parents.items()}
        return fingerprint(self.config.model_dump(exclude_none=True), self.sources, parents)

    @cached_property
    def cell(self) -> str:
        """The run's name without its seed."""
        return "-".join(self.config.cell) + variant_suffix(self.variant)

    @property
    def name(self) -> str:
        return f"{self.cell}-s{self.config.seed}"


def fingerprint(config: dict[str, Any], digest: str, parents: dict[str, str]) -> str:
    """What a run is, in 20 hex digits: configuration, sources and parents' fingerprints; nothing of where or when it ran."""
    recipe = {"config": config, "sources": digest, "parents": parents}
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def variant_suffix(variant: str) -> str:
    """A variant as it stands in names and metrics keys, which have no dots."""
    return f"-{variant}".replace("=", "_").replace(",", "-").replace(".", "p") if variant else ""


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
    def together(self) -> dict[str, tuple[Run, ...]]:
        """Fingerprint -> all runs of its job."""
        return {run.fingerprint: batch for batch in self.batches() for run in batch}

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
        if run:
            add(run)
    recipes.check_variants()
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
        self.known: dict[tuple, Run] = {}
        self.applied: set[str] = set()

    def check_variants(self) -> None:
        """Refuse variants that no run of their stage took up."""
        for stage in STAGES[1:]:
            for variant in getattr(self.params, stage).variants:
                for departure in variant.departures:
                    if repr((stage, departure)) not in self.applied:
                        raise ParamsError(f"{stage}.variants: {departure} applies to no run of the stage")

    def all(self) -> Iterator[Run | None]:
        """Every run that is asked for by name, None where a variant does not apply; parents come along."""
        params = self.params
        main, others = params.primes.pair, params.other_pairs
        few = params.seeds[: others.max_seeds]
        for seed in params.seeds:
            for prime in dict.fromkeys(prime for pair in (params.pairs if seed in few else [main]) for prime in pair):
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
                            for seed in few:
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
        for variant, departure in ((v, fields) for v in (Variant(fields={}), *stage.variants) for fields in v.departures):
            for op in variant.operators or operators:
                for optimizer in variant.optimizers or optimizers:
                    for fraction in fractions:
                        if fraction is not None and fraction not in (variant.fractions or fractions):
                            continue
                        for seed in variant.seeds or self.params.seeds:
                            yield (departure, op, optimizer, *(() if fraction is None else (fraction,)), seed)

    def dataset(self, prime: int, seed: int) -> Run:
        return self._run({"stage": "datasets", "p1": prime, "seed": seed}, {}, {})

    def teacher(self, prime: int, op: str, optimizer: str, seed: int, departure: dict[str, Any]) -> Run:
        fraction = self.params.teachers.fraction
        fields = {"stage": "teachers", "p1": prime, "p1_fraction": fraction, "op": op, "method": "scratch", "seed": seed}
        # A teacher's answers keep gaining structure long after it grokked: it trains to its end where others stop early.
        fields |= self._training(optimizer, train_size(prime, fraction), fraction) | {"early_stop": None}
        return self._run(fields, {"p1_dataset": self.dataset(prime, seed)}, departure)

    def ungrokked(self, prime: int, op: str, optimizer: str, seed: int) -> Run:
        """The control that only memorized: the teacher, stopped as soon as it has."""
        grokked = self.teacher(prime, op, optimizer, seed, {})
        config = grokked.config.model_copy(update={"until": "memorized"})
        return Run(config, grokked.parents, grokked.sources, "until=memorized")

    def baseline(self, pair: tuple, op: str, fraction: float, optimizer: str, seed: int, departure: dict) -> Run:
        fields = self._on_p2("baselines", pair, op, fraction, optimizer, seed) | {"method": "scratch"}
        return self._run(fields, {"p2_dataset": self.dataset(pair[1], seed)}, departure)

    def student(self, pair: tuple, op: str, fraction: float, optimizer: str, seed: int, departure: dict) -> Run:
        stage = self.params.students
        fields = self._on_p2("students", pair, op, fraction, optimizer, seed) | self._distillation(stage)
        fields |= {"teacher": stage.teacher, "teacher_optimizer": stage.teacher_optimizer}
        parents = {"p2_dataset": self.dataset(pair[1], seed)}
        kind, taught_by = (departure.get(key, fields[key]) for key in ("teacher", "teacher_optimizer"))
        if kind in ("grokked", "ungrokked") and taught_by in ("adam", "adamw"):
            make = self.ungrokked if kind == "ungrokked" else partial(self.teacher, departure={})
            parents["teacher"] = make(pair[0], op, taught_by, seed)
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
        # The model is the teacher's: its sizes are no choice of this run.
        sizes = set(Model.model_fields) - {"numbers"}
        return self._run({key: value for key, value in fields.items() if key not in sizes}, parents, departure)

    def _on_p2(
        self, stage: str, pair: tuple, op: str, fraction: float, optimizer: str, seed: int, *,
        p1_fraction: float | None = None, steps: int | None = None,
    ) -> dict[str, Any]:  # fmt: skip
        """Fields of a run on p2's pairs (and, for joint runs, on p1's too)."""
        examples = train_size(pair[1], fraction) + (train_size(pair[0], p1_fraction) if p1_fraction else 0)
        fields = {"stage": stage, "p1": pair[0], "p2": pair[1], "op": op, "fraction": fraction, "seed": seed}
        if p1_fraction:
            fields["p1_fraction"] = p1_fraction
        return fields | self._training(optimizer, examples, min(fraction, p1_fraction or 1.0), steps)

    def _training(self, optimizer: str, examples: int, fraction: float, steps: int | None = None) -> dict[str, Any]:
        training = self.params.training
        scarce = fraction <= training.scarce_fraction + 1e-9
        length = steps or (training.steps_scarce if scarce else training.steps)
        if training.unit == "epochs":
            length = updates(length, examples, training.batch_size, training.short_batch)
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

    def _run(self, fields: dict[str, Any], parents: dict[str, Run], departure: dict[str, Any]) -> Run | None:
        """The run with these fields and a variant's departure from them; None where the departure has nothing to change."""
        stage = fields["stage"]
        key = repr((sorted(fields.items()), departure))
        if key in self.known:
            return self.known[key]
        wrong = [name for name in departure if name not in RunConfig.model_fields or name in IDENTITY]
        if wrong:
            allowed = sorted(set(RunConfig.model_fields) - IDENTITY)
            raise ParamsError(
                f"{stage}.variants: {wrong[0]} is not a field that a variant can set; allowed: {', '.join(allowed)}"
            )
        if any(value is None for name, value in departure.items() if name != "early_stop"):
            raise ParamsError(f"{stage}.variants: a field cannot be null, found {departure}")
        if any(fields.get(name) is None for name in departure if name != "early_stop"):
            return None
        chosen = fields | departure
        if chosen.get("early_stop") is not None:
            chosen |= self.params.evaluation.model_dump(include={"threshold", "hold"})
        # Controls without a trained teacher, or without logits, do not depend on how those would be chosen.
        if chosen.get("teacher") in ("random", "oracle"):
            chosen["teacher_optimizer"] = None
        if chosen.get("teacher") == "oracle":
            chosen |= {"temperature_reading": None, "temperature": None}
        try:
            config = RunConfig.model_validate(chosen)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            name = ".".join(map(str, first["loc"]))
            raise ParamsError(f"{stage}: field {name} of a run: {first['msg']}, found {first['input']!r}") from None
        if config.d_model and config.d_model % config.n_heads:
            raise ParamsError(f"{stage}: n_heads {config.n_heads} does not divide d_model {config.d_model}")
        if config.temperature_reading == "matched":
            answers = min(config.p1, config.p2) if stage == "joint" else config.p1  # each teacher has its prime's
            if config.temperature >= math.log(answers):
                raise ParamsError(
                    f"{stage}.temperature: no targets have a mean entropy of {config.temperature:g} nats (reading: matched): "
                    f"over {answers} answers it is below ln {answers} = {math.log(answers):.3f}"
                )
        changed = {name: getattr(config, name) for name in departure if getattr(config, name) != fields[name]}
        shown = {name: f"{value:g}" if isinstance(value, float) else value for name, value in changed.items()}
        variant = ",".join(f"{name}={value}" for name, value in sorted(shown.items()))
        self.applied.add(repr((stage, departure)))
        source = sources.digest(f"grokdistill.stages.{stage}")
        self.known[key] = Run(config, parents, source, variant)
        return self.known[key]
