"""Verdicts on the paper's claims: the claims are data (`data/paper/claims.yaml`), this is the engine that reads them.

A claim is a set of named parts. A part names the runs it needs (`where`: every combination of listed values is one
cell, with one run per seed) and a predicate that each of its cells meets or does not. A claim is

- `not run` when a needed cell is absent, has fewer than `min_n` seeds, several runs of one seed, or runs too short to tell,
- `reproduced` when every cell of every part holds,
- `not reproduced` when no cell holds, or an essential part has no cell that holds,
- `partly` otherwise.

Where every cell has runs, but too few of them, `measured` also says what they come to so far. That is no verdict.

A predicate turns each run into a span, what is known of its number: (v, v) when measured, (15000, inf) for a step not
reached in 15,000, (-inf, inf) for the number that a divergence took. Medians and bounds look at both ends, so that a
censored run counts for what it shows and never becomes a number. To add a predicate, subclass `Predicate` or
`CurvePredicate` and list it in `AnyPredicate`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import inf, isnan
from operator import ge, gt, le
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from grokdistill.files import DamagedFile, write
from grokdistill.intervals import bootstrap_median, wilson

if TYPE_CHECKING:
    from grokdistill.plan import Plan

Scalar = str | int | float
Curves = Callable[[str, str], pd.DataFrame]
Span = tuple[float, float]
Number = Literal[
    "t_mem", "t_grok", "gap", "sharpness", "final_train_acc", "final_test_acc", "final_p1_acc",
    "norm_start", "norm_grok", "norm_end",
]  # fmt: skip
CurveColumn = Literal[
    "train_loss", "train_acc", "test_acc", "same_acc", "different_acc", "p1_acc", "p1_train_acc", "p1_same_acc",
    "p1_different_acc", "p1_covered_acc", "p1_uncovered_acc", "kl", "weight_norm", "fourier_own", "fourier_teacher",
]  # fmt: skip
SELECTORS: dict[str, tuple[str, ...]] = {  # column -> its values, where they are few; pair stands for p1 and p2
    "stage": ("teachers", "baselines", "students", "joint", "continual"), "pair": ("main", "other"),
    "op": ("add", "sub"), "optimizer": ("adam", "adamw"), "method": ("scratch", "distilled", "supervised"),
    "loss": ("stablemax", "softmax"), "position": ("operator", "modulus"), "variant": (), "teacher": (),
    "p1": (), "p2": (), "p1_fraction": (), "fraction": (), "alpha": (), "temperature": (),
}  # fmt: skip
COLUMNS = ["claim", "figure", "statement", "expected", "measured", "interval", "n", "verdict"]


class ClaimsError(DamagedFile):
    """Claims that cannot be judged; the message names the file or the claim, and the key."""


class Missing(Exception):
    """A cell that cannot be judged; `args` are what it needs and how many of its runs are usable."""


def _text(span: Span, unit: str = "") -> str:
    """A span in words: a number, a bound, or `unknown`."""
    low, high = (f"{v:.0f}" if 1000 <= abs(v) < inf else f"{v:.{3 if unit else 4}g}{unit}" for v in span)
    if span[0] == span[1]:
        return low
    if span[0] == -inf:
        return "unknown" if span[1] == inf else f"< {high}"
    return f"{low}..{high}" if span[1] < inf else f"> {low}" + ("" if unit else " (censored)")


def _range(spans: Sequence[Span], unit: str = "") -> str:
    first, last = _text(min(spans), unit), _text(max(spans, key=lambda span: span[::-1]), unit)
    return first if first == last else f"{first} to {last}"


def _ratio(top: Span, bottom: Span) -> Span:
    """The ratio of two positive spans; where it may be as small as one likes it has no lower end."""
    low = top[0] / max(bottom[1], 1e-9)
    return low if low > 0 else -inf, top[1] / bottom[0] if bottom[0] > 0 else inf


def _known(runs: pd.DataFrame, column: str) -> list[Span]:
    """A column of runs.csv as spans."""
    spans = []
    for run in runs.to_dict("records"):
        low = high = float(run[column])
        if isnan(low):
            grokked, steps = run["status"] == "grokked", run["steps"]
            if column == "t_mem" or (column == "t_grok" and not grokked):
                low, high = steps, inf
            elif column == "gap":  # without t_mem, a run that grokked did so before it memorized
                low, high = (-inf, run["t_grok"] - steps) if grokked else (steps - run["t_mem"], inf)
            elif run["status"] == "diverged":
                low, high = -inf, inf
            else:
                raise Missing(column, 0)
        spans.append((-inf if isnan(low) else float(low), float(high)))
    return spans


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Predicate(_Strict):
    """Bounds on the median over a cell's seeds; a subclass says which number is taken from each run."""

    subject: ClassVar[str]  # the number's name in the column `expected`; may quote fields
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Predicate:
        if not self._bounds():
            raise ValueError("needs a bound: at_least, above or at_most")
        return self

    def _bounds(self) -> list[tuple[str, Callable[[float, float], bool], int, float]]:
        """Sign, comparison, the end of the span that is compared, and limit."""
        known = [(">=", ge, 0, self.at_least), (">", gt, 0, self.above), ("<=", le, 1, self.at_most)]
        return [(sign, compare, end, limit) for sign, compare, end, limit in known if limit is not None]

    @property
    def unit(self) -> str:
        return ""

    @property
    def timed(self) -> bool:
        """Whether a run that grokked has told all that is asked, however short it is."""
        return getattr(self, "column", "t_grok") in ("t_mem", "t_grok", "gap")

    def spans(self, runs: pd.DataFrame, other: pd.DataFrame, curves: Curves) -> list[Span]:
        """What is known of each run of a cell; `other` are the runs of the same seeds to compare with."""
        raise NotImplementedError

    def centre(self, spans: Sequence[Span]) -> Span:
        """The median, as far as censoring lets it be known."""
        low, high = np.median(np.array(spans), axis=0)
        return float(low), float(high)

    def holds(self, spans: Sequence[Span]) -> bool:
        """Whether the cell lies within the bounds for certain."""
        centre = self.centre(spans)
        return all(compare(centre[end], limit) for _, compare, end, limit in self._bounds())

    def expected(self) -> str:
        """The predicate in words."""
        limits = " and ".join(f"{sign} {limit:g}" for sign, _, _, limit in self._bounds())
        subject = self.subject.format(**self.model_dump()).replace(" / None", "").replace(" to None", "")
        return f"{subject} {limits}"

    def measured(self, cells: Sequence[Sequence[Span]]) -> str:
        """The cells' medians: one number, or the smallest to the largest."""
        return _range([self.centre(spans) for spans in cells], self.unit)

    def interval(self, cells: Sequence[Sequence[Span]]) -> str:
        """The bootstrap intervals of all cells' medians, from the lowest end to the highest."""
        return _range([end for spans in cells for end in self._ends(spans)], self.unit)

    def _ends(self, spans: Sequence[Span]) -> tuple[Span, Span]:
        """Where the interval of a cell's median begins and ends, as far as censoring lets it be known."""
        (first_low, last_low), (first_high, last_high) = (bootstrap_median(side) for side in zip(*spans))
        return (first_low, first_high), (last_low, last_high)


