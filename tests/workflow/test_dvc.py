"""What DVC tracks: stages, commits, clones, remotes, link types and experiments. Nothing that was trained is trained again."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import AS_USER, ROOT, Clone, training

from grokdistill.config import STAGES

RUNS = {"datasets": 2, "teachers": 1} | dict.fromkeys(STAGES[2:], 2)
TEACHER = "teachers/add-p11-f35-adamw-scratch"


def whole_cache(clone: Clone, folder: str = ".dvc/cache") -> dict[str, str]:
    """Objects of DVC's cache, each of which must be what its name says."""
    objects = {}
    for path in (clone.root / folder).glob("files/md5/*/*"):
        objects[path.parent.name + path.name] = hashlib.md5(path.read_bytes()).hexdigest()
    assert objects
    assert all(name.removesuffix(".dir") == digest for name, digest in objects.items())
    return objects


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, finished: Clone) -> tuple[Clone, str, str]:
    """A clone with two commits: a bare `snakemake`, recorded; then another alpha for the students, by `dvc repro`."""
    root = tmp_path_factory.mktemp("dvc") / "clone"
    shutil.copytree(finished.root, root, symlinks=True)
    clone = Clone(root, finished.environment | {"PYTHONPATH": str(root / "src")})
    clone.results("record")
    first = clone.commit("first")
    clone.params(students__alpha=0.5)
    clone.run("dvc", "repro")
    return clone, first, clone.commit("alpha")


@pytest.fixture
def copy(recorded: tuple[Clone, str, str], tmp_path: Path) -> Clone:
    """A copy of it, at the second commit."""
    clone = recorded[0]
    root = shutil.copytree(clone.root, tmp_path / "copy", symlinks=True)
    return Clone(root, clone.environment | {"PYTHONPATH": str(root / "src")})


def fresh(clone: Clone, root: Path) -> Clone:
    """A fresh clone with git, which has neither store nor cache, and a remote to pull from."""
    remote = root.with_name("remote")
    clone.run("dvc", "remote", "add", "--force", "--default", "shared", str(remote))
    clone.run("dvc", "push")
    clone.commit("a remote")
    clone.run("git", "clone", "--quiet", str(clone.root), str(root))
    return Clone(root, clone.environment | {"PYTHONPATH": str(root / "src")})


def test_the_papers_results_are_those_of_this_commit(tmp_path: Path):
    """A clone of it lacks what only DVC's cache holds, and nothing is stale: after an edit, `snakemake` and `make record`."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "fresh")], check=True)
    dvc = (sys.executable, "-m", "dvc", "status", "--json")
    status = json.loads(subprocess.run(dvc, cwd=tmp_path / "fresh", check=True, capture_output=True).stdout)
    changes = [change for listed in status.values() for change in listed]
    found = {(path, kind) for change in changes for paths in change.values() for path, kind in paths.items()}
    views = ("data/datasets", *(f"results/{stage}" for stage in STAGES[1:]))
    assert found == {(path, kind) for path in views for kind in ("deleted", "not in cache")}


def test_recorded_results_are_clean_for_dvc_and_snakemake(recorded: tuple[Clone, str, str]):
    clone, *_ = recorded
    assert "up to date" in clone.run("dvc", "status")
    assert not clone.planned()
    assert clone.run("git", "status", "--porcelain") == ""
    assert clone.trained() == RUNS | {"students": 4, "joint": 3}


def test_metrics_diff_shows_students_and_not_teachers(recorded: tuple[Clone, str, str]):
    clone, first, second = recorded
    changed = json.loads(clone.run("dvc", "metrics", "diff", first, second, "--json"))
    assert {Path(name).stem for name in changed} == {"students", "joint"}  # f_M learns from a student
    for name, keys in changed.items():
        for commit, side in ((first, "old"), (second, "new")):
            committed = json.loads(clone.run("git", "show", f"{commit}:{name}"))
            for key, values in keys.items():
                place = committed
                for part in key.split("."):
                    place = place.get(part, {})
                assert values.get(side) == (place if place != {} else None)


def test_params_diff_and_metrics_show(recorded: tuple[Clone, str, str]):
    clone, first, second = recorded
    changed = json.loads(clone.run("dvc", "params", "diff", first, second, "--json"))
    assert changed["params.yaml"] == {"students.alpha": {"old": 0.9, "new": 0.5, "diff": -0.4}}
    shown = json.loads(clone.run("dvc", "metrics", "show", "--json"))
    assert len(shown[""]["data"]) == 5


def test_plots_diff_draws(copy: Clone, recorded: tuple[Clone, str, str]):
    _, first, second = recorded
    copy.run("dvc", "plots", "diff", first, second, "--out", "plots")
    assert "step" in (copy.root / "plots" / "index.html").read_text()


def test_a_checkout_and_one_command_bring_results_back(copy: Clone, recorded: tuple[Clone, str, str]):
    """To the commit before and back: the results are that commit's, nothing is to be done, DVC is content."""
    _, first, second = recorded
    for commit, alpha in ((first, "0.9"), (second, "0.5")):
        copy.run("git", "checkout", "--quiet", commit)
        copy.results("restore")
        assert not copy.planned()
        assert "up to date" in copy.run("dvc", "status")
        assert copy.run("git", "status", "--porcelain") == ""
        students = [line for line in (copy.root / "results/runs.csv").read_text().splitlines() if line.startswith("students")]
        assert all(f",{alpha},matched" in line for line in students)


