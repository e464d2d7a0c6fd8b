"""Departures from the defaults, side by side: what came of every variant and of the default that it departs from.

A study that varies what the paper leaves open (the readings) or sweeps any field is summed up here: a table with a row per cell
and reading, and a picture of it.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import seaborn
from matplotlib.figure import Figure

from grokdistill import style
from grokdistill.summary import over_seeds

CELL = ["stage", "p1", "p2", "op", "optimizer", "p1_fraction", "fraction", "method"]
DEFAULT = "default"
MOST = 60  # readings that fit into a picture


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per cell, reading and length, over seeds (`over_seeds`): of cells that have a variant, each with its default.

    A variant's `steps` is its length; what else it sets is its reading.
    """
    fields = runs["variant"].str.split(",").map(lambda words: [word for word in words if not word.startswith("steps=")])
    named = runs.assign(reading=fields.map(",".join).replace("", DEFAULT))
    varied = named.groupby(CELL, dropna=False)["variant"].transform(lambda variants: variants.ne("").any())
    # Runs of one length that stopped early at different steps belong together.
    named["steps"] = named.groupby([*CELL, "variant"], dropna=False)["steps"].transform("max")
    return over_seeds(named[varied.astype(bool)], [*CELL, "reading", "steps"])


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


def _block(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Accuracies and texts by reading and cell; f_M's is that on the prime it knows less well."""
    fractions = frame[["p1_fraction", "fraction"]].apply(
        lambda row: "+".join(f"{100 * value:g}%" for value in dict.fromkeys(row.dropna())), axis=1
    )
    joint = frame["stage"] == "joint"
    shown = frame.assign(
        row=frame["reading"] + frame["steps"].map(", {:,} steps".format),
        column=frame["op"] + " " + frame["optimizer"] + "\n" + frame["method"] + "\n" + fractions,
        accuracy=frame["test_acc"].where(~joint, frame[["test_acc", "p1_acc"]].min(axis=1)),
    )
    shown["text"] = shown["accuracy"].map("{:.2f}".format) + "  " + shown["grokked"].astype(str) + "/" + shown["n"].astype(str)
    order = shown.groupby("row")["accuracy"].mean().sort_values(ascending=False, kind="stable").index[:MOST]
    columns = list(dict.fromkeys(shown["column"]))
    wide = shown.drop_duplicates(["row", "column"]).pivot(index="row", columns="column", values=["accuracy", "text"])
    wide = wide.reindex(order)
    return wide["accuracy"][columns].astype(float), wide["text"][columns].fillna("")