class Grokked(Predicate):
    """The share of runs that grokked (within the part's `steps`), with a Wilson interval over the part's runs."""

    kind: Literal["grokked"]
    subject = "share grokked"

    def spans(self, runs: pd.DataFrame, other: pd.DataFrame, curves: Curves) -> list[Span]:
        return [(float(hit), float(hit)) for hit in runs["status"] == "grokked"]

    def centre(self, spans: Sequence[Span]) -> Span:
        share = sum(low for low, _ in spans) / len(spans)
        return share, share

    def measured(self, cells: Sequence[Sequence[Span]]) -> str:
        return "{}/{} grok".format(*self._count(cells))

    def interval(self, cells: Sequence[Sequence[Span]]) -> str:
        return "{:.2f} to {:.2f}".format(*wilson(*self._count(cells)))

    @staticmethod
    def _count(cells: Sequence[Sequence[Span]]) -> tuple[int, int]:
        return sum(int(low) for spans in cells for low, _ in spans), sum(map(len, cells))


class Value(Predicate):
    """The median of a column of runs.csv, or of its ratio to another column (`over`)."""

    kind: Literal["value"]
    column: Number
    over: Number | None = None
    subject = "median {column} / {over}"

    def spans(self, runs: pd.DataFrame, other: pd.DataFrame, curves: Curves) -> list[Span]:
        own = _known(runs, self.column)
        return [_ratio(*pair) for pair in zip(own, _known(runs, self.over), strict=True)] if self.over else own


