"""What changed between two studies: the verdicts, then the measures, each run against the run of its cell and seed.

A study is read from a commit or from a results folder. A pair of runs is *the same* where fingerprint and outcome are; *made
anew* where another fingerprint came out the same; else it *changed*: also with one fingerprint, which says nothing of how a
curve was evaluated nor of the machine that trained it.
"""

from __future__ import annotations

import math
import subprocess
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from grokdistill import style
from grokdistill.config import STAGES
from grokdistill.files import DamagedFile, write, write_with
from grokdistill.publish import CURVES, read_curves, read_runs
from grokdistill.readings import CELL, Curves
from grokdistill.summary import COLUMNS

RUNS, CLAIMS = "runs.csv", "claims.csv"
CELL_COLUMNS = [*CELL, "variant"]
KEY = [*CELL_COLUMNS, "seed"]
SETTINGS = ["loss", "alpha", "temperature", "position"]
OUTCOME = list(COLUMNS[COLUMNS.index("steps") : COLUMNS.index("fingerprint")])
TEXTS = {"stage", "name", "variant", "op", "optimizer", "method", "loss", "temperature", "position", "status", "fingerprint"}
MEASURES = {"final_test_acc": "+.3f", "final_p1_acc": "+.3f", "t_grok": "+.0f", "norm_end": "+.2f"}
CHANGED, REMADE, SAME, ONLY_A, ONLY_B = "changed", "made anew", "same", "only in A", "only in B"
APART = "without a common seed"
STATES = (CHANGED, REMADE, SAME, APART, ONLY_A, ONLY_B)
OTHERWISE = "measured otherwise"  # a claim that kept its verdict

WIDTH = 118  # characters of a line of text
PANELS = 12  # changed cells that fit into a picture
PANEL_WIDTH, PANEL_HEIGHT, TITLE_WIDTH = 2.5, 2.1, 36  # inches, and characters
THICK, THIN, FEW = 1.2, 0.6, 5  # points; up to so many seeds are drawn thick
DPI = 200
# The curves of stages that know two primes, and of all, which lie on top; a colour for A and one for B.
LINES = {"p1_acc": (style.ORANGE, style.VERMILLION), "test_acc": (style.SKY, style.BLUE)}
NAMES = {"p1_acc": "accuracy on $p_1$", "test_acc": "test accuracy"}
LOOKS = ({"linestyle": style.DASHED}, {"linestyle": "solid"})


@dataclass(frozen=True)
class Study:
    """One side of a comparison.

    Attributes:
        title: what it was asked for by, and the commit.
        runs: its `runs.csv`, with a number for every measure.
        claims: its `claims.csv`, all texts.
        curves: its `curves.parquet`; None where it was not asked for or cannot be read.
        no_curves: why there are none, else empty.
    """

    title: str
    runs: pd.DataFrame
    claims: pd.DataFrame
    curves: Curves | None
    no_curves: str


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


def read(what: str, results: Path = Path("results"), *, with_curves: bool = False) -> Study:
    """A study by a results folder, or by a commit, tag, branch or DVC experiment of the repository that one works in.

    Args:
        what: a folder that holds `runs.csv`, else anything that names a commit.
        results: the results folder inside a commit, relative to the working folder.
        with_curves: whether to read the curves, too.

    Raises:
        DamagedFile: where there is no such study, or its runs or claims are missing or unreadable. Missing curves are no error.
    """
    if (Path(what) / RUNS).is_file():
        return _read_folder(Path(what), what, what, with_curves)
    commit = _commit(what)
    if commit is None:
        raise DamagedFile(
            f"{what}: git knows no such commit or experiment here, and there is no folder with {Path(what) / RUNS}"
        )
    with TemporaryDirectory() as name:
        for file in (RUNS, CLAIMS, CURVES) if with_curves else (RUNS, CLAIMS):
            content = _git("show", f"{commit}:./{(results / file).as_posix()}")
            if content is not None:
                (Path(name) / file).write_bytes(content)
        return _read_folder(Path(name), f"{what}:{results.as_posix()}", f"{what} ({commit[:8]})", with_curves)


