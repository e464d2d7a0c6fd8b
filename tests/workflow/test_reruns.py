"""What an edit reruns: every row of the table in README, counted by rule and by run."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from conftest import Clone, training

from grokdistill.config import STAGES

TRAINING = STAGES[1:]
FIGURES = {"draw_figure": 7}
OVERVIEW = {"overview": 1}
PICTURES = FIGURES | OVERVIEW | {"phase": 1, "readings": 1}
VERDICTS = OVERVIEW | {"claims": 1}
REST = PICTURES | VERDICTS | {"tables": 1}
STUDENTS = {"students/add-p11-p7-f30-adamw-distilled", "students/add-p11-p7-f20-adamw-distilled"}
JOINT_DISTILLED = "joint/add-p11-p7-f35-f20-adamw-distilled"
JOINT = {JOINT_DISTILLED, "joint/add-p11-p7-f35-f20-adamw-supervised"}
CONTINUAL = {f"continual/add-p11-p7-f20-adamw-{method}" for method in ("supervised", "distilled")}
BASELINES = {"baselines/add-p11-p7-f30-adamw-scratch", "baselines/add-p11-p7-f20-adamw-scratch"}
TEACHER = {"teachers/add-p11-f35-adamw-scratch"}


def contents(folder: Path) -> dict[str, str]:
    """What lies below a folder, without what is local to it."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in ("store", "logs") and path.name != ".snakemake_timestamp"
    }


def touch_everything(clone: Clone):
    for path in clone.root.rglob("*"):
        if path.is_file() and not {".git", ".snakemake", "__pycache__", "wanted"} & set(path.parts):
            path.touch()


def reorder_params(clone: Clone):
    """Sections in another order, a comment, blank lines."""
    path = clone.root / "params.yaml"
    sections = re.split(r"(?m)^(?=\w)", path.read_text())
    path.write_text("# another order\n\n" + "\n".join(reversed(sections)))


def comment_sources(clone: Clone):
    for path in clone.root.glob("src/**/*.py"):
        path.write_text(path.read_text() + "\n\n# nothing that runs\n")
    clone.edit(
        "src/grokdistill/engine.py", '"""Forward passes for training', '"""Another docstring. Forward passes for training'
    )


def append(path: str, line: str = "UNUSED = 1"):
    """An edit that adds a line to a file."""

    def edit(clone: Clone):
        with (clone.root / path).open("a") as file:
            file.write(f"\n{line}\n")

    return edit


def params(**changes: object):
    return lambda clone: clone.params(**changes)


@pytest.mark.parametrize(
    ("edit", "jobs", "runs"),
    [
        pytest.param(lambda clone: None, {}, set(), id="nothing"),
        pytest.param(touch_everything, {}, set(), id="every file touched"),
        pytest.param(lambda clone: clone.run("rm", "-r", ".snakemake"), {}, set(), id="Snakemake's folder lost"),
        pytest.param(reorder_params, {}, set(), id="params.yaml reordered and commented"),
        pytest.param(comment_sources, {}, set(), id="comments and docstrings in the library"),
        pytest.param(append("src/grokdistill/style.py"), PICTURES, set(), id="the figures' style"),
        pytest.param(append("src/grokdistill/figures/specs.py"), FIGURES, set(), id="a figure module"),
        pytest.param(append("src/grokdistill/claims.py"), VERDICTS, set(), id="the claims' module"),
        pytest.param(
            append("data/paper/claims.yaml", "# as typed"), VERDICTS, set(), id="the paper's claims",
        ),
        pytest.param(append("src/grokdistill/stages/joint.py"), {"train_joint": 2, "joint": 1} | REST, JOINT, id="joint.py"),
        pytest.param(
            append("src/grokdistill/stages/teachers.py"),
            {"train_teachers": 1, "train_students": 2, "train_joint": 1, "train_continual": 2}
            | dict.fromkeys(("teachers", "students", "joint", "continual"), 1) | REST,
            TEACHER | STUDENTS | CONTINUAL | {JOINT_DISTILLED}, id="teachers.py, and all that learns from a teacher",
        ),
        pytest.param(
            append("src/grokdistill/engine.py"),
            {f"train_{stage}": 2 for stage in TRAINING[1:]} | {"train_teachers": 1} | dict.fromkeys(TRAINING, 1) | REST,
            TEACHER | BASELINES | STUDENTS | JOINT | CONTINUAL, id="engine.py",
        ),
        pytest.param(
            append("src/grokdistill/summary.py"), dict.fromkeys(STAGES, 1) | REST, set(), id="a measure of the tables",
        ),
        pytest.param(
            params(students__alpha=0.8), {"train_students": 2, "train_joint": 1, "students": 1, "joint": 1} | REST,
            STUDENTS | {JOINT_DISTILLED}, id="students.alpha",
        ),
        pytest.param(params(figures={"dpi": 60}), PICTURES, set(), id="figures.dpi"),
        pytest.param(params(claims={"min_n": 2}), VERDICTS, set(), id="claims.min_n"),
        pytest.param(params(evaluation__threshold=0.9), dict.fromkeys(TRAINING, 1) | REST, set(), id="evaluation.threshold"),
        pytest.param(
            params(students__fractions=[0.3, 0.25, 0.2]), {"train_students": 1, "students": 1} | REST,
            {"students/add-p11-p7-f25-adamw-distilled"}, id="a fraction added",
        ),
        pytest.param(
            params(baselines__operators=["add", "sub"]), {"train_baselines": 2, "baselines": 1} | REST,
            {name.replace("add", "sub") for name in BASELINES}, id="an operator added",
        ),
        pytest.param(
            params(other_pairs={"pairs": [{"p1": 11, "p2": 5}], "operators": ["add"], "fractions": [0.2]}),
            {"generate_datasets": 1, "train_students": 1, "train_baselines": 1}
            | dict.fromkeys(("datasets", "students", "baselines"), 1) | REST,
            {"students/add-p11-p5-f20-adamw-distilled", "baselines/add-p11-p5-f20-adamw-scratch"}, id="a prime added",
        ),
        pytest.param(
            params(seeds=[0, 1]),
            {f"train_{stage}": 2 for stage in TRAINING[1:]} | {"train_teachers": 1, "generate_datasets": 2}
            | dict.fromkeys(STAGES, 1) | REST,
            {f"{name}-s1" for name in TEACHER | BASELINES | STUDENTS | JOINT | CONTINUAL}, id="a seed added",
        ),
        pytest.param(params(execution={"seeds_per_job": 4}), {}, set(), id="seeds per job"),
        pytest.param(params(students__fractions=[0.2]), {"students": 1} | REST, set(), id="a fraction removed"),
    ],
)  # fmt: skip
def test_an_edit_reruns_exactly_what_it_touches(clone: Clone, edit, jobs: dict, runs: set):
    edit(clone)
    assert dict(clone.planned()) == jobs
    assert clone.planned_runs() == runs


