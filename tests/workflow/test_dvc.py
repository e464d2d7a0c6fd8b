"""What DVC tracks, and what it says of two commits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import Clone, make_clone


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Clone, str, str]:
    """A clone with two commits: `dvc repro`, then again with another alpha for the students."""
    clone = make_clone(tmp_path_factory.mktemp("dvc"))
    clone.run("dvc", "repro")
    first = clone.commit("first")
    clone.params(students__alpha=0.5)
    clone.run("dvc", "repro")
    return clone, first, clone.commit("alpha")


def test_repro_runs_the_chain_and_leaves_it_clean(reproduced: tuple[Clone, str, str]):
    clone, *_ = reproduced
    assert "up to date" in clone.run("dvc", "status")
    assert not clone.planned()
    assert clone.run("git", "status", "--porcelain") == ""


def test_metrics_diff_shows_students_and_not_teachers(reproduced: tuple[Clone, str, str]):
    clone, first, second = reproduced
    changed = json.loads(clone.run("dvc", "metrics", "diff", first, second, "--json"))
    files = {Path(name).stem for name in changed}
    assert "students" in files
    assert files <= {"students", "joint"}  # f_M learns from a student
    assert any(
        key.endswith("distilled.final_test_acc") or "norm_end" in key for key in changed["results/metrics/students.json"]
    )


def test_params_diff_and_metrics_show(reproduced: tuple[Clone, str, str]):
    clone, first, second = reproduced
    changed = json.loads(clone.run("dvc", "params", "diff", first, second, "--json"))
    assert changed["params.yaml"] == {"students.alpha": {"old": 0.9, "new": 0.5, "diff": -0.4}}
    shown = json.loads(clone.run("dvc", "metrics", "show", "--json"))
    assert len(shown[""]["data"]) == 5


def test_plots_diff_draws(reproduced: tuple[Clone, str, str]):
    clone, first, second = reproduced
    clone.run("dvc", "plots", "diff", first, second, "--out", "plots")
    assert "step" in (clone.root / "plots" / "index.html").read_text()
    shutil.rmtree(clone.root / "plots")


def test_teachers_were_trained_once(reproduced: tuple[Clone, str, str]):
    clone, *_ = reproduced
    store = clone.root / "results/store"
    trained = {stage: len(list((store / stage).iterdir())) for stage in ("teachers", "students", "joint")}
    assert (trained["teachers"], trained["students"], trained["joint"]) == (1, 4, 3)