class Paired(Predicate):
    """The median over seeds of a comparison with the run of the same seed in `versus` (what changes in `where`).

    `speedup` is versus / own, for times; `gain` is own - versus, for accuracies and norms.
    """

    kind: Literal["paired"]
    column: Number
    compare: Literal["speedup", "gain"]
    versus: dict[str, Scalar] = Field(min_length=1)
    subject = "median paired {compare} in {column}"

    @property
    def unit(self) -> str:
        return "x" if self.compare == "speedup" else ""

    def spans(self, runs: pd.DataFrame, other: pd.DataFrame, curves: Curves) -> list[Span]:
        pairs = zip(_known(runs, self.column), _known(other, self.column), strict=True)
        if self.compare == "speedup":
            return [_ratio(versus, own) for own, versus in pairs]
        return [(own[0] - versus[1], own[1] - versus[0]) for own, versus in pairs]


class CurvePredicate(Predicate):
    """The median of a number read off each run's curve between the steps `start` and `end`."""

    column: CurveColumn
    start: int = 0
    end: int | None = None

    def read(self, steps: np.ndarray, values: np.ndarray) -> float:
        """The number of one curve; inf for a step that is never reached."""
        raise NotImplementedError

    def spans(self, runs: pd.DataFrame, other: pd.DataFrame, curves: Curves) -> list[Span]:
        return [(-inf, inf) if r.status == "diverged" else self._span(curves, r.stage, r.name) for r in runs.itertuples()]

    def _span(self, curves: Curves, stage: str, name: str) -> Span:
        try:
            curve = curves(stage, name).reindex(columns=["step", self.column]).dropna()
        except FileNotFoundError:
            raise Missing("curves", 0) from None
        curve = curve[curve["step"].between(self.start, inf if self.end is None else self.end)]
        if curve.empty:
            raise Missing(f"curves of {self.column} from step {self.start}", 0)
        number = self.read(curve["step"].to_numpy(float), curve[self.column].to_numpy(float))
        return (float(curve["step"].iloc[-1]), inf) if number == inf else (number, number)


class Fall(CurvePredicate):
    """The largest fall below the highest value so far, as a share of it: 0 for a curve that never falls."""

    kind: Literal["fall"]
    subject = "largest relative fall of {column}"

    def read(self, steps: np.ndarray, values: np.ndarray) -> float:
        return float(np.max(1 - values / np.maximum.accumulate(values)))


class Level(CurvePredicate):
    """The median over the steps."""

    kind: Literal["level"]
    subject = "{column} from step {start} to {end}"

    def read(self, steps: np.ndarray, values: np.ndarray) -> float:
        return float(np.median(values))


class Reach(CurvePredicate):
    """The first step at or above `level`, or at or below it when `falling`."""

    kind: Literal["reach"]
    level: float
    falling: bool = False
    subject = "first step at which {column} passes {level:g}"

    def read(self, steps: np.ndarray, values: np.ndarray) -> float:
        hits = steps[values <= self.level if self.falling else values >= self.level]
        return float(hits[0]) if len(hits) else inf


