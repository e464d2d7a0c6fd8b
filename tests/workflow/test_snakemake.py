"""What Snakemake makes; what an edit reruns is in test_reruns.py."""

from __future__ import annotations

import csv
import json

import pandas as pd
import pytest
from conftest import Clone


def test_everything_named_is_made(finished: Clone):
    results = finished.root / "results"
    stages = ("teachers", "baselines", "students", "joint", "continual")
    with (results / "runs.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert [sum(run["stage"] == stage for run in runs) for stage in stages] == [1, 2, 2, 2, 2]
    for run in runs:
        view = results / run["stage"] / run["name"]
        assert {path.name for path in view.iterdir()} == {"record.json", "curve.csv", "checkpoint.safetensors"}
        record = json.loads((view / "record.json").read_text())
        assert record["fingerprint"] == run["fingerprint"]
        assert (results / "curves" / run["stage"] / f"{run['name']}.csv").read_bytes() == (view / "curve.csv").read_bytes()
    for number in range(1, 8):
        assert (results / "figures" / f"figure-{number}.png").read_bytes().startswith(b"\x89PNG")
        assert (results / "figures" / f"figure-{number}.pdf").read_bytes().startswith(b"%PDF")
    assert (results / "figures" / "readings.png").read_bytes().startswith(b"\x89PNG")
    assert (results / "readings.csv").read_text().startswith("stage,p1,p2,op,")
    assert len(pd.read_parquet(results / "curves.parquet").groupby(["stage", "name"])) == len(runs)
    metrics = json.loads((results / "metrics" / "students.json").read_text())
    assert metrics["add"]["p11-p7"]["f20"]["adamw"]["distilled"]["n"] == 1
    with (results / "claims.csv").open() as file:
        verdicts = {row["verdict"] for row in csv.DictReader(file)}
    assert verdicts <= {"reproduced", "partly", "not reproduced", "not run"}
    assert {path.name for path in (finished.root / "data" / "datasets").glob("p*")} == {"p11-s0", "p7-s0"}


def test_a_clone_runs_its_own_sources(clone: Clone):
    """Whatever else is installed: in what decides, and in jobs."""
    del clone.environment["PYTHONPATH"]
    assert not clone.planned()
    for name, message in (("runs.py", "this clone's enumeration"), ("claims.py", "this clone's judgement")):
        path = clone.root / "src/grokdistill" / name
        whole = path.read_text()
        path.write_text(f"{whole}\nraise RuntimeError({message!r})\n")
        assert message in clone.snakemake("--", "claims", ok=False)
        path.write_text(whole)


def test_seeds_share_a_job(clone: Clone):
    """The first seed's job trains all; the others' find theirs in the store, so each cell is trained once."""
    clone.params(seeds=[1, 2, 3], execution={"seeds_per_job": 3})
    clone.snakemake("teachers")
    logs = sorted(
        path.read_text() for path in (clone.root / "results/logs/teachers").iterdir() if "seeds 1,2,3" in path.read_text()
    )
    assert len(logs) == 1
    assert all(f"seed {seed}:" in logs[0] for seed in (1, 2, 3))
    assert len(list((clone.root / "results/teachers").glob("add*"))) == 3


def test_a_spurious_job_does_not_train_again(clone: Clone):
    """Even where Snakemake is told to rerun everything, what is in the store is taken from there."""
    records = sorted((clone.root / "results/store").glob("*/*/record.json"))
    before = [path.stat().st_mtime_ns for path in records]
    clone.snakemake("--forceall")
    assert [path.stat().st_mtime_ns for path in records] == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"primes__p1": 15}, ("primes.p1", "prime", "15")),
        ({"students__alhpa": 0.5}, ("students.alhpa", "unknown key", "alpha")),
        ({"baselines__fractions": [1.5]}, ("baselines.fractions.0", "less than 1", "1.5")),
        ({"students__fractions": [0.001]}, ("students.fractions", "leaves no training pair")),
        ({"students__variants": [{"fields": {"flavour": 1}}]}, ("students", "flavour")),
        ({"paths": {"claims": "params.yaml"}}, ("params.yaml", "expected a mapping from ids to claims")),
        ({"paths": {"claims": "nothere.yaml"}}, ("nothere.yaml", "No such file")),
    ],
)
def test_bad_parameters_are_refused_before_any_job(clone: Clone, changes: dict, words: tuple):
    clone.params(**changes)
    printed = clone.snakemake(ok=False)
    assert all(word in printed for word in words), printed
    assert "Traceback" not in printed
    assert "Job stats" not in printed


def test_another_results_folder_leaves_the_first_alone(clone: Clone):
    (clone.root / "other.yaml").write_text("paths: {results: results-other, datasets: results-other/datasets}\n")
    before = {path: path.stat().st_mtime_ns for path in (clone.root / "results").rglob("*")}
    clone.snakemake("teachers", "--configfile", "other.yaml")
    assert (clone.root / "results-other/teachers").is_dir()
    assert before == {path: path.stat().st_mtime_ns for path in (clone.root / "results").rglob("*")}