def _read_folder(folder: Path, place: str, title: str, with_curves: bool) -> Study:
    """The study in a folder, which may be a copy; messages call it `place`."""
    for name in (RUNS, CLAIMS):
        if not (folder / name).is_file():
            raise DamagedFile(f"{place}/{name}: there is no such file")
    try:
        runs = _checked(read_runs(folder), folder / RUNS)
        claims = pd.read_csv(folder / CLAIMS, dtype=str, keep_default_na=False)[["claim", "figure", "verdict", "measured"]]
    except DamagedFile as error:
        raise DamagedFile(str(error).replace(str(folder), place)) from None
    except (OSError, ValueError, KeyError) as error:
        raise DamagedFile(f"{place}/{CLAIMS}: unreadable ({error}); make it anew with `snakemake claims`") from None
    if not with_curves:
        return Study(title, runs, claims, None, "they were not asked for")
    if not (folder / CURVES).is_file():
        return Study(title, runs, claims, None, f"{place}/{CURVES}: there is no such file")
    try:
        return Study(title, runs, claims, read_curves(folder), "")
    except DamagedFile as error:
        return Study(title, runs, claims, None, str(error).replace(str(folder), place))


def _checked(runs: pd.DataFrame, path: Path) -> pd.DataFrame:
    """What is compared of a table of runs, one run per cell and seed, with numbers where numbers belong."""
    columns = [*KEY, "name", "fingerprint", *SETTINGS, *OUTCOME]
    if lacking := [column for column in columns if column not in runs]:
        raise DamagedFile(f"{path}: lacks {', '.join(lacking)}; make it anew with `snakemake tables`")
    try:
        # An empty column, or an empty table, would pair with no number.
        numbers = runs[columns].astype({column: float for column in columns if column not in TEXTS} | {"seed": int})
    except ValueError as error:
        raise DamagedFile(f"{path}: unreadable ({error}); make it anew with `snakemake tables`") from None
    if (twice := numbers.duplicated(KEY)).any():
        raise DamagedFile(f"{path}: several runs of one cell and seed, such as {numbers['name'][twice].iloc[0]}")
    return numbers


def _commit(what: str) -> str | None:
    """The commit of that name; None where there is none."""
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{what}^{{commit}}")
    if found is not None:
        return found.decode().strip()
    # DVC keeps an experiment under the commit that it started from, where git does not look for names.
    listed = _git("for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{what}") or b""
    commits = set(listed.decode().split())
    if len(commits) > 1:
        raise DamagedFile(f"{what}: {len(commits)} experiments have that name; name one by its commit (`dvc exp show -A`)")
    return commits.pop() if commits else None