class Rise(CurvePredicate):
    """The largest rise within `width` steps."""

    kind: Literal["rise"]
    width: int = Field(gt=0)
    subject = "largest rise of {column} in {width} steps from step {start}"

    def read(self, steps: np.ndarray, values: np.ndarray) -> float:
        first = np.searchsorted(steps, steps - self.width)
        return max(float(value - values[i : j + 1].min()) for j, (i, value) in enumerate(zip(first, values, strict=True)))


AnyPredicate = Annotated[Grokked | Value | Paired | Fall | Level | Reach | Rise, Field(discriminator="kind")]


def _check_selector(where: Mapping[str, Any]) -> None:
    for key, given in where.items():
        if key not in SELECTORS:
            raise ValueError(f"unknown column {key!r}; known: {', '.join(SELECTORS)}")
        for value in given if isinstance(given, list) else [given]:
            if SELECTORS[key] and value not in SELECTORS[key]:
                raise ValueError(f"unknown value {value!r} of {key}; known: {', '.join(SELECTORS[key])}")


class Part(_Strict):
    """The runs that a part needs, and what must hold in each of their cells."""

    where: dict[str, Scalar | Annotated[list[Scalar], Field(min_length=1)]]
    predicate: AnyPredicate
    steps: int | None = Field(
        None, gt=0, description="Times are judged as of this step, all else at the end of runs that have it."
    )
    among: Literal["all", "grokked"] = Field("all", description="grokked: leave out runs that did not.")
    essential: bool = Field(False, description="If none of its cells holds, the claim is not reproduced.")

    @field_validator("where")
    @classmethod
    def _selects(cls, where: dict[str, Any]) -> dict[str, Any]:
        _check_selector(where)
        if where.get("stage") not in SELECTORS["stage"]:
            raise ValueError("one stage is needed")
        return where

    @field_validator("predicate")
    @classmethod
    def _compares(cls, predicate: AnyPredicate) -> AnyPredicate:
        _check_selector(getattr(predicate, "versus", {}))
        return predicate

    def when(self) -> str:
        """What `steps` asks, in words."""
        if self.steps is None:
            return ""
        return f", by step {self.steps}" if self.predicate.timed else f", after {self.steps} steps or more"


class Claim(_Strict):
    """One claim: where it stands in the paper, what it says, and how it is judged."""

    id: str = Field(pattern=r"^[a-z0-9-]+$")
    section: str
    figure: str = ""
    statement: str
    definition: str = Field("", description="What the paper's words were taken to mean, and why.")
    min_n: int = Field(3, gt=0, description="Seeds that every cell needs.")
    parts: dict[str, Part] = Field(min_length=1)


class _Loader(yaml.SafeLoader):
    """Plain YAML in which a repeated key is an error, not a silent loss."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if repeated := {key for key in keys if keys.count(key) > 1}:
            raise ValueError(f"line {node.start_mark.line + 1}: repeated key {', '.join(sorted(repeated))}")
        return super().construct_mapping(node, deep)


def load_claims(path: Path | str) -> list[Claim]:
    """The claims of a YAML file, a mapping from id to claim.

    Raises:
        ClaimsError: naming the claim and the key of every mistake.
    """
    try:
        content = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise ClaimsError(f"{path}: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise ClaimsError(f"{path}: expected a mapping from ids to claims")
    claims, mistakes = [], []
    for name, entry in content.items():
        try:
            claims.append(Claim.model_validate(entry | {"id": name}))
        except ValidationError as error:
            mistakes += [f"claim {name!r}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    if mistakes:
        raise ClaimsError("\n  ".join([f"{path}:", *mistakes]))
    return claims


def _listed(where: Mapping[str, Any]) -> dict[str, list[Scalar]]:
    return {key: value if isinstance(value, list) else [value] for key, value in where.items()}


def _cells(where: Mapping[str, Any], pairs: Sequence[tuple[int, int]]) -> list[dict[str, Any]]:
    """Every combination of the listed values, for every prime pair."""
    listed = _listed(where) | {"pair": pairs}
    cells = [dict(zip(listed, values, strict=True)) for values in product(*listed.values())]
    return [{"variant": "", "p1": cell["pair"][0], "p2": cell["pair"][1]} | cell for cell in cells]


def _label(key: str, value: Any) -> str:
    if key == "pair":
        return "-".join(map(str, value))
    return f"{key.removesuffix('fraction').replace('_', ' ')}{value:.0%}" if "fraction" in key else str(value)


def _told(where: Mapping[str, Any]) -> str:
    """Fields in words; those that a variant's own name says are left to it."""
    said = str(where.get("variant", "")).split(",")
    listed = [(key, values) for key, values in _listed(where).items() if f"{key}={where[key]}" not in said]
    return " ".join("/".join(_label(key, value) for value in values) for key, values in listed)