def test_a_checkout_without_it_trains_nothing(copy: Clone, recorded: tuple[Clone, str, str]):
    copy.run("git", "checkout", "--quiet", recorded[1])
    jobs = copy.planned()
    assert not any(name.startswith("train") for name in jobs)
    copy.snakemake()
    assert "up to date" in copy.run("dvc", "status")


def test_a_fresh_clone_with_a_remote(copy: Clone, tmp_path: Path):
    """One command, and nothing is left to do; then an edit trains only what it touches."""
    clone = fresh(copy, tmp_path / "fresh")
    clone.results("restore")
    assert not clone.planned()
    assert clone.trained() == RUNS
    assert "up to date" in clone.run("dvc", "status")
    clone.params(continual__alpha=0.3)
    assert clone.planned_runs() == {"continual/add-p11-p7-f20-adamw-distilled"}


def test_a_fresh_clone_with_git_alone(copy: Clone, tmp_path: Path):
    """Its records and curves suffice for every table and figure; a new run trains itself and the models it is made from."""
    copy.run("git", "clone", "--quiet", str(copy.root), str(tmp_path / "fresh"))
    clone = Clone(tmp_path / "fresh", copy.environment | {"PYTHONPATH": str(tmp_path / "fresh" / "src")})
    assert "deleted" in clone.run("dvc", "status")  # no cache, no remote
    assert training(clone.planned()) == 0
    assert "known by record and curve alone" in clone.snakemake()
    tables = ("runs.csv", "costs.csv", "claims.csv", "phase.csv", "readings.csv", "curves.parquet")
    for name in (*tables, "figures/figure-1.png", "overview.html"):
        assert (clone.root / "results" / name).read_bytes() == (copy.root / "results" / name).read_bytes(), name
    assert not clone.planned()
    known = json.loads(clone.run("dvc", "status", "datasets", "--json"))  # generated again, to the bytes that the lock names
    assert known == {"datasets": [{"changed outs": {"data/datasets": "not in cache"}}]}
    clone.params(joint__alpha=0.5)
    cell = "add-p11-p7-f20-adamw-distilled"
    assert clone.planned_runs() == {TEACHER, f"students/{cell}", "joint/add-p11-p7-f35-f20-adamw-distilled"}
    clone.snakemake()
    assert not clone.planned()


def test_a_changed_rate_in_a_fresh_clone_is_trained_and_never_recorded_over_old_weights(copy: Clone, tmp_path: Path):
    clone = fresh(copy, tmp_path / "fresh")
    clone.run("dvc", "pull")
    name = f"results/{TEACHER}-s0/checkpoint.safetensors"
    before = (clone.root / name).read_bytes()
    clone.params(optim__learning_rate=0.004)
    assert "made from other runs" in clone.results("record", ok=False)
    clone.run("dvc", "repro", "teachers")
    assert (clone.root / name).read_bytes() != before
    record = json.loads((clone.root / name).with_name("record.json").read_text())
    assert record["config"]["learning_rate"] == 0.004


def test_nothing_is_recorded_or_restored_unchecked(copy: Clone, tmp_path: Path):
    """The file that is not what its record says is named, and dvc.lock stays as it is."""
    lock = (copy.root / "dvc.lock").read_bytes()
    checkpoint = copy.root / f"results/{TEACHER}-s0/checkpoint.safetensors"
    whole = checkpoint.read_bytes()
    checkpoint.unlink()  # a link into the cache, perhaps
    checkpoint.write_bytes(whole[:-1] + b"x")
    printed = copy.results("record", ok=False)
    assert f"{checkpoint.relative_to(copy.root)} does not match its record" in printed
    assert "Traceback" not in printed
    assert (copy.root / "dvc.lock").read_bytes() == lock
    checkpoint.write_bytes(whole)
    copy.results("record")
    # A commit whose views are another's: the records give it away.
    metrics = copy.root / "results/metrics/students.json"
    metrics.write_text(metrics.read_text().replace("0.", "0.1", 1))
    assert "results/metrics/students.json is not what was made" in copy.results("record", ok=False)


