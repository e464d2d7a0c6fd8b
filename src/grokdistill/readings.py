"""Departures from the defaults, side by side: what came of every variant and of the default that it departs from.

A study that varies what the paper leaves open (the readings) or sweeps any field is summed up here: a table with a row per cell
and reading, and a picture of it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grokdistill import style
from grokdistill.files import write
from grokdistill.summary import judged, over_seeds

if TYPE_CHECKING:
    from grokdistill.plan import Plan

CELL = ["stage", "p1", "p2", "op", "optimizer", "p1_fraction", "fraction", "method"]
PARTS = ["same_acc", "different_acc", "p1_same_acc", "p1_different_acc", "p1_covered_acc", "p1_uncovered_acc"]
DEFAULT = "default"
MOST = 60  # readings that fit into a picture
LINES = 6  # readings whose curves do

Curves = Callable[[str, str], pd.DataFrame]  # from a run's stage and name


def compared(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of cells that have a variant, with their `reading`: what a variant sets but for `steps`, its length."""
    fields = runs["variant"].str.split(",").map(lambda words: [word for word in words if not word.startswith("steps=")])
    named = runs.assign(reading=fields.map(",".join).replace("", DEFAULT))
    varied = named.groupby(CELL, dropna=False)["variant"].transform(lambda variants: variants.ne("").any())
    # Runs of one length that stopped early at different steps belong together.
    named["steps"] = named.groupby([*CELL, "variant"], dropna=False)["steps"].transform("max")
    return named[varied.astype(bool)]


def table(runs: pd.DataFrame, curves: Curves) -> pd.DataFrame:
    """One row per cell, reading and length, over seeds (`over_seeds`): of cells that have a variant, each with its default.

    Beside the accuracies of `over_seeds`, those at the end on parts of the test pairs (medians, empty where a stage has none).
    """
    named, by = compared(runs), [*CELL, "reading", "steps"]
    ends = [curves(run.stage, run.name).iloc[-1].reindex(PARTS).astype(float) for run in named.itertuples()]
    parts = named[by].join(pd.DataFrame(ends, index=named.index, columns=PARTS)).groupby(by, dropna=False, sort=False).median()
    return pd.concat([over_seeds(named, by), parts.reset_index(drop=True)], axis=1)


def draw(frame: pd.DataFrame, path: Path, dpi: int) -> None:
    """A picture of `table`: a block per stage, a row per reading and length, best first; colour is the final accuracy."""
    stages = list(dict.fromkeys(frame["stage"]))
    blocks = [_block(frame[frame["stage"] == stage]) for stage in stages]
    heights = [len(shown) + 1.5 for shown, _ in blocks] or [2.0]
    width = 2.6 + 0.75 * max((shown.shape[1] for shown, _ in blocks), default=4)
    with style.context():
        figure = Figure(figsize=(max(style.WIDTH, width), 0.9 + 0.2 * sum(heights)), layout="constrained")
        axes = figure.subplots(max(len(blocks), 1), 1, squeeze=False, height_ratios=heights)[:, 0]
        if not blocks:
            axes[0].set_axis_off()
            axes[0].text(0.5, 0.5, "this study has no variants", ha="center", va="center", **style.ABSENT)
        for ax, stage, (accuracy, seeds) in zip(axes, stages, blocks):
            seaborn.heatmap(
                accuracy, annot=seeds, fmt="", vmin=0, vmax=1, cmap="cividis", cbar=False, ax=ax,
                linewidths=0.4, annot_kws={"fontsize": 6},
            )  # fmt: skip
            more = f", the best {MOST}" if len(accuracy) == MOST else ""
            ax.set(title=f"{stage}: final accuracy, and how many seeds grokked{more}", xlabel="", ylabel="")
            ax.tick_params(length=0, axis="both")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=dpi, metadata=style.METADATA["png"])


