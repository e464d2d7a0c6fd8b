"""From a run's record and curve to its row in `runs.csv` and to its stage's metrics.

Everything here is computed after training, so that a change of threshold or of a measure retrains nothing.
"""

from __future__ import annotations

import statistics
import warnings
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import expit

from grokdistill.intervals import median_time
from grokdistill.measures import first_reached, grokking_time
from grokdistill.params import Evaluation
from grokdistill.plan import Plan, PlannedRun
from grokdistill.runs import variant_suffix
from grokdistill.store import CURVE

COLUMNS = (
    "stage", "name", "variant", "op", "p1", "p2", "p1_fraction", "fraction", "optimizer", "method", "loss", "teacher",
    "alpha", "temperature", "position", "seed", "steps", "status", "t_mem", "t_grok", "gap", "sharpness",
    "final_train_acc", "final_test_acc", "final_p1_acc", "norm_start", "norm_grok", "norm_end", "fingerprint",
)  # fmt: skip
WHOLE = ("p1", "p2", "seed", "steps", "t_mem", "t_grok", "gap")


def curve_of(plan: Plan, run: PlannedRun) -> pd.DataFrame:
    """A run's curve from the store, one row per evaluation."""
    return pd.read_csv(plan.store.file(run.stage, run.fingerprint, CURVE))


def judged(curve: pd.DataFrame, stage: str) -> pd.Series:
    """The accuracy that decides whether a run grokked: on both primes for f_M, else on the test set."""
    return curve[["test_acc", "p1_acc"]].min(axis=1) if stage == "joint" else curve["test_acc"]


def memorizing(curve: pd.DataFrame, stage: str) -> pd.Series:
    """The accuracy that decides whether a run memorized: on both primes' training pairs for f_M."""
    return curve[["train_acc", "p1_train_acc"]].min(axis=1) if stage == "joint" else curve["train_acc"]


def sigmoid_fit(steps: pd.Series, accuracy: pd.Series) -> tuple[float, float] | None:
    """Midpoint (updates) and rate (per update) of the least-squares fit c + (d - c) / (1 + exp(-k (t - t0))) (lesson).

    None where the fit does not converge.
    """
    t, y = steps.to_numpy(float), accuracy.to_numpy(float)
    length = max(t[-1], 1.0)
    start = t[int(np.argmax(y >= (y.min() + y.max()) / 2))] / length

    def curve(x: np.ndarray, low: float, high: float, rate: float, middle: float) -> np.ndarray:
        return low + (high - low) * expit(rate * (x - middle))

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)  # of the covariance, which is not used
            guess, bounds = (y.min(), y.max(), 50.0, start), ([0, 0, 0, 0], [1, 1, 1e4, 1])
            found, _ = curve_fit(curve, t / length, y, guess, bounds=bounds, max_nfev=2000)
    except (RuntimeError, ValueError):
        return None
    return found[3] * length, found[2] / length


def measure(curve: pd.DataFrame, stage: str, evaluation: Evaluation, diverged: int | None) -> dict[str, Any]:
    """Status, times, accuracies and norms of one curve; a censored run has no t_grok.

    The sharpness is the gap as a share of t_grok (lesson: delta t / t_grok): 0 without a plateau, towards 1 with a long one.
    """
    steps, last = curve["step"], curve.iloc[-1]
    t_mem = first_reached(steps, memorizing(curve, stage), evaluation.memorized)
    t_grok = None if diverged else grokking_time(steps, judged(curve, stage), evaluation.threshold, evaluation.hold)
    gap = t_grok - t_mem if t_grok is not None and t_mem is not None else None
    norms = curve.set_index("step")["weight_norm"]
    return {
        "steps": int(last["step"]),
        "status": "diverged" if diverged else "censored" if t_grok is None else "grokked",
        "t_mem": t_mem,
        "t_grok": t_grok,
        "gap": gap,
        "sharpness": gap / t_grok if gap is not None and t_grok else None,
        "final_train_acc": last["train_acc"],
        "final_test_acc": last["test_acc"],
        "final_p1_acc": last.get("p1_acc"),
        "sigmoid": sigmoid_fit(steps, judged(curve, stage)) if t_grok is not None else None,
        "norm_start": norms.iloc[0],
        "norm_grok": norms[t_grok] if t_grok is not None else None,
        "norm_end": norms.iloc[-1],
    }


