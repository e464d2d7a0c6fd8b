"""What each figure of the paper shows: which conditions, which columns, and what colour and dash say."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas

Condition = dict[str, Any]
Measures = Mapping[str, tuple[str, str | None]]

OPS = ("add", "sub")
OPTIMIZERS = ("adamw", "adam")
FRACTIONS = (0.35, 0.30, 0.25, 0.20, 0.10)

# The prime that a number is about: the curve column drawn in full, and the one drawn faintly behind it.
ON_P1: Measures = {"p1": ("p1_acc", "p1_train_acc")}
ON_P2: Measures = {"p2": ("test_acc", "train_acc")}
ALL_OF_P1: Measures = {"p1": ("p1_acc", None)}
NORM: Measures = {"p2": ("weight_norm", None)}


@dataclass(frozen=True)
class Panel:
    """One lettered panel: each combination of the grid's values is a condition of the paper's panel."""

    title: str
    stages: tuple[str, ...]
    grid: Mapping[str, tuple[Any, ...]]
    measures: Measures
    floors: bool = False  # with reference lines for what can be left of p1
    or_smallest: bool = False  # if its fraction was not run, show the smallest that was

    def conditions(self) -> Iterator[Condition]:
        """Every combination of the grid's values."""
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))

    def runs(self, runs: pandas.DataFrame, condition: Condition) -> pandas.DataFrame:
        """The runs of one condition, one row per seed."""
        found = self._among(runs, {field: (value,) for field, value in condition.items()}).sort_values("seed")
        if found["seed"].duplicated().any():
            raise ValueError(f"several runs of one condition and seed: {', '.join(found['name'])}")
        return found

    def only(self, **fixed: Any) -> "Panel":
        """The panel narrowed to one value of some fields."""
        return replace(self, grid={**self.grid, **{field: (value,) for field, value in fixed.items()}})

    def settled(self, runs: pandas.DataFrame) -> "Panel":
        """The panel as it can be drawn: `or_smallest` applied."""
        there = self._among(runs, {field: self.grid[field] for field in self.grid if field != "fraction"})
        if not self.or_smallest or there.empty or len(self._among(there, self.grid)):
            return self
        return self.only(fraction=float(there["fraction"].min()))

    def _among(self, runs: pandas.DataFrame, grid: Mapping[str, tuple[Any, ...]]) -> pandas.DataFrame:
        """The stages' runs that have one of the given values in each of the given fields."""
        runs = runs[runs["stage"].isin(self.stages)]
        for field, values in grid.items():
            column = runs[field]
            if isinstance(values[0], float):  # a fraction: written and read back, so compared with some slack
                column = column.astype(float).round(6)
            runs = runs[column.isin(values)]
        return runs


@dataclass(frozen=True)
class Spec:
    """One figure: its panels side by side, and a row of them for each value of the field `rows`.

    `colour` (with the marker) and `dash` name what they tell apart: a field of the conditions, or `prime`.
    In a panel's title `{fraction}` is its own.
    """

    title: str
    panels: tuple[Panel, ...]
    colour: str
    dash: str | None
    rows: str | None = None
    ylabel: str = "accuracy"


def _alone(title: str, fractions: tuple[float, ...], measures: Measures = ON_P2, **only: tuple[str, ...]) -> Panel:
    """A panel of models that train on p2 alone, from scratch (baselines) and distilled (students)."""
    grid = {"op": OPS, "optimizer": OPTIMIZERS, "fraction": fractions, "method": ("scratch", "distilled")}
    return Panel(title, ("baselines", "students"), {**grid, **only}, measures)


def _joint(title: str, fractions: tuple[float, ...], *methods: str, or_smallest: bool = False) -> Panel:
    """A panel of the larger model f_M, which trains on 35% of p1 and a fraction of p2."""
    grid = {"op": OPS, "p1_fraction": (0.35,), "fraction": fractions, "method": methods}
    return Panel(title, ("joint",), grid, {**ON_P2, **ON_P1}, or_smallest=or_smallest)


def _continual(title: str, measures: Measures, floors: bool = False) -> Panel:
    """A panel of grokked p1 models that go on to p2."""
    grid = {"op": OPS, "fraction": FRACTIONS, "method": ("supervised", "distilled")}
    return Panel(title, ("continual",), grid, measures, floors)


FIGURES: dict[int, Spec] = {
    1: Spec(
        "Distillation from a grokked model, on scarce data",
        (
            _alone("student, {fraction:.0%} of $p_2$, AdamW", (0.20,), optimizer=("adamw",)),
            _joint(
                "$f_M$, 35% of $p_1$, {fraction:.0%} of $p_2$",
                (0.25,),
                "supervised",
                "distilled",
                or_smallest=True,
            ),
        ),
        colour="prime",
        dash="method",
        rows="op",
    ),
    2: Spec(
        "Training on 30% of $p_2$",
        (
            _alone("from scratch", (0.30,), method=("scratch",)),
            _alone("distilled from $p_1$", (0.30,), method=("distilled",)),
        ),
        colour="op",
        dash="optimizer",
    ),
    3: Spec(
        "Fractions of $p_2$, from scratch and distilled from $p_1$",
        (
            _alone("add, AdamW", FRACTIONS, op=("add",), optimizer=("adamw",)),
            _alone("subtract, AdamW", FRACTIONS, op=("sub",), optimizer=("adamw",)),
        ),
        colour="fraction",
        dash="method",
    ),
    4: Spec(
        "Training on 20% of $p_2$",
        (
            _alone("from scratch", (0.20,), method=("scratch",)),
            _alone("distilled from $p_1$", (0.20,), method=("distilled",)),
        ),
        colour="op",
        dash="optimizer",
    ),
    5: Spec(
        "Joint training of $f_M$ on 35% of $p_1$ and a fraction of $p_2$",
        (
            _joint("supervised", FRACTIONS[:4], "supervised"),
            _joint("distilled only", FRACTIONS[:4], "distilled"),
        ),
        colour="fraction",
        dash="prime",
        rows="op",
    ),
    6: Spec(
        "A grokked model of $p_1$ goes on to a fraction of $p_2$",
        (
            _continual("accuracy on $p_1$", ALL_OF_P1, floors=True),
            _continual("accuracy on $p_2$", ON_P2),
        ),
        colour="fraction",
        dash="method",
        rows="op",
    ),
    7: Spec(
        "Weight norm of students of $p_2$, distilled from $p_1$",
        (
            _alone("add", FRACTIONS, NORM, op=("add",), method=("distilled",)),
            _alone("subtract", FRACTIONS, NORM, op=("sub",), method=("distilled",)),
        ),
        colour="fraction",
        dash=None,
        rows="optimizer",
        ylabel="$L_2$ weight norm",
    ),
}
