"""Two studies run by run and verdict by verdict: what changed, and by how much.

A pair of runs is *the same* where fingerprint and outcome are; *made anew* where another fingerprint came out the same; else
it *changed*: also with one fingerprint, which says nothing of how a curve was evaluated nor of the machine that trained it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from grokdistill.compare.studies import CELL_COLUMNS, KEY, OUTCOME, SETTINGS, Study
from grokdistill.config import STAGES

# What is compared, and how a difference in it is written.
MEASURES = {"final_test_acc": "+.3f", "final_p1_acc": "+.3f", "t_grok": "+.0f", "norm_end": "+.2f"}
CHANGED, REMADE, SAME, ONLY_A, ONLY_B = "changed", "made anew", "same", "only in A", "only in B"
APART = "without a common seed"
STATES = (CHANGED, REMADE, SAME, APART, ONLY_A, ONLY_B)
OTHERWISE = "measured otherwise"  # a claim that kept its verdict


class Difference(NamedTuple):
    """B - A in one measure over a cell's pairs; counts of censored pairs are None for measures that are never censored."""

    n: int  # pairs with a number on both sides; the medians and the range are theirs
    median_a: float
    median_b: float
    difference: float  # the median of the pairs' differences
    low: float  # the smallest and the largest of them
    high: float
    sooner: int | None = None
    later: int | None = None
    unknown: int | None = None


@dataclass(frozen=True)
class Cell:
    """One cell of either study.

    Attributes:
        key: what names it, by column.
        pairs: one row per seed that both studies have, every column with "_a" and with "_b".
        only_a, only_b: the other seeds.
        state: "changed", "made anew" or "same", as its pairs are; without pairs "only in A", "only in B" or, where both have
            other seeds of it, "without a common seed".
        settings: what of its settings changed, in words.
        differences: by measure.
    """

    key: dict[str, Any]
    pairs: pd.DataFrame
    only_a: list[int]
    only_b: list[int]
    state: str
    settings: str
    differences: dict[str, Difference]

    @property
    def group(self) -> str:
        """Its stage and primes."""
        primes = (self.key[prime] for prime in ("p1", "p2"))
        return f"{self.key['stage']} {'-'.join(f'{prime:g}' for prime in primes if not math.isnan(prime))}"

    @property
    def label(self) -> str:
        """What tells it from others of its stage and primes."""
        # A teacher has one prime, and its fraction in both columns.
        columns = ["fraction"] if self.key["stage"] == "teachers" else ["p1_fraction", "fraction"]
        fractions = "+".join(f"{100 * self.key[name]:g}%" for name in columns if not math.isnan(self.key[name]))
        words = [self.key["op"], self.key["optimizer"], fractions, self.key["method"], self.key["variant"].replace(",", ", ")]
        return " ".join(filter(None, words))

    def grokked(self, side: str) -> int:
        """How many of its pairs grokked in "a" or "b"."""
        return int((self.pairs[f"status_{side}"] == "grokked").sum())


@dataclass(frozen=True)
class Comparison:
    """Two studies, their cells in the order of the stages and of `runs.csv`, and their verdicts (`compare_verdicts`)."""

    a: Study
    b: Study
    cells: list[Cell]
    verdicts: pd.DataFrame

    def of(self, state: str) -> list[Cell]:
        """The cells in a state."""
        return [cell for cell in self.cells if cell.state == state]

    def claims(self, state: str) -> pd.DataFrame:
        """The verdicts in a state."""
        return self.verdicts[self.verdicts["state"] == state]


def compare(a: Study, b: Study) -> Comparison:
    """Every cell and verdict of two studies, A's beside B's."""
    keys = pd.concat([a.runs[KEY], b.runs[KEY]]).drop_duplicates()
    keys = keys.sort_values("stage", key=lambda stages: stages.map({name: i for i, name in enumerate(STAGES)}), kind="stable")
    rows = keys.merge(a.runs, how="left", on=KEY).merge(b.runs, how="left", on=KEY, suffixes=("_a", "_b"))
    groups = rows.assign(state=_states(rows)).groupby(CELL_COLUMNS, dropna=False, sort=False)
    cells = [_cell(dict(zip(CELL_COLUMNS, key, strict=True)), found) for key, found in groups]
    return Comparison(a, b, cells, compare_verdicts(a.claims, b.claims))


def _states(rows: pd.DataFrame) -> np.ndarray:
    """The state of every pair, and of every run without a partner."""
    alike = np.logical_and.reduce([equal(rows[f"{column}_a"], rows[f"{column}_b"]) for column in OUTCOME])
    known = [
        (rows["fingerprint_b"].isna(), ONLY_A),
        (rows["fingerprint_a"].isna(), ONLY_B),
        (~alike, CHANGED),
        (rows["fingerprint_a"] != rows["fingerprint_b"], REMADE),
    ]
    return np.select(*zip(*known, strict=True), default=SAME)