def described(plan: Plan, run: PlannedRun) -> dict[str, Any]:
    """What a run is: the columns of its row of `runs.csv` that are known before it is trained."""
    config = run.config
    teacher = plan.entries[run.parents["teacher"]]["name"] if "teacher" in run.parents else config.teacher
    shown = {
        "stage": run.stage,
        "name": run.name,
        "variant": run.variant,
        "fingerprint": run.fingerprint,
        "teacher": teacher,
        "fraction": config.fraction or config.p1_fraction,
        "temperature": f"{config.temperature_reading} {config.temperature:g}" if config.temperature else None,
    }
    plain = {name: getattr(config, name) for name in COLUMNS if name in type(config).model_fields and name not in shown}
    return plain | shown


def row(plan: Plan, run: PlannedRun, curve: pd.DataFrame) -> dict[str, Any]:
    """The run's row of `runs.csv`."""
    record = plan.store.record(run.stage, run.fingerprint)
    return described(plan, run) | measure(curve, run.stage, plan.params.evaluation, record["diverged"])


def table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as the tidy table of runs, with whole numbers as such."""
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype(dict.fromkeys(WHOLE, "Int64"))


def cell_of(names: pd.Series) -> pd.Series:
    """Runs' names without their seed."""
    return names.str.replace(r"-s\d+$", "", regex=True)


def over_seeds(runs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The table of runs by cell, one row per combination of the columns `by`.

    Returns:
        `by`, then `n`, `grokked` (seeds), `t_grok` (`intervals.median_time`), `test_acc` and `p1_acc` (final,
        medians), `test_acc_min` and `test_acc_max`.
    """
    cells = runs.assign(grokked=runs["status"] == "grokked").groupby(by, dropna=False, sort=False)
    found = cells.agg(
        n=("seed", "size"),
        grokked=("grokked", "sum"),
        test_acc=("final_test_acc", "median"),
        p1_acc=("final_p1_acc", "median"),
        test_acc_min=("final_test_acc", "min"),
        test_acc_max=("final_test_acc", "max"),
    )
    times = [median_time(_known(cell["t_grok"]), cell["steps"].tolist()) for _, cell in cells]
    found.insert(2, "t_grok", pd.array(times, "Int64"))
    return found.reset_index()


def _known(times: pd.Series) -> list[float | None]:
    return [None if pd.isna(time) else float(time) for time in times]


def metrics(plan: Plan, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A stage's metrics for DVC: op, primes, fraction, optimizer, method (and variant), each with `n` and `share_grokked`.

    Times are medians over all seeds (`intervals.median_time`), left out where censored runs leave none; the rest are means over
    seeds.
    """
    cells: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for one in rows:
        run = plan.run(one["fingerprint"])
        *path, method = run.config.cell
        cells.setdefault((*path, method + variant_suffix(run.variant)), []).append(one)
    tree: dict[str, Any] = {}
    for path, members in cells.items():
        place = tree
        for part in path:
            place = place.setdefault(part, {})
        place |= _cell_metrics(members)
    return tree


def _cell_metrics(members: list[dict[str, Any]]) -> dict[str, float]:
    grokked = [one for one in members if one["status"] == "grokked"]
    found = {"n": len(members), "share_grokked": len(grokked) / len(members)}
    for name in ("t_mem", "t_grok"):
        middle = median_time([one[name] for one in members], [one["steps"] for one in members])
        if middle is not None:
            found[name] = int(middle)
    for name in ("final_train_acc", "final_test_acc", "final_p1_acc", "norm_start", "norm_grok", "norm_end"):
        values = [one[name] for one in members if one[name] is not None and one[name] == one[name]]
        if values:
            found[name] = round(statistics.fmean(values), 6)
    fits = [one["sigmoid"] for one in grokked if one.get("sigmoid")]
    for place, name in enumerate(("sigmoid_midpoint", "sigmoid_rate")):
        if fits:
            found[name] = float(f"{statistics.median(fit[place] for fit in fits):.6g}")
    return found