@pytest.mark.parametrize(("links", "user"), [("copy", AS_USER), ("hardlink", AS_USER), ("symlink", AS_USER), ("hardlink", ())])
def test_every_link_type(clone: Clone, links: str, user: tuple[str, ...]):
    """As root and as an ordinary user: no file is in the way, and what the cache holds is never touched."""
    if user and subprocess.run([*user, "true"]).returncode:
        pytest.skip("needs setpriv and the right to give up capabilities")
    clone.run("dvc", "config", "cache.type", links)
    clone.run(*user, "python", "workflow/scripts/results.py", "record")
    view = clone.root / f"results/{TEACHER}-s0/checkpoint.safetensors"
    clone.run("dvc", "checkout", "--relink")
    assert {"copy": view.stat().st_nlink == 1, "hardlink": view.stat().st_nlink == 2, "symlink": view.is_symlink()}[links]
    before = whole_cache(clone)
    clone.params(teachers__variants=[{"fields": {"learning_rate": 0.002}}], figures={"dpi": 60})
    clone.run(*user, "snakemake", "--cores", "2", "--resources", "gpu=2")
    clone.run(*user, "python", "workflow/scripts/results.py", "record")
    assert not clone.planned()
    clone.params(teachers__variants=[])
    clone.run(*user, "dvc", "repro")
    assert before.items() <= whole_cache(clone).items()
    assert clone.trained() == RUNS | {"teachers": 2}
    assert not clone.planned()


def test_a_failed_stage_leaves_no_lock_entry(copy: Clone):
    copy.params(teachers__min_accuracy=0.9999, students__alpha=0.7)
    path = copy.root / "dvc.lock"
    before = yaml.safe_load(path.read_text())["stages"]
    assert "min_accuracy" in copy.run("dvc", "repro", ok=False)
    after = yaml.safe_load(path.read_text())["stages"]
    assert after["plan"] != before["plan"]
    assert all(after[name] == before[name] for name in before.keys() - {"plan"})
    copy.params(teachers__min_accuracy=0.0, students__alpha=0.5)
    copy.run("dvc", "repro")
    assert "up to date" in copy.run("dvc", "status")


def test_experiments_train_what_they_change(copy: Clone):
    """One in place, and a queue of two in workspaces of their own, where neither teachers nor baselines are trained again."""
    copy.run("dvc", "exp", "run", "--set-param", "students.alpha=0.8", "--name", "here")
    assert copy.trained()["teachers"] == 1
    assert copy.trained()["baselines"] == 2
    copy.run("git", "checkout", "--quiet", "--force", ".")
    copy.results("restore")
    for alpha in ("0.6", "0.7"):
        copy.run("dvc", "exp", "run", "--queue", "--set-param", f"students.alpha={alpha}", "--name", f"alpha-{alpha[-1]}")
    printed = copy.run("dvc", "queue", "start", "--jobs", "1") + wait_for_queue(copy)
    for name in ("alpha-6", "alpha-7"):
        log = copy.run("dvc", "queue", "logs", name)
        assert log.count("rule train_students:") == 2
        for stage in ("teachers", "baselines", "continual"):
            assert f"rule train_{stage}:" not in log
    shown = {row["Experiment"]: row for row in rows(copy.run("dvc", "exp", "show", "--csv", "--no-pager"))}
    assert {"here", "alpha-6", "alpha-7"} <= shown.keys(), printed
    for name, alpha in (("here", "0.8"), ("alpha-6", "0.6"), ("alpha-7", "0.7")):
        assert shown[name]["students.alpha"] == alpha
        assert any(key.endswith("distilled.final_test_acc") and value for key, value in shown[name].items())


def rows(text: str) -> list[dict[str, str]]:
    """A CSV as dictionaries."""
    return list(csv.DictReader(io.StringIO(text)))


def wait_for_queue(clone: Clone) -> str:
    """Until the queue's worker has nothing left to do."""
    deadline = time.monotonic() + 400
    while True:
        printed = clone.run("dvc", "queue", "status")
        if "Queued" not in printed and "Running" not in printed:
            return printed
        assert time.monotonic() < deadline, printed
        time.sleep(2)