def test_a_dry_run_leaves_what_git_and_dvc_see_alone(clone: Clone):
    before = contents(clone.root / "results")
    clone.params(students__alpha=0.5)
    assert training(clone.planned()) == 3
    assert contents(clone.root / "results") == before


def test_an_edit_taken_back_before_a_run(clone: Clone):
    clone.params(students__alpha=0.5)
    assert clone.planned()
    clone.params(students__alpha=0.9)
    assert not clone.planned()


def test_an_edit_taken_back_after_a_run(clone: Clone):
    """The old results come back byte for byte, out of the store."""
    before, made = contents(clone.root / "results"), clone.trained()
    clone.params(students__alpha=0.5)
    clone.snakemake()
    assert clone.trained() == made | {"students": 4, "joint": 3}
    clone.params(students__alpha=0.9)
    assert training(clone.planned()) == 0
    clone.snakemake()
    assert contents(clone.root / "results") == before
    assert not clone.planned()


def test_what_is_removed_is_no_longer_shown(clone: Clone):
    clone.params(students__fractions=[0.2])
    clone.snakemake()
    assert sorted(path.name for path in (clone.root / "results/students").glob("add*")) == ["add-p11-p7-f20-adamw-distilled-s0"]
    assert sorted(path.name for path in (clone.root / "results/curves/students").glob("*.csv")) == [
        "add-p11-p7-f20-adamw-distilled-s0.csv"
    ]
    assert "f30-adamw-distilled" not in (clone.root / "results/runs.csv").read_text()
    assert not clone.planned()


def test_an_older_version_with_an_older_timestamp(clone: Clone):
    """Of an input: what is made from it is made anew. Of a result: that result is."""
    claims, runs = clone.root / "data/paper/claims.yaml", clone.root / "results/runs.csv"
    for path, jobs in ((claims, VERDICTS), (runs, REST)):
        whole = path.read_text()
        path.write_text(whole.replace("add", "ADD", 1))
        os.utime(path, (1e9, 1e9))
        assert dict(clone.planned()) == jobs
        path.write_text(whole)
        os.utime(path, (1e9, 1e9))
        assert not clone.planned()


def test_an_input_edited_while_its_job_runs(clone: Clone):
    """The job notices, or the next run does; what is there in the end is made from what lies there."""
    clone.params(claims={"min_n": 2})
    path = clone.root / "data/paper/claims.yaml"
    clone.edit(
        "workflow/rules/claims.smk",
        '"python -m grokdistill claims',
        '"echo >> data/paper/claims.yaml; python -m grokdistill claims',
    )
    whole = path.read_text()
    assert "changed after it was planned" in clone.snakemake(ok=False)
    assert not (clone.root / "results/made/claims.json").exists()
    clone.edit("workflow/rules/claims.smk", '"echo >> data/paper/claims.yaml; python', '"python')
    assert path.read_text() != whole
    clone.snakemake()
    assert not clone.planned()