def _in_cell(cell: Mapping[str, Any], runs: pd.DataFrame) -> np.ndarray:
    """Which runs are a cell's, [runs]."""
    mask = np.ones(len(runs), bool)
    for key, value in cell.items():
        if key == "pair" or (key == "p2" and cell["stage"] == "teachers"):
            continue
        if isinstance(value, str):
            mask &= (runs[key] == value).to_numpy(bool)
        else:
            mask &= np.isclose(pd.to_numeric(runs[key], errors="coerce").to_numpy(float), value)
    return mask


def _pick(cell: Mapping[str, Any], runs: pd.DataFrame, part: Part) -> pd.DataFrame:
    """A cell's runs, as they stood at the part's step; `runs` are indexed by seed."""
    picked = runs[_in_cell(cell, runs)]
    if picked.index.has_duplicates:
        twice = picked.index[picked.index.duplicated()][0]
        raise Missing(f"one run of a seed, has {' and '.join(picked['name'][picked.index == twice])}", 0)
    if part.steps is not None:
        told = (picked["status"] == "grokked") & part.predicate.timed | (picked["status"] == "diverged")
        short = ~told & (picked["steps"] < part.steps)
        if short.any():
            raise Missing(f"{part.steps} steps, has {picked['steps'][short].max()}", int((~short).sum()))
        if (late := picked["t_grok"] > part.steps).any():
            picked = picked.copy()
            picked.loc[late, ["status", "steps", "t_grok", "gap"]] = "censored", part.steps, np.nan, np.nan
    return picked


class _Cell(NamedTuple):
    """One cell that counts: what tells it from the part's others, its runs' spans, and whether it holds."""

    label: str
    spans: list[Span]
    holds: bool
    diverged: list[str]


class _Judged(NamedTuple):
    """One part: the cells that count, what the others need, and every cell's number of seeds."""

    cells: list[_Cell]
    needs: list[str]
    n: list[int]


def _judge(part: Part, runs: pd.DataFrame, curves: Curves, pairs: Sequence[tuple[int, int]], min_n: int) -> _Judged:
    judged, lacking = _Judged([], [], []), dict[str, list[str]]()
    wanted, versus = _cells(part.where, pairs), getattr(part.predicate, "versus", {})
    for cell in wanted:
        named = [key for key, value in part.where.items() if isinstance(value, list) or value == "other"]
        label = " ".join(_label(key, cell[key]) for key in named)
        try:
            own = _pick(cell, runs, part)
            other = _pick(cell | versus, runs, part) if versus else own
            if own.empty or other.empty:
                raise Missing("" if own.empty else f"versus {_told(versus)}", 0)
            seeds = own.index.intersection(other.index)
            if len(seeds) < min_n:
                raise Missing(f"{min_n} {'paired seeds' if versus else 'seeds'}, has {len(seeds)}", len(seeds))
            own, other = own.loc[seeds], other.loc[seeds]
            if part.among == "grokked":
                grokked = own["status"] == "grokked"
                if grokked.sum() < min_n:
                    continue
                own, other = own[grokked], other[grokked]
            spans = part.predicate.spans(own, other, curves)
        except Missing as missing:
            lacking.setdefault(missing.args[0], []).append(label)
            judged.n.append(missing.args[1])
        else:
            diverged = sorted({name for side in (own, other) for name in side["name"][side["status"] == "diverged"]})
            judged.cells.append(_Cell(label, spans, part.predicate.holds(spans), diverged))
            judged.n.append(len(spans))
    everywhere = _told({key: value for key, value in part.where.items() if key not in ("stage", "pair")})
    for what, labels in (lacking if wanted else {"another prime pair": []}).items():
        where = ", ".join(labels) if len(labels) < len(wanted) or not wanted else everywhere
        judged.needs.append(f"needs {' '.join(filter(None, [where, what]))} ({part.where['stage']})")
    return judged


