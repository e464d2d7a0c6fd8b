"""Draws any declared figure: a line is the median over a condition's seeds, its band their whole range."""

import itertools
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import pandas
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

from grokdistill import style
from grokdistill.figures.specs import Condition, Panel, Spec

Curves = Callable[[str, str], pandas.DataFrame]

FIELDS = {"op": "operator", "optimizer": "optimizer", "fraction": "fraction", "method": "method"}


def same_answer_share(p1: int, p2: int, op: str) -> float:
    """The share of p1's pairs with one answer under both moduli: all that a model of p2 alone gets right."""
    a, b = numpy.ogrid[:p1, :p1]
    value = a + b if op == "add" else a - b
    return float((value % p1 == value % p2).mean())


def covered_share(p1: int, p2: int) -> float:
    """The share of p1's pairs that are pairs of p2 too: as far as training on p2's inputs can reach."""
    a, b = numpy.ogrid[:p1, :p1]
    return float(((a < p2) & (b < p2)).mean())


def draw_figure(
    spec: Spec, runs: pandas.DataFrame, curves: Curves, main_pair: tuple[int, int], threshold: float = 0.95
) -> Figure:
    """The figure that `spec` declares, from the main pair's default runs; on its face what is missing."""
    plain = runs["variant"].isna() | runs["variant"].eq("")
    runs = runs[plain & runs["p1"].eq(main_pair[0]) & runs["p2"].eq(main_pair[1])]
    panels = [panel.settled(runs) for panel in spec.panels]
    rows: list[Condition] = [{spec.rows: value} for value in _present(panels, runs, spec.rows)] or [{}]

    figure = Figure(layout="constrained")
    axes = figure.subplots(len(rows), len(panels), sharex=True, sharey="row", squeeze=False)
    for (row, fixed), (column, panel) in itertools.product(enumerate(rows), enumerate(panels)):
        ax = axes[row, column]
        _draw_panel(ax, spec, panel.only(**fixed), runs, curves, main_pair, threshold)
        if row == 0:
            title = panel.title.format(fraction=panel.grid["fraction"][0])
            ax.set_title(rf"$\bf{{{'abc'[column]}}}$   {title}")
        if row == len(rows) - 1:
            ax.set_xlabel("optimizer steps")
        if column == 0:
            ax.set_ylabel(spec.ylabel)
        if column == len(panels) - 1:
            for value in fixed.values():
                ax.annotate(style.NAMES[value], (1.03, 0.5), xycoords="axes fraction", rotation=-90, va="center")
    _scale_steps(axes)
    seaborn.despine(fig=figure)
    _frame(figure, len(rows), spec.title, _legend(figure, spec, panels, runs), _note(spec, panels, runs, main_pair))
    return figure


def _frame(figure: Figure, rows: int, title: str, legend: list[list[Line2D]], note: str) -> None:
    """Give a figure its size, its title above and, below the panels, the rows of its legend and its note."""
    note = textwrap.fill(note, style.NOTE_WIDTH)
    below = style.NOTE_HEIGHT * (note.count("\n") + 1.5)
    foot = below + style.LEGEND_HEIGHT * len(legend)
    height = style.MARGIN_HEIGHT + style.ROW_HEIGHT * rows + foot
    figure.set_size_inches(style.WIDTH, height)
    figure.get_layout_engine().set(rect=(0, foot / height, 1, 1 - foot / height), **style.PADS)
    heading = figure.suptitle(title, x=style.LEFT, ha="left", **style.TITLE)
    figure.text(style.LEFT, style.NOTE_HEIGHT / 4 / height, note, va="bottom", **style.NOTE)
    for place, handles in enumerate(reversed(legend)):
        anchor = (0.5, (below + style.LEGEND_HEIGHT * place) / height)
        figure.legend(handles=handles, loc="lower center", bbox_to_anchor=anchor, ncols=len(handles))
    # Lay out once, and round: what the layout finds differs in the last bit from process to process.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    heading.set_y(round(heading.get_position()[1], 5))
    for ax in figure.axes:
        ax.set_position(numpy.round(ax.get_position().bounds, 5))