def test_a_result_that_is_not_what_was_made_is_made_anew(clone: Clone):
    expected = contents(clone.root / "results")
    (clone.root / "results/figures/figure-3.png").write_bytes(b"")
    checkpoint = next((clone.root / "results/students").glob("*/checkpoint.safetensors"))
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1] + b"x")
    (clone.root / "results/metrics/joint.json").unlink()
    assert dict(clone.planned()) == {"students": 1, "joint": 1, "draw_figure": 1}
    clone.snakemake()
    assert contents(clone.root / "results") == expected


def test_a_failed_job_leaves_nothing_that_counts(clone: Clone):
    """A run whose teacher may not teach: no result, no marker, and the next command tries it again."""
    clone.params(teachers__min_accuracy=0.9999, students__alpha=0.5)
    assert "min_accuracy" in clone.snakemake("--keep-going", ok=False)
    assert clone.trained()["students"] == 2
    assert clone.planned_runs() == STUDENTS | {JOINT_DISTILLED}
    clone.params(teachers__min_accuracy=0.0)
    clone.snakemake()
    assert not clone.planned()


def test_a_killed_run_is_made_again(clone: Clone):
    """Killed in the middle of training: nothing of it counts, and the same command goes on after `--unlock`."""
    clone.params(training__steps=100000, training__steps_scarce=100000)
    command = ["snakemake", "--cores", "1", "--resources", "gpu=1", "--", "teachers"]
    job = subprocess.Popen(command, cwd=clone.root, env=clone.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                           start_new_session=True)  # fmt: skip
    logs = clone.root / "results/logs/teachers"
    before = {path.name for path in logs.iterdir()}
    deadline = time.monotonic() + 60
    while not any("step" in path.read_text() for path in logs.iterdir() if path.name not in before):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert clone.trained()["teachers"] == 1
    clone.snakemake("--unlock")
    assert clone.planned_runs("teachers") == TEACHER
    clone.params(training__steps=20, training__steps_scarce=20)
    assert not clone.planned()


def test_a_lost_store_comes_back_from_the_views(clone: Clone):
    """As in a clone that DVC filled: what the views hold is taken into the store, checked, and nothing is trained."""
    shutil.rmtree(clone.root / "results/store")
    assert not clone.planned()
    assert clone.trained() == {"datasets": 2, "teachers": 1} | dict.fromkeys(TRAINING[1:], 2)


def test_a_damaged_view_is_not_taken(clone: Clone):
    shutil.rmtree(clone.root / "results/store")
    curve = clone.root / "results/students/add-p11-p7-f30-adamw-distilled-s0/curve.csv"
    curve.write_text(curve.read_text().replace("1", "2", 1))
    printed = clone.snakemake("--dry-run")
    assert f"not adopted, and to be made anew: {curve.relative_to(clone.root)}" in printed
    assert clone.planned_runs() == {"students/add-p11-p7-f30-adamw-distilled"}


def test_why_says_what_would_rerun_and_what_changed(clone: Clone):
    def why(name: str) -> str:
        return clone.run("python", "-m", "grokdistill", "why", name)

    run = "students/add-p11-p7-f20-adamw-distilled-s0"
    assert "current" in why(run)
    clone.params(students__alpha=0.5)
    assert "alpha: 0.9 -> 0.5" in why(run)
    assert "alpha: 0.9 -> 0.5" in why("joint/add-p11-p7-f35-f20-adamw-distilled-s0")
    assert "current" in why("teachers/add-p11-f35-adamw-scratch-s0")
    clone.params(students__alpha=0.9)
    clone.edit("src/grokdistill/distill.py", "wide = logits.double()", "wide = logits.double() * 1.0")
    assert "src/grokdistill/distill.py: matched_temperature changed" in why(run)
    assert "tables: would be made: made from other runs" in why("tables")
    assert "no such run" in clone.run("python", "-m", "grokdistill", "why", "nonsense", ok=False)


def test_dvc_and_snakemake_run_the_same_jobs(clone: Clone, tmp_path: Path):
    """After the same edits, from the same results; and a second time none."""
    other = Clone(shutil.copytree(clone.root, tmp_path / "other", symlinks=True), dict(clone.environment))
    other.environment["PYTHONPATH"] = str(other.root / "src")
    other.results("record")
    for one in (clone, other):
        one.params(continual__alpha=0.4)
        one.edit("src/grokdistill/claims.py", "COLUMNS = [", "UNUSED = 1\nCOLUMNS = [")

    def jobs(printed: str) -> Counter[str]:
        rules = re.findall(r"^(?:local)?rule (\w+):$", printed, re.M)
        return Counter(rule for rule in rules if rule not in ("all", "figures"))

    printed = other.run("dvc", "repro")
    by_snakemake, by_dvc = jobs(clone.snakemake()), jobs(printed)
    # No stage runs a job of another.
    parts = re.split(r"Running stage '(\w+)':", printed)
    for stage, text in zip(parts[1::2], parts[2::2], strict=True):
        assert jobs(text).keys() <= {stage, f"train_{stage}", "draw_figure" if stage == "figures" else stage}
    assert by_dvc == by_snakemake
    assert by_dvc == {"plan": 1, "train_continual": 1, "continual": 1} | REST
    assert jobs(other.run("dvc", "repro")) == {}