def _verdict(parts: Mapping[str, Part], judged: Mapping[str, _Judged]) -> str:
    """The rule at the head of this module."""
    holds = {name: [cell.holds for cell in part.cells] for name, part in judged.items() if part.cells}
    if not holds or any(part.needs for part in judged.values()):
        return "not run"
    if all(all(cells) for cells in holds.values()):
        return "reproduced"
    hopeless = any(parts[name].essential and not any(cells) for name, cells in holds.items())
    return "not reproduced" if hopeless or not any(any(cells) for cells in holds.values()) else "partly"


def _judge_parts(
    claim: Claim, runs: pd.DataFrame, curves: Curves, pairs: Mapping[str, Sequence[tuple[int, int]]], min_n: int
) -> dict[str, _Judged]:
    """Every part of a claim, by name."""
    return {
        name: _judge(part, runs, curves, pairs[str(part.where.get("pair", "main"))], min_n)
        for name, part in claim.parts.items()
    }


def _numbers(claim: Claim, judged: Mapping[str, _Judged]) -> tuple[list[str], list[str]]:
    """What was measured, and the intervals, of every part with a cell that counts."""
    counted = [(name, claim.parts[name].predicate, part.cells) for name, part in judged.items() if part.cells]
    measured = [_measured(*each) for each in counted]
    return measured, [predicate.interval([cell.spans for cell in cells]) for _, predicate, cells in counted]


def _measured(name: str, predicate: Predicate, cells: Sequence[_Cell]) -> str:
    """A part's numbers, the cells in which it fails, and the runs that diverged."""
    text = f"{name}: {predicate.measured([cell.spans for cell in cells])}"
    failing = [f"{cell.label} {predicate.measured([cell.spans])}" for cell in cells if not cell.holds]
    if failing:
        text += " (does not hold)" if len(failing) == len(cells) else f" (does not hold: {', '.join(failing)})"
    diverged = [run for cell in cells for run in cell.diverged]
    return text + (f" (diverged: {', '.join(diverged)})" if diverged else "")


def _pairs(runs: pd.DataFrame, main_pair: tuple[int, int]) -> dict[str, list[tuple[int, int]]]:
    """The prime pairs that `pair` may stand for."""
    primes = runs[["p1", "p2"]].dropna().astype(int).drop_duplicates().itertuples(index=False, name=None)
    return {"main": [tuple(main_pair)], "other": sorted(set(primes) - {tuple(main_pair)})}


def needed(claim: Claim, runs: pd.DataFrame, main_pair: tuple[int, int]) -> pd.Series:
    """Which runs a claim is judged by, also as what others are compared with; [runs], aligned with `runs`.

    `runs` needs the columns that say what a run is, with an empty `variant` for the defaults; nothing that came of it.
    """
    asked, pairs = np.zeros(len(runs), bool), _pairs(runs, main_pair)
    for part in claim.parts.values():
        versus = getattr(part.predicate, "versus", {})
        for cell in _cells(part.where, pairs[str(part.where.get("pair", "main"))]):
            asked |= _in_cell(cell, runs) | _in_cell(cell | versus, runs)
    return pd.Series(asked, runs.index)


