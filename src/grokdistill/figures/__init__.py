"""Figures 1 to 7 of the paper: `specs` declares what each shows, `canvas` draws any of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas

from grokdistill import style
from grokdistill.figures.canvas import Curves, covered_share, draw_figure, same_answer_share
from grokdistill.figures.specs import FIGURES, Panel, Spec

if TYPE_CHECKING:
    from grokdistill.plan import Plan

__all__ = ["FIGURES", "Curves", "Panel", "Spec", "covered_share", "draw", "draw_figure", "make", "same_answer_share"]


def draw(
    number: int,
    runs: pandas.DataFrame,
    curves: Curves,
    out: Path,
    *,
    main_pair: tuple[int, int],
    threshold: float = 0.95,
    dpi: float | None = None,
) -> list[Path]:
    """Write the paper's figure `number` into `out` as PNG and PDF, the same bytes for the same runs.

    `runs` is the tidy table of runs, `curves(stage, name)` one run's evaluations, `main_pair`
    the primes (p1, p2), `threshold` the accuracy drawn as a line, `dpi` the resolution of the PNG if not the style's.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"figure-{number}.{kind}" for kind in style.METADATA]
    with style.context():
        figure = draw_figure(FIGURES[number], runs, curves, main_pair, threshold)
        for path, metadata in zip(paths, style.METADATA.values(), strict=True):
            figure.savefig(path, dpi=dpi or "figure", metadata=metadata)
    return paths


def make(plan: Plan, number: int) -> None:
    """Draw one figure of a study from its tables."""
    from grokdistill.publish import read_curves, read_runs

    draw(
        number,
        read_runs(plan.results),
        read_curves(plan.results),
        plan.results / "figures",
        main_pair=plan.params.primes.pair,
        threshold=plan.params.evaluation.threshold,
        dpi=plan.params.figures.dpi,
    )