def draw_curves(runs: pd.DataFrame, curves: Curves, path: Path, dpi: int) -> Figure:
    """Accuracy against updates, a panel per cell: its default, dashed, and its best readings; one line per seed."""
    cells = list(compared(runs).groupby(CELL, dropna=False, sort=False))
    rows = max(1, -(-len(cells) // 2))
    with style.context():
        figure = Figure(figsize=(1.5 * style.WIDTH, style.MARGIN_HEIGHT + 1.6 * style.ROW_HEIGHT * rows), layout="constrained")
        panels = figure.subplots(rows, 2, squeeze=False, sharey=True).flatten()
        for ax, (_, cell) in zip(panels, cells):
            _lines(ax, cell, curves)
        for ax in panels[len(cells) :]:
            ax.set_axis_off()
        if not cells:
            panels[0].text(0, 0.5, "this study has no variants", **style.ABSENT)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=dpi, metadata=style.METADATA["png"])
    return figure


def _lines(ax: Axes, cell: pd.DataFrame, curves: Curves) -> None:
    """One cell's curves, each judged as its stage is; the legend tells readings by rank."""
    scores = cell.assign(accuracy=ranked_accuracy(cell, "final_test_acc", "final_p1_acc"))
    ranked = scores.groupby("reading", sort=False)["accuracy"].median().sort_values(ascending=False, kind="stable")
    shown = list(ranked.drop(DEFAULT, errors="ignore").index[:LINES])
    palette = dict(zip(shown, seaborn.color_palette("colorblind", LINES)))
    for run in cell[cell["reading"].isin([DEFAULT, *shown])].itertuples():
        curve = curves(run.stage, run.name)
        look = {"color": style.BLACK, "linestyle": style.DASHED} if run.reading == DEFAULT else {"color": palette[run.reading]}
        ax.plot(curve["step"], judged(curve, run.stage), label=run.reading, linewidth=1, **look)
    first = cell.iloc[0]
    title = f"{first['stage']}: " + cell_name(first).replace("\n", ", ")
    ax.set(title=title, xlabel="updates", ylabel="test accuracy", ylim=(-0.02, 1.02))
    named = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    lines = [(named[name], name.replace(",", ",\n")) for name in ranked.index if name in named]
    ax.legend(*zip(*lines), fontsize=5.5, loc="upper left", bbox_to_anchor=(1, 1))  # beside the curves
    seaborn.despine(ax=ax)


def ranked_accuracy(frame: pd.DataFrame, own: str, p1: str) -> pd.Series:
    """The accuracy that a reading is ranked by; f_M's is that on the prime it knows less well."""
    return frame[own].where(frame["stage"] != "joint", frame[[own, p1]].min(axis=1))


def cell_name(row: pd.Series) -> str:
    fractions = "+".join(f"{100 * value:g}%" for value in dict.fromkeys(row[["p1_fraction", "fraction"]].dropna()))
    return f"{row['op']} {row['optimizer']}\n{row['method']}\n{fractions}"


def _block(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Accuracies and texts by reading and cell."""
    shown = frame.assign(
        row=frame["reading"] + frame["steps"].map(", {:,} steps".format),
        column=frame.apply(cell_name, axis=1),
        accuracy=ranked_accuracy(frame, "test_acc", "p1_acc"),
    )
    shown["text"] = shown["accuracy"].map("{:.2f}".format) + "  " + shown["grokked"].astype(str) + "/" + shown["n"].astype(str)
    order = shown.groupby("row")["accuracy"].mean().sort_values(ascending=False, kind="stable").index[:MOST]
    columns = list(dict.fromkeys(shown["column"]))
    wide = shown.drop_duplicates(["row", "column"]).pivot(index="row", columns="column", values=["accuracy", "text"])
    wide = wide.reindex(order)
    return wide["accuracy"][columns].astype(float), wide["text"][columns].fillna("")


def make(plan: Plan) -> None:
    """Write a study's `readings.csv` and its two pictures from the tables."""
    from grokdistill.publish import read_curves, read_runs

    runs, curves = read_runs(plan.results), read_curves(plan.results)
    frame = table(runs, curves)
    write(plan.results / "readings.csv", frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    pictures, dpi = plan.results / "figures", plan.params.figures.dpi
    draw(frame, pictures / "readings.png", dpi)
    draw_curves(runs, curves, pictures / "readings-curves.png", dpi)