def _git(*arguments: str) -> bytes | None:
    """What git says; None where it fails."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise DamagedFile("git: not installed; only results folders can be compared") from None
    return done.stdout if done.returncode == 0 else None


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
    alike = np.logical_and.reduce([_equal(rows[f"{column}_a"], rows[f"{column}_b"]) for column in OUTCOME])
    known = [
        (rows["fingerprint_b"].isna(), ONLY_A),
        (rows["fingerprint_a"].isna(), ONLY_B),
        (~alike, CHANGED),
        (rows["fingerprint_a"] != rows["fingerprint_b"], REMADE),
    ]
    return np.select(*zip(*known, strict=True), default=SAME)


def _equal(a: pd.Series, b: pd.Series) -> pd.Series:
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
        about |= {"only_a": _seeds(cell.only_a), "only_b": _seeds(cell.only_b)}
        about |= {"grokked_a": cell.grokked("a"), "grokked_b": cell.grokked("b")}
        rows += [about | {"measure": name} | change._asdict() for name, change in cell.differences.items()]
    columns = [*CELL_COLUMNS, "state", "settings", "pairs", "only_a", "only_b", "grokked_a", "grokked_b", "measure"]
    frame = pd.DataFrame(rows, columns=[*columns, *Difference._fields])
    return frame.astype(dict.fromkeys(["p1", "p2", "sooner", "later", "unknown"], "Int64"))


def _seeds(seeds: Sequence[int]) -> str:
    return " ".join(map(str, seeds))


def report(found: Comparison) -> str:
    """The comparison as text: verdicts, measures, what only one study has, and a line that sums it up."""
    a, b = found.a, found.b
    head = [f"A: {a.title}, {_count(len(a.runs), 'run')}", f"B: {b.title}, {_count(len(b.runs), 'run')}"]
    parts = [
        head,
        _verdict_lines(found),
        _measure_lines(found),
        _remade_lines(found),
        _unpaired_lines(found),
        [_summary(found)],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _verdict_lines(found: Comparison) -> list[str]:
    """A block per changed verdict, and the claims that only one study has."""
    lines, changed = [], found.claims(CHANGED)
    if len(changed):
        lines.append("verdicts that changed, A -> B:")
    for row in changed.itertuples():
        figure = f" (figure {row.figure})" if row.figure else ""
        lines.append(f"  {row.claim}{figure}: {row.verdict_a} -> {row.verdict_b}")
        lines += [*_wrapped(f"A: {row.measured_a}", 4), *_wrapped(f"B: {row.measured_b}", 4)]
    for state, side in ((ONLY_A, "a"), (ONLY_B, "b")):
        only = found.claims(state)
        if len(only):
            named = "; ".join(only["claim"] + ": " + only[f"verdict_{side}"])
            lines += _wrapped(f"claims {state}: {named}")
    return lines


def _measure_lines(found: Comparison) -> list[str]:
    """A table per stage, primes and changed settings, a line per changed cell."""
    sections: dict[str, list[Cell]] = {}
    for cell in found.of(CHANGED):
        sections.setdefault(_heading(cell), []).append(cell)
    if not sections:
        return []
    lines = ["measures that changed, B - A: the median over pairs of one seed (smallest to largest)"]
    for heading, cells in sections.items():
        lines += ["", heading, *_aligned([["cell", "pairs", "grokked", *MEASURES, "differs in"], *map(_line, cells)])]
    return lines


def _heading(cell: Cell) -> str:
    if cell.settings:
        return f"{cell.group}, {cell.settings}"
    if (cell.pairs["fingerprint_a"] == cell.pairs["fingerprint_b"]).all():
        return f"{cell.group}, the same fingerprints: evaluated otherwise, or on another machine"
    return cell.group


def _line(cell: Cell) -> list[str]:
    changes = [_words(change, MEASURES[name]) for name, change in cell.differences.items()]
    differs = [name for name in OUTCOME if not _equal(cell.pairs[f"{name}_a"], cell.pairs[f"{name}_b"]).all()]
    # Only where no column says it, such as of another t_mem.
    others = "" if set(differs) & set(MEASURES) else ", ".join(differs)
    return [cell.label, str(len(cell.pairs)), f"{cell.grokked('a')} -> {cell.grokked('b')}", *changes, others]


def _words(change: Difference, form: str) -> str:
    """A difference in words, empty where a cell has no such measure."""
    words = []
    if change.n:
        middle, low, high = (f"{value:{form}}" for value in (change.difference, change.low, change.high))
        text = "same" if change.low == change.high == 0 else middle if low == high else f"{middle} ({low} to {high})"
        words.append(text + (f" of {change.n}" if change.sooner or change.later or change.unknown else ""))
    words += [f"{getattr(change, name)} {name}" for name in ("sooner", "later", "unknown") if getattr(change, name)]
    return ", ".join(words)


def _aligned(rows: list[list[str]]) -> list[str]:
    """Rows as lines with their columns one below the other; a column that is empty below its title is left out."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    return ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in zip(*columns, strict=True)]


def _remade_lines(found: Comparison) -> list[str]:
    cells = found.of(REMADE)
    return _wrapped(f"made anew, with the same outcome: {_listed(cells, found)}") if cells else []


def _unpaired_lines(found: Comparison) -> list[str]:
    """Cells that one study has, and seeds of the others, those with the same seeds together."""
    groups: dict[str, list[Cell]] = {}
    for cell in found.cells:
        for seeds, side in ((cell.only_a, ONLY_A), (cell.only_b, ONLY_B)):
            if seeds:
                what = "cells with" if cell.state == side else "of cells that both have,"
                groups.setdefault(f"{side}, {what} seed{'s' if len(seeds) > 1 else ''} {_seeds(seeds)}", []).append(cell)
    return [line for heading, cells in groups.items() for line in _wrapped(f"{heading}: {_listed(cells, found)}")]