def equal(a: pd.Series, b: pd.Series) -> pd.Series:
    """Where two columns are equal, an empty value to an empty one."""
    return (a == b) | (a.isna() & b.isna())


def _cell(key: dict[str, Any], rows: pd.DataFrame) -> Cell:
    seeds, states = rows["seed"].to_numpy(), rows["state"].to_numpy()
    only_a, only_b = (sorted(seeds[states == state].tolist()) for state in (ONLY_A, ONLY_B))
    pairs = rows[(states != ONLY_A) & (states != ONLY_B)]
    there = set(states)
    # The first that holds of any run holds of the cell.
    state = APART if there == {ONLY_A, ONLY_B} else next(name for name in STATES if name in there)
    return Cell(key, pairs, only_a, only_b, state, _settings(pairs), {name: difference(pairs, name) for name in MEASURES})


def _settings(pairs: pd.DataFrame) -> str:
    """Which settings of a cell changed, in words; its seeds share them."""
    changed = []
    for name in SETTINGS if len(pairs) else []:
        old, new = (pairs[f"{name}_{side}"].iloc[0] for side in "ab")
        if old != new and not (pd.isna(old) and pd.isna(new)):
            changed.append(f"{name} {_setting(old)} -> {_setting(new)}")
    return ", ".join(changed)


def _setting(value: object) -> str:
    return "not set" if pd.isna(value) else f"{value:g}" if isinstance(value, float) else str(value)


def difference(pairs: pd.DataFrame, measure: str) -> Difference:
    """B - A in a measure: the median over the pairs that have it on both sides, from the smallest to the largest.

    A run that is censored in t_grok has no number and gets none. Its pair is counted apart: B is *sooner* where it grokked
    within the steps in which A did not, *later* the other way round, and *unknown* where neither grokked, or one only after
    the other had ended. So the median is that of the pairs that grokked twice, and what it leaves out stands beside it. A run
    that diverged counts as censored at its last step.
    """
    a, b = (pairs[f"{measure}_{side}"].to_numpy() for side in "ab")
    both = ~np.isnan(b - a)
    change, numbers = (b - a)[both], [math.nan] * 5
    if len(change):
        numbers = [float(value) for value in (*map(np.median, (a[both], b[both], change)), change.min(), change.max())]
    if measure != "t_grok":
        return Difference(len(change), *numbers)
    sooner = np.isnan(a) & (b <= pairs["steps_a"].to_numpy())
    later = np.isnan(b) & (a <= pairs["steps_b"].to_numpy())
    return Difference(len(change), *numbers, *(int(counted.sum()) for counted in (sooner, later, ~(both | sooner | later))))


def compare_verdicts(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """One row per claim of either study: `claim, figure, state, verdict_a, verdict_b, measured_a, measured_b`.

    The state is "changed" where the verdict did, "measured otherwise" where only its numbers did, "same", "only in A" or
    "only in B"; what a study does not have is empty.
    """
    order = pd.concat([a["claim"], b["claim"]]).drop_duplicates().to_frame()
    rows = order.merge(a, how="left", on="claim").merge(b, how="left", on="claim", suffixes=("_a", "_b"))
    known = [
        (rows["verdict_b"].isna(), ONLY_A),
        (rows["verdict_a"].isna(), ONLY_B),
        (rows["verdict_a"] != rows["verdict_b"], CHANGED),
        (rows["measured_a"] != rows["measured_b"], OTHERWISE),
    ]
    rows["state"] = np.select(*zip(*known, strict=True), default=SAME)
    rows["figure"] = rows["figure_b"].fillna(rows["figure_a"])
    return rows[["claim", "figure", "state", "verdict_a", "verdict_b", "measured_a", "measured_b"]].fillna("")


def table(found: Comparison) -> pd.DataFrame:
    """One row per cell and measure: the cell's state, pairs and seeds without a partner, then its `Difference`."""
    rows = []
    for cell in found.cells:
        about = cell.key | {"state": cell.state, "settings": cell.settings, "pairs": len(cell.pairs)}
        about |= {f"only_{side}": " ".join(map(str, getattr(cell, f"only_{side}"))) for side in "ab"}
        about |= {"grokked_a": cell.grokked("a"), "grokked_b": cell.grokked("b")}
        rows += [about | {"measure": name} | change._asdict() for name, change in cell.differences.items()]
    columns = [*CELL_COLUMNS, "state", "settings", "pairs", "only_a", "only_b", "grokked_a", "grokked_b", "measure"]
    frame = pd.DataFrame(rows, columns=[*columns, *Difference._fields])
    return frame.astype(dict.fromkeys(["p1", "p2", "sooner", "later", "unknown"], "Int64"))
