"""The phase diagram that the paper does not have: the share of seeds that grok against the fraction of data, and the critical
threshold that follows, from scratch and distilled.

The threshold is the fraction at which half of the seeds would grok, in a logistic curve of any steepness. Its estimate is the
middle of the most likely values, its interval holds those that a likelihood ratio test does not refuse (95%, one degree of
freedom). With seeds that all grok above a fraction and none below, that is about the gap between the two.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import expit, xlogy
from scipy.stats import chi2

from grokdistill import style
from grokdistill.files import write
from grokdistill.intervals import wilson

if TYPE_CHECKING:
    from grokdistill.plan import Plan

CURVE = ["op", "optimizer", "method"]
STEPS = np.linspace(0, 1, 1001)[1:-1]  # thresholds that are tried
RATES = np.geomspace(5, 5000, 61)  # per unit of the fraction: from a rise over all fractions to a jump
REFUSED = chi2.ppf(0.95, 1) / 2  # of log likelihood
MARGIN = 0.04  # of the picture, beyond the fractions that were run


def likelihood(fractions: NDArray, grokked: NDArray, n: NDArray) -> NDArray[np.float64]:
    """The log likelihood of every threshold in STEPS at its best rate, [999].

    Args:
        fractions, grokked, n: per cell, the training fraction, the seeds that grokked, and all seeds, [cells].
    """
    share = expit(RATES[:, None] * (fractions - STEPS[:, None, None]))  # [thresholds, rates, cells]
    return (xlogy(grokked, share) + xlogy(n - grokked, 1 - share)).sum(-1).max(1)


def threshold(fractions: NDArray, grokked: NDArray, n: NDArray) -> tuple[float, float, float]:
    """The critical threshold with its interval; what lies beyond the fractions that were run is -inf or inf.

    Returns:
        estimate, low, high, as shares of all pairs.
    """
    found = likelihood(fractions, grokked, n)
    most, kept = (STEPS[found >= found.max() - below] for below in (1e-6, REFUSED))

    def inside(value: float) -> float:
        return -np.inf if value < fractions.min() else np.inf if value > fractions.max() else float(value)

    middle = (inside(most[0]), inside(most[-1]))
    return (sum(middle) / 2 if np.isfinite(middle).all() else middle[np.isinf(middle).argmax()]), *map(inside, kept[[0, -1]])


def cells(runs: pd.DataFrame, pair: tuple[int, int]) -> pd.DataFrame:
    """Runs on p2 alone, of the main pair and with the default readings: `n` and `grokked` per curve and fraction."""
    asked = runs["stage"].isin(["baselines", "students"]) & (runs["variant"] == "")
    own = runs[asked & (runs["p1"] == pair[0]) & (runs["p2"] == pair[1])]
    grokked = own.assign(grokked=own["status"] == "grokked").groupby([*CURVE, "fraction"], sort=False)["grokked"]
    return grokked.agg(n="size", grokked="sum").reset_index()


def table(runs: pd.DataFrame, pair: tuple[int, int]) -> pd.DataFrame:
    """One row per operator, optimizer and method that was run on several fractions: p2's critical threshold (`threshold`)."""
    rows = []
    for key, curve in cells(runs, pair).groupby(CURVE, sort=False):
        if len(curve) > 1:
            estimate, low, high = threshold(*(curve[name].to_numpy(float) for name in ("fraction", "grokked", "n")))
            measured = {"fractions": len(curve), "runs": curve["n"].sum(), "grokked": curve["grokked"].sum()}
            rows.append(dict(zip(CURVE, key)) | measured | {"threshold": estimate, "low": low, "high": high})
    return pd.DataFrame(rows, columns=[*CURVE, "fractions", "runs", "grokked", "threshold", "low", "high"])