def _listed(cells: list[Cell], found: Comparison) -> str:
    """Cells by name, each stage and primes named once; where it is all of theirs, only how many."""
    sizes, groups = Counter(cell.group for cell in found.cells), dict[str, list[str]]()
    for cell in cells:
        groups.setdefault(cell.group, []).append(cell.label)
    texts = []
    for group, labels in groups.items():
        whole = 1 < len(labels) == sizes[group]
        texts.append(f"{group}: {f'all {len(labels)} cells' if whole else ', '.join(labels)}")
    return "; ".join(texts)


def _summary(found: Comparison) -> str:
    """One line; where nothing differs it says that alone."""
    runs, cells, claims = len(found.a.runs), len(found.cells), len(found.verdicts)
    only_a, only_b = (sum(len(getattr(cell, side)) for cell in found.cells) for side in ("only_a", "only_b"))
    if len(found.of(SAME)) == cells and len(found.claims(SAME)) == claims and not only_a and not only_b:
        return f"nothing differs: {_count(runs, 'run')} in {_count(cells, 'cell')} and {_count(claims, 'verdict')} are the same"
    counts = {name: len(found.claims(name)) for name in (CHANGED, OTHERWISE, SAME, ONLY_A, ONLY_B)}
    parts = [f"{_count(claims, 'verdict')}: {_counts(counts)}"]
    parts.append(f"{_count(cells, 'cell')}: {_counts({state: len(found.of(state)) for state in STATES})}")
    if only_a or only_b:
        parts.append(f"runs without a partner: {_counts({ONLY_A: only_a, ONLY_B: only_b})}")
    return "; ".join(parts)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _wrapped(text: str, indent: int = 0) -> list[str]:
    margin = " " * indent
    return textwrap.wrap(
        text, WIDTH, initial_indent=margin, subsequent_indent=margin + "   ", break_long_words=False, break_on_hyphens=False
    )


