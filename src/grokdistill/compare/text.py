"""A comparison as text, for a terminal."""

from __future__ import annotations

import textwrap
from collections import Counter

from grokdistill.compare.differences import (
    CHANGED,
    MEASURES,
    ONLY_A,
    ONLY_B,
    OTHERWISE,
    REMADE,
    SAME,
    STATES,
    Cell,
    Comparison,
    Difference,
    equal,
)
from grokdistill.compare.studies import OUTCOME

WIDTH = 118  # characters of a line


def report(found: Comparison) -> str:
    """The comparison as text: verdicts, measures, what only one study has, and a line that sums it up."""
    a, b = found.a, found.b
    head = [f"A: {a.title}, {count(len(a.runs), 'run')}", f"B: {b.title}, {count(len(b.runs), 'run')}"]
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
    differs = [name for name in OUTCOME if not equal(cell.pairs[f"{name}_a"], cell.pairs[f"{name}_b"]).all()]
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
                named = f"seed{'s' if len(seeds) > 1 else ''} {' '.join(map(str, seeds))}"
                groups.setdefault(f"{side}, {what} {named}", []).append(cell)
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
        return f"nothing differs: {count(runs, 'run')} in {count(cells, 'cell')} and {count(claims, 'verdict')} are the same"
    counts = {name: len(found.claims(name)) for name in (CHANGED, OTHERWISE, SAME, ONLY_A, ONLY_B)}
    parts = [f"{count(claims, 'verdict')}: {_counts(counts)}"]
    parts.append(f"{count(cells, 'cell')}: {_counts({state: len(found.of(state)) for state in STATES})}")
    if only_a or only_b:
        parts.append(f"runs without a partner: {_counts({ONLY_A: only_a, ONLY_B: only_b})}")
    return "; ".join(parts)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"


def count(number: int, noun: str) -> str:
    """A number of things, "1 run" or "12 runs"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _wrapped(text: str, indent: int = 0) -> list[str]:
    margin = " " * indent
    return textwrap.wrap(
        text, WIDTH, initial_indent=margin, subsequent_indent=margin + "   ", break_long_words=False, break_on_hyphens=False
    )