def _draw_panel(
    ax: Axes,
    spec: Spec,
    panel: Panel,
    runs: pandas.DataFrame,
    curves: Curves,
    main_pair: tuple[int, int],
    threshold: float,
) -> None:
    """Draw every condition of a panel, and the lines that it is to be read against."""
    for condition in panel.conditions():
        found = panel.runs(runs, condition)
        frames = {run.seed: curves(run.stage, run.name).set_index("step") for run in found.itertuples()}
        for prime, (column, faint) in panel.measures.items():
            shown = {**condition, "prime": prime}
            colour, marker = style.COLOURS[shown[spec.colour]], style.MARKERS[shown[spec.colour]]
            look = {"color": colour, "linestyle": style.DASHES[shown[spec.dash]] if spec.dash else style.SOLID}
            _draw_line(ax, frames, faint, {**look, **style.FAINT}, band=False)
            _draw_line(ax, frames, column, {**look, **style.LINE, "marker": marker}, band=True)
            _draw_events(ax, found, frames, column, colour)
    if not ax.lines:
        ax.text(0.5, 0.5, "not run", transform=ax.transAxes, ha="center", va="center", **style.ABSENT)
        return
    if spec.ylabel == "accuracy":
        ax.axhline(threshold, label="threshold", **style.THRESHOLD)
        ax.set(ylim=(-0.03, 1.05), yticks=(0, 0.25, 0.5, 0.75, 1), yticklabels=("0", "", "0.5", "", "1"))
    if panel.floors:
        _draw_floors(ax, *main_pair, panel.grid["op"][0])


def _draw_events(ax: Axes, found: pandas.DataFrame, frames: dict[Any, pandas.DataFrame], column: str, colour: str) -> None:
    """Mark on each run's own curve where it diverged and, on a weight norm, where it grokked."""
    for run in found.itertuples():
        values = _values(frames[run.seed], column)
        if values.empty:
            continue
        if run.status == "diverged":
            ax.plot(values.index[-1], values.iloc[-1], label="diverged", color=colour, **style.DIVERGED)
        if column == "weight_norm" and not pandas.isna(run.t_grok):
            norm = numpy.interp(run.t_grok, values.index, values)
            ax.plot(run.t_grok, norm, label="t_grok", color=colour, **style.GROK)


def _draw_line(ax: Axes, frames: dict[Any, pandas.DataFrame], column: str | None, look: dict, *, band: bool) -> None:
    """The median over seeds, as far as every seed went; a run that went further goes on alone, thinly."""
    series = {seed: _values(frame, column) for seed, frame in frames.items()}
    series = {seed: values for seed, values in series.items() if len(values)}
    if not series:
        return
    shared = pandas.concat(series, axis=1).dropna()
    if len(shared):
        middle = shared.median(axis=1)
        halfway = int((middle - (middle.min() + middle.max()) / 2).abs().argmin())
        ax.plot(middle.index, middle, label=column, markevery=[halfway, len(middle) - 1], **look)
    if not band or len(series) == 1:
        return
    ax.fill_between(shared.index, shared.min(axis=1), shared.max(axis=1), color=look["color"], **style.BAND)
    for seed, values in series.items():
        rest = values[values.index >= shared.index.max()] if len(shared) else values
        if len(rest) > 1:
            ax.plot(rest.index, rest, label=f"{column} of seed {seed}", **{**look, **style.ALONE, "marker": None})


def _values(frame: pandas.DataFrame, column: str | None) -> pandas.Series:
    """What a run has in a column; nothing if it has no such column."""
    return frame[column].dropna() if column in frame else pandas.Series(dtype=float)


def _draw_floors(ax: Axes, p1: int, p2: int, op: str) -> None:
    """What is exactly left on p1 to a model that only knows p2, and as far as p2's inputs can protect p1."""
    floors = {"covered by $p_2$'s pairs": covered_share(p1, p2), "knows only $p_2$": same_answer_share(p1, p2, op)}
    lines = [
        ax.axhline(share, label=f"{name}: {share:.3f}", linestyle=dash, **style.REFERENCE)
        for (name, share), dash in zip(floors.items(), style.REFERENCE_DASHES, strict=True)
        if share < 1
    ]
    ax.legend(handles=lines, loc="lower left")


def _scale_steps(axes: numpy.ndarray) -> None:
    """Steps on a log scale, so that the early phase shows; a run's step 0 has its place on the left."""
    limits = [ax.dataLim for ax in axes.flat if numpy.isfinite(ax.dataLim.x1)]
    if not limits:
        for ax in axes.flat:
            ax.set(xticks=[], yticks=[])
        return
    last = max(limit.x1 for limit in limits)
    first = max(min(limit.minposx for limit in limits), last / 300)
    scale = {"value": "log"}
    if min(limit.x0 for limit in limits) <= 0:
        scale = {"value": "symlog", "linthresh": first, "linscale": 0.3}
    decades = 10.0 ** numpy.arange(numpy.floor(numpy.log10(first)), numpy.log10(last) + 1)
    minor = numpy.outer(decades, numpy.arange(1, 10)).ravel()
    major = decades[(decades >= first) & (decades <= last)]
    if len(major) < 2:
        major = minor[(minor > first) & (minor <= last)][::2]
    for ax in axes.flat:
        ax.set_xscale(**scale)
        ax.xaxis.set_major_locator(FixedLocator([0, *major]))
        ax.xaxis.set_minor_locator(FixedLocator(minor[(minor > first) & (minor < last)]))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlim(0 if "linthresh" in scale else first, last * 1.05)