def write_out(found: Comparison, folder: Path) -> str:
    """Write `compare.csv`, `verdicts.csv` and, where there is something to draw, `curves.png`; same input, same bytes.

    Returns:
        What was written and, where no picture was, why not.
    """
    for name, frame in (("compare.csv", table(found)), ("verdicts.csv", found.verdicts)):
        write(folder / name, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    picture = folder / "curves.png"
    picture.unlink(missing_ok=True)  # one of another comparison would pass for this one's
    reasons = [f"{side}: {study.no_curves}" for side, study in (("A", found.a), ("B", found.b)) if study.curves is None]
    if not found.of(CHANGED):
        reasons = ["no cell changed"]
    if not reasons:
        try:
            draw(found, picture)
        except DamagedFile as error:
            reasons = [str(error)]
    written = f"{folder}: compare.csv, verdicts.csv"
    return f"{written}; no curves.png: {'; '.join(reasons)}" if reasons else f"{written}, curves.png"


def draw(found: Comparison, path: Path) -> None:
    """A picture of the changed cells with the largest differences, a panel each: A dashed, B solid, a line per seed.

    Raises:
        DamagedFile: where a run that is drawn has no curve.
    """
    ranked = sorted(found.of(CHANGED), key=_size, reverse=True)
    shown = ranked[:PANELS]
    columns = math.ceil(math.sqrt(len(shown)))
    rows = math.ceil(len(shown) / columns)
    with style.context():
        figure = Figure(layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
        for ax, cell in zip(panels, shown):
            _panel(ax, cell, list(_curves(found, cell)))
        for ax in panels[len(shown) - columns : len(shown)]:
            ax.set_xlabel("optimizer steps")
        for ax in panels[::columns]:
            ax.set_ylabel("accuracy")
        for ax in panels[len(shown) :]:
            ax.set_axis_off()
        seaborn.despine(fig=figure)
        _frame(figure, found, (rows, columns), len(shown), len(ranked))
        write_with(path, lambda partial: figure.savefig(partial, format="png", dpi=DPI, metadata=style.METADATA["png"]))


def _size(cell: Cell) -> float:
    """How much a cell changed, from 0 to 1: in a final accuracy, or in t_grok as a share of the longest run."""
    accuracies = (abs(cell.differences[name].difference) for name in ("final_test_acc", "final_p1_acc"))
    longest = cell.pairs[["steps_a", "steps_b"]].to_numpy().max()
    return float(np.nanmax([0, *accuracies, abs(cell.differences["t_grok"].difference) / longest]))


def _curves(found: Comparison, cell: Cell) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """Each pair's two curves, of the columns that are drawn."""
    stage = cell.key["stage"]
    for row in cell.pairs.itertuples():
        try:
            curves = (study.curves(stage, name) for study, name in ((found.a, row.name_a), (found.b, row.name_b)))
            a, b = (curve.set_index("step").reindex(columns=list(LINES)).dropna(axis="columns", how="all") for curve in curves)
        except FileNotFoundError as error:
            raise DamagedFile(f"{error}; make it anew with `snakemake tables`") from None
        yield a, b


def _panel(ax: Axes, cell: Cell, pairs: list[tuple[pd.DataFrame, pd.DataFrame]]) -> None:
    """One cell's curves, with what came of its pairs in the title."""
    width = THICK if len(pairs) <= FEW else THIN
    for (column, colours), pair in product(LINES.items(), pairs):
        for curve, colour, look in zip(pair, colours, LOOKS):
            if column in curve:
                # Where both primes rise together, the one below shows on either side.
                wide = width * (2 if column == "p1_acc" else 1)
                ax.plot(curve.index, curve[column], label=column, color=colour, linewidth=wide, **look)
    # The first updates show as well as the last, and step 0 has its place on the left.
    first = min((step for pair in pairs for curve in pair for step in curve.index if step > 0), default=1)
    ax.set_xscale("symlog", linthresh=first, linscale=0.3)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    ax.set_xlim(left=0)
    ax.set(ylim=(-0.03, 1.05), yticks=(0, 0.25, 0.5, 0.75, 1), yticklabels=("0", "", "0.5", "", "1"))
    grokked = f"{cell.group}, grokked {cell.grokked('a')} -> {cell.grokked('b')} of {len(cell.pairs)}"
    lines = [line for text in (cell.label, cell.settings) for line in textwrap.wrap(text, TITLE_WIDTH, break_on_hyphens=False)]
    ax.set_title("\n".join([grokked, *lines]).replace("->", "\N{RIGHTWARDS ARROW}"))


def _frame(figure: Figure, found: Comparison, shape: tuple[int, int], shown: int, total: int) -> None:
    """Give a picture its size, its title above and, below the panels, a legend and a note."""
    note = f"a line per seed that both have; {_count(total, 'changed cell')}"
    if total > shown:
        note += f", the {shown} with the largest differences; {total - shown} left out"
    drawn = [column for column in LINES if any(line.get_label() == column for ax in figure.axes for line in ax.lines)]
    handles = [
        Line2D([], [], color=LINES[column][place], linewidth=THICK, label=f"{side}, {NAMES[column]}", **LOOKS[place])
        for column in reversed(drawn)
        for place, side in enumerate("AB")
    ]
    rows, columns = shape
    foot = 1.6 * style.LEGEND_HEIGHT + 1.5 * style.NOTE_HEIGHT
    size = max(style.WIDTH, PANEL_WIDTH * columns), style.MARGIN_HEIGHT + PANEL_HEIGHT * rows + foot
    figure.set_size_inches(*size)
    figure.get_layout_engine().set(rect=(0, foot / size[1], 1, 1 - foot / size[1]), **style.PADS)
    figure.suptitle(f"A, dashed: {found.a.title}\nB, solid: {found.b.title}", x=style.LEFT, ha="left", **style.TITLE)
    figure.text(style.LEFT, style.NOTE_HEIGHT / 4 / size[1], note, va="bottom", **style.NOTE)
    figure.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.5 * style.NOTE_HEIGHT / size[1]), ncols=4)
