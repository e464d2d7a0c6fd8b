"""Views of the store: what people and DVC look at, holding exactly the current runs under their names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from grokdistill import summary
from grokdistill.config import STAGES
from grokdistill.files import DamagedFile, sha256, to_json, write, write_with
from grokdistill.plan import Plan
from grokdistill.store import CHECKPOINT, CURVE, DATASET, RECORD, read_record

CURVES = "curves.parquet"


def publish(plan: Plan, stage: str) -> None:
    """Lay out a stage: a folder per run, and once more what is small, records, curves and the stage's metrics.

    A run that is known by its record and curve alone (`adopt`) has no checkpoint to show.
    """
    runs = plan.stage(stage)
    view = Path(plan.params.paths.datasets) if stage == "datasets" else plan.results / stage
    files = (RECORD, DATASET) if stage == "datasets" else (RECORD, CURVE, CHECKPOINT)
    _lay_out(
        view,
        {
            f"{run.name}/{name}": plan.store.folder(run.stage, run.fingerprint) / RECORD
            if name == RECORD
            else plan.store.file(run.stage, run.fingerprint, name)
            for run in runs
            for name in files
            if name != CHECKPOINT or plan.store.has_model(run.stage, run.fingerprint)
        },
    )
    if stage != "datasets":
        publish_small(plan, stage)


def publish_small(plan: Plan, stage: str) -> None:
    """Lay out what git keeps of a training stage: records, curves and metrics."""
    runs, results = plan.stage(stage), plan.results
    for kind, suffix, name in (("records", "json", RECORD), ("curves", "csv", CURVE)):
        found = {f"{run.name}.{suffix}": plan.store.folder(run.stage, run.fingerprint) / name for run in runs}
        _lay_out(results / kind / stage, found)
    rows = [summary.row(plan, run, summary.curve_of(plan, run)) for run in runs]
    write(results / "metrics" / f"{stage}.json", to_json(summary.metrics(plan, rows)))


def culprit(plan: Plan, stage: str) -> str | None:
    """The first file of a stage's view that is not its record's, in words; None where there is none, or no such view."""
    if stage not in STAGES:
        return None
    view = Path(plan.params.paths.datasets) if stage == "datasets" else plan.results / stage
    for run in plan.stage(stage):
        path = view / run.name / RECORD
        try:
            record = read_record(path)
        except DamagedFile as error:
            return str(error)
        if record["fingerprint"] != run.fingerprint:
            return f"{path} is run {record['fingerprint']}, asked for is {run.fingerprint}"
        for name, digest in record["outputs"].items():
            if name == CHECKPOINT and not plan.store.has_model(stage, run.fingerprint):
                continue
            file = view / run.name / name
            if not file.is_file() or sha256(file) != digest:
                return f"{file} {'does not match its record' if file.is_file() else 'is missing'}"
    return None


def _lay_out(folder: Path, wanted: dict[str, Path]) -> None:
    """Make a folder hold copies of exactly the wanted files; copies, so that nothing done to a view reaches the store."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, source in wanted.items():
        target = partial / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def tables(plan: Plan) -> pd.DataFrame:
    """Write `runs.csv` and `costs.csv`, one row per training run, and `curves.parquet`, all their curves one below the other.

    The order is that of the parameters. Thousands of curves are read from one columnar file in a second, from as many CSVs in
    minutes.
    """
    runs = [run for stage in STAGES[1:] for run in plan.stage(stage)]
    curves = [summary.curve_of(plan, run) for run in runs]
    frame = summary.table([summary.row(plan, run, curve) for run, curve in zip(runs, curves)])
    write(plan.results / "runs.csv", frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    costs = []
    for run in runs:
        execution = plan.store.record(run.stage, run.fingerprint)["execution"]
        versions = json.dumps(execution["versions"], sort_keys=True)
        costs.append({"stage": run.stage, "name": run.name, **execution, "versions": versions, "fingerprint": run.fingerprint})
    write(plan.results / "costs.csv", pd.DataFrame(costs).to_csv(index=False, lineterminator="\n"))
    for run, curve in zip(runs, curves):
        curve.insert(0, "stage", run.stage)
        curve.insert(1, "name", run.name)
    columns = list(dict.fromkeys(["stage", "name", *(column for curve in curves for column in curve)]))
    whole = pd.concat(curves) if curves else pd.DataFrame(columns=columns)
    write_with(plan.results / CURVES, partial(whole.to_parquet, index=False, compression="zstd"))
    return frame


def read_curves(results: Path) -> Callable[[str, str], pd.DataFrame]:
    """All curves, as a function from stage and name to the run's own: one row per evaluation, and its own columns.

    Raises:
        DamagedFile: where the file is missing or unreadable. The function raises FileNotFoundError where there is no such run.
    """
    path = results / CURVES
    try:
        whole = pd.read_parquet(path)
        places = whole.groupby(["stage", "name"], sort=False).indices
    except (OSError, ValueError, KeyError) as error:
        raise DamagedFile(f"{path}: unreadable ({error}); make it anew with `snakemake tables`") from None

    def curve(stage: str, name: str) -> pd.DataFrame:
        if (stage, name) not in places:
            raise FileNotFoundError(f"{path} has no curve of {stage}/{name}")
        own = whole.iloc[places[stage, name]].drop(columns=["stage", "name"])
        return own.dropna(axis="columns", how="all").reset_index(drop=True)

    return curve


def read_runs(results: Path) -> pd.DataFrame:
    """`runs.csv` as a table; `variant` is a text, empty for the defaults.

    Raises:
        DamagedFile: where it is missing or unreadable.
    """
    path = results / "runs.csv"
    try:
        return pd.read_csv(path, dtype={"variant": str}).fillna({"variant": ""})
    except (OSError, ValueError) as error:
        raise DamagedFile(f"{path}: unreadable ({error}); make it anew with `snakemake tables`") from None