def _legend(figure: Figure, spec: Spec, panels: Sequence[Panel], runs: pandas.DataFrame) -> list[list[Line2D]]:
    """The rows of a legend: colours, then line styles and marks; only what is in the figure."""

    def entry(label: str, **look: Any) -> Line2D:
        return Line2D([], [], label=label, **{"color": style.GREY, **look})

    colours = [
        entry(_name(value), color=style.COLOURS[value], marker=style.MARKERS[value], **style.LINE)
        for value in _present(panels, runs, spec.colour)
    ]
    dashes: dict[Any, list[str]] = {}
    for value in _present(panels, runs, spec.dash):
        dashes.setdefault(style.DASHES[value], []).append(_name(value))
    styles = [entry(" or ".join(names), linestyle=dash, **style.LINE) for dash, names in dashes.items()]
    drawn = {line.get_label() for ax in figure.axes for line in ax.lines}
    if drawn & {"train_acc", "p1_train_acc"}:
        styles.append(entry("faint: train", **style.FAINT))
    if "t_grok" in drawn:
        styles.append(entry(r"$t_\mathrm{grok}$", **style.GROK))
    if "diverged" in drawn:
        styles.append(entry("diverged", **style.DIVERGED))
    one_row = len(colours) + len(styles) <= style.LEGEND_COLUMNS
    return [row for row in ([colours + styles] if one_row else [colours, styles]) if row]


def _note(spec: Spec, panels: Sequence[Panel], runs: pandas.DataFrame, main_pair: tuple[int, int]) -> str:
    """The primes, how many seeds a line stands for, and which part of the paper's grid was run."""
    drawn = [panel.runs(runs, condition) for panel in panels for condition in panel.conditions()]
    counts = sorted({len(found) for found in drawn if len(found)})
    seeds = sorted({int(seed) for found in drawn for seed in found["seed"]})
    parts = ["$p_1$ = {}, $p_2$ = {}".format(*main_pair)]
    if counts == [1]:
        parts.append("n = 1 seed")
    elif counts:
        least = f"{counts[0]} to " if len(counts) > 1 else ""
        parts.append(f"line: median, band: range, n = {least}{counts[-1]} seeds")

    # Two panels may show the same runs, so conditions are counted once.
    everything = ((panel, condition) for panel in spec.panels for condition in panel.conditions())
    wanted = list({(panel.stages, *condition.items()): (panel, condition) for panel, condition in everything}.values())
    there = sum(len(panel.runs(runs, condition)) for panel, condition in wanted)
    full = len(wanted) * max(1, len(seeds))
    if there < full:
        parts.append(f"part of the grid: {there} of {full} runs of the full figure")
        for field, name in FIELDS.items():
            asked = {condition[field] for _, condition in wanted if field in condition}
            present = _present(panels, runs, field)
            if present and set(present) != asked:
                parts.append(_listed(name, [f"{v:.0%}" if field == "fraction" else style.NAMES[v] for v in present]))
        if seeds:
            parts.append(_listed("seed", [str(seed) for seed in seeds]))
    return "; ".join(parts)


def _listed(name: str, values: list[str]) -> str:
    return f"{name}{'s' if len(values) > 1 else ''} {', '.join(values)}"


def _present(panels: Sequence[Panel], runs: pandas.DataFrame, field: str | None) -> list[Any]:
    """The values of a field, or the primes, for which there is a run; in the order of the style file."""
    values = {
        {**condition, "prime": prime}.get(field)
        for panel in panels
        for condition in panel.conditions()
        if len(panel.runs(runs, condition))
        for prime in panel.measures
    }
    order = [*style.COLOURS, *style.DASHES]
    return sorted(values - {None}, key=lambda value: order.index(value) if value in order else len(order))


def _name(value: Any) -> str:
    return f"{value:.0%} of $p_2$" if isinstance(value, float) else style.NAMES[value]