def draw(runs: pd.DataFrame, pair: tuple[int, int], folder: Path, dpi: int) -> Figure:
    """`phase.png` and `phase.pdf`: a panel per operator and optimizer, scratch and distilled, with thresholds below."""
    shares, thresholds = cells(runs, pair), table(runs, pair)
    panels = list(dict.fromkeys(zip(shares["op"], shares["optimizer"]))) or [None]
    with style.context():
        size = (style.WIDTH, style.MARGIN_HEIGHT + 1.3 * style.ROW_HEIGHT * -(-len(panels) // 2))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(-(-len(panels) // 2), 2, squeeze=False, sharex=True, sharey=True).flatten()
        for ax, panel in zip(axes, panels):
            if panel is None:
                ax.text(0, 0.5, "no runs on p2", **style.ABSENT)
                break
            op, optimizer = panel
            ax.set(title=f"{style.NAMES[op]}, {style.NAMES[optimizer]}")
            for place, method in enumerate(("scratch", "distilled")):
                own = (shares[CURVE] == [op, optimizer, method]).all(axis=1)
                found = (thresholds[CURVE] == [op, optimizer, method]).all(axis=1)
                _curve(ax, method, shares[own], thresholds[found], -0.1 - 0.09 * place)
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        fractions = sorted(shares["fraction"].unique())
        axes[0].set_xticks(fractions, [f"{100 * fraction:g}%" for fraction in fractions])  # of all panels
        if fractions:
            axes[0].set_xlim(fractions[0] - MARGIN, fractions[-1] + MARGIN)
        seaborn.despine(fig=figure)
        bars = "; bars below: critical threshold, 95%" if len(thresholds) else ""
        figure.supxlabel(f"training fraction of $p_2$ = {pair[1]} ($p_1$ = {pair[0]}){bars}", fontsize=8)
        figure.supylabel("share of seeds that grok", fontsize=8)
        handles = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels())}
        if handles:
            seeds = {method: own["n"] for method, own in shares.groupby("method")}
            labels = [f"{method}, n = {_span(seeds[method])}" for method in handles]
            figure.legend(handles.values(), labels, loc="outside upper center", ncols=len(handles), borderpad=0.5)
        folder.mkdir(parents=True, exist_ok=True)
        for kind, metadata in style.METADATA.items():
            figure.savefig(folder / f"phase.{kind}", dpi=dpi, metadata=metadata)
    return figure


def _curve(ax: Axes, method: str, shares: pd.DataFrame, found: pd.DataFrame, height: float) -> None:
    """Shares with their Wilson intervals, and the threshold's interval as a bar below them."""
    if shares.empty:
        return
    color = style.BLUE if method == "distilled" else style.VERMILLION
    shares = shares.sort_values("fraction")
    aside = shares["fraction"] + (0.0015 if method == "distilled" else -0.0015)  # so that intervals do not hide each other
    share = shares["grokked"] / shares["n"]
    low, high = np.transpose([wilson(*pair) for pair in zip(shares["grokked"], shares["n"])])
    ax.errorbar(
        aside, share, yerr=[share - low, high - share], color=color, linestyle=style.DASHES[method], marker="o",
        capsize=2, elinewidth=0.7, **style.LINE | {"markersize": 4}, label=method,
    )  # fmt: skip
    for row in found.itertuples():
        # An open side reaches a little beyond the fractions that were run.
        first, last = shares["fraction"].min(), shares["fraction"].max()
        reach = np.clip(row.low, first - MARGIN / 2, last), np.clip(row.high, first, last + MARGIN / 2)
        ax.plot(reach, [height, height], color=color, linewidth=2.5, solid_capstyle="butt")
        for is_open, place, arrow in ((row.low == -np.inf, reach[0], "<"), (row.high == np.inf, reach[1], ">")):
            if is_open:
                ax.plot(place, height, arrow, color=color, markersize=5)
        if np.isfinite(row.threshold):
            ax.plot(row.threshold, height, "|", color=color, markersize=9, markeredgewidth=1.6)
    ax.set(ylim=(-0.26, 1.05), yticks=[0, 0.5, 1])


def _span(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}"


def make(plan: Plan) -> None:
    """Write a study's `phase.csv` and its picture from the table of runs."""
    from grokdistill.publish import read_runs

    runs, pair = read_runs(plan.results), plan.params.primes.pair
    write(plan.results / "phase.csv", table(runs, pair).to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    draw(runs, pair, plan.results / "figures", plan.params.figures.dpi)