def evaluate(
    claims: Sequence[Claim],
    runs: pd.DataFrame,
    curves: Curves,
    *,
    main_pair: tuple[int, int],
    min_n: int | None = None,
) -> pd.DataFrame:
    """Each claim's verdict from the runs: the rows of `results/claims.csv`.

    `curves(stage, name)` returns a run's curves, or raises FileNotFoundError; `min_n` overrides the claims' own.
    In the result `n` is the number of seeds in the needed cell that has fewest, and the parts of `expected`, `measured`
    and `interval` stand in the same order. Without a verdict, `measured` is what is lacking, then what there is so far.
    """
    needed = {"name", "seed", "steps", "status", *SELECTORS, *get_args(Number)} - {"pair"}
    if absent := sorted(needed - set(runs.columns)):
        raise ClaimsError(f"the table of runs lacks {', '.join(absent)}")
    runs = runs.assign(variant=runs["variant"].astype(object).fillna("")).set_index("seed")
    pairs = _pairs(runs, main_pair)
    rows = []
    for claim in claims:
        seeds = claim.min_n if min_n is None else min_n
        judged = _judge_parts(claim, runs, curves, pairs, seeds)
        verdict = _verdict(claim.parts, judged)
        if verdict == "not run":
            needs = dict.fromkeys(need for part in judged.values() for need in part.needs)
            measured, intervals = list(needs) or [f"needs {seeds} grokked runs in a cell"], []
            few = _judge_parts(claim, runs, curves, pairs, 1)
            if (so_far := _verdict(claim.parts, few)) != "not run":
                measured += [f"so far {so_far}", *_numbers(claim, few)[0]]
        else:
            measured, intervals = _numbers(claim, judged)
        expected = [f"{name}: {part.predicate.expected()}{part.when()}" for name, part in claim.parts.items()]
        words = [claim.id, claim.figure, claim.statement, *map("; ".join, (expected, measured, intervals))]
        rows.append([*words, min((n for part in judged.values() for n in part.n), default=0), verdict])
    return pd.DataFrame(rows, columns=COLUMNS)


def read_claims(results: Path) -> pd.DataFrame:
    """`claims.csv` as a table: texts, and n as a number.

    Raises:
        ClaimsError: where it is missing or unreadable.
    """
    path = results / "claims.csv"
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)[COLUMNS].astype({"n": int})
    except (OSError, ValueError, KeyError) as error:
        raise ClaimsError(f"{path}: unreadable ({error}); make it anew with `snakemake claims`") from None


def format_table(frame: pd.DataFrame, width: int = 120) -> str:
    """The verdicts as plain text, at most `width` columns wide (and at least 70)."""
    shown = {"verdict": 14, "claim": 24, "statement": 0, "measured": 0, "n": 3}
    free = max(width, 70) - sum(shown.values()) - 2 * (len(shown) - 1)
    shown |= {"statement": free // 2, "measured": free - free // 2}
    lines = []
    for row in [list(shown), *frame[list(shown)].astype(str).to_numpy().tolist()]:
        row[2] = textwrap.shorten(row[2], 3 * shown["statement"], placeholder=" ...")
        cells = [textwrap.wrap(text, size) or [""] for text, size in zip(row, shown.values(), strict=True)]
        for i in range(max(map(len, cells))):
            parts = [(c[i] if i < len(c) else "").ljust(size) for c, size in zip(cells, shown.values(), strict=True)]
            lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)


def make(plan: Plan) -> None:
    """Write a study's `claims.csv` from its tables, and print how many claims have which verdict."""
    from grokdistill.publish import read_curves, read_runs

    frame = evaluate(
        load_claims(plan.params.paths.claims),
        read_runs(plan.results),
        read_curves(plan.results),
        main_pair=plan.params.primes.pair,
        min_n=plan.params.claims.min_n,
    )
    write(plan.results / "claims.csv", frame.to_csv(index=False, lineterminator="\n"))
    print(", ".join(f"{count} {verdict}" for verdict, count in frame["verdict"].value_counts().items()))
