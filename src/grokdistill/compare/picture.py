"""The curves of two studies overlaid, where they changed."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from grokdistill import style
from grokdistill.compare.differences import CHANGED, Cell, Comparison
from grokdistill.compare.text import count
from grokdistill.files import DamagedFile, write_with

PANELS = 12  # changed cells that fit into a picture
PANEL_WIDTH, PANEL_HEIGHT, TITLE_WIDTH = 2.5, 2.1, 36  # inches, and characters
THICK, THIN, FEW = 1.2, 0.6, 5  # points; up to so many seeds are drawn thick
DPI = 200
# The curves of stages that know two primes, and of all, which lie on top; a colour for A and one for B.
LINES = {"p1_acc": (style.ORANGE, style.VERMILLION), "test_acc": (style.SKY, style.BLUE)}
NAMES = {"p1_acc": "accuracy on $p_1$", "test_acc": "test accuracy"}
LOOKS = ({"linestyle": style.DASHED}, {"linestyle": "solid"})


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
    note = f"a line per seed that both have; {count(total, 'changed cell')}"
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
