"""What `make demo` left in results-quick/: real training on the paper's primes. Run it first; then `pytest tests/quick`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results-quick"


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return pd.read_csv(RESULTS / "runs.csv")


def chosen(runs: pd.DataFrame, stage: str, method: str) -> pd.DataFrame:
    found = runs[(runs.stage == stage) & (runs.method == method)]
    assert len(found) > 0, f"no {method} run of {stage}"
    return found


def first_both(name: str) -> float:
    """The first update with test accuracy of 0.95 on both primes; infinite where there is none."""
    curve = pd.read_csv(RESULTS / "curves" / "joint" / f"{name}.csv")
    reached = curve[(curve.test_acc >= 0.95) & (curve.p1_acc >= 0.95)]
    return reached.step.min() if len(reached) else float("inf")


def test_nothing_is_left_to_do():
    command = [sys.executable, "-m", "snakemake", "-n", "--configfile", "config/quick.yaml"]
    done = subprocess.run(command, cwd=ROOT, text=True, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert "Nothing to be done" in done.stdout, done.stdout


def test_teachers_grok_on_35_percent(runs):
    teachers = chosen(runs, "teachers", "scratch")
    assert set(teachers.op) == {"add", "sub"}
    assert (teachers.final_test_acc >= 0.99).all()


def test_at_20_percent_students_grok_where_models_from_scratch_do_not(runs):
    students, scratch = chosen(runs, "students", "distilled"), chosen(runs, "baselines", "scratch")
    for found in (students, scratch):
        assert set(found.op) == {"add", "sub"}
        assert set(found.fraction) == {0.2}
    assert (students.final_test_acc >= 0.95).all()
    assert (scratch.final_test_acc < 0.2).all()


def test_a_continual_run_keeps_p1_where_it_is_distilled(runs):
    assert (chosen(runs, "continual", "supervised").final_p1_acc < 0.6).all()
    assert (chosen(runs, "continual", "distilled").final_p1_acc > 0.85).all()


def test_a_distilled_joint_model_learns_both_primes_in_half_the_updates(runs):
    distilled, supervised = (chosen(runs, "joint", method).sort_values("seed") for method in ("distilled", "supervised"))
    for one, other in zip(distilled.name, supervised.name, strict=True):
        assert first_both(one) <= first_both(other) / 2
