"""Kills, full disks, damaged and unreadable files, two at once: what is there in the end is what would have been.

A shortened, seeded part runs with the other tests. `make test-faults` runs the whole and writes docs/reliability.md.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import AS_USER, Clone

WHOLE = os.environ.get("GROKDISTILL_FAULTS") == "whole"
KILLS = 5 if WHOLE else 1  # per stage
TRAINING = ("teachers", "baselines", "students", "joint", "continual")
STEPS = 2000 if WHOLE else 600  # per run
STAGES = (
    "datasets",
    "teachers",
    "baselines",
    "students",
    "joint",
    "continual",
    "tables",
    "figures",
    "phase",
    "readings",
    "claims",
    "overview",
)
ROOT = Path(__file__).resolve().parents[2]
PAGE = """\
# Reliability

Written by `make test-faults` (`tests/workflow/test_faults.py`), which does this to a small study and compares every result,
byte for byte, with those of the same study left in peace. *Lost* counts results that differ.

| fault | tried | survived | lost |
|---|---:|---:|---:|
{rows}
What makes it so: a file is written beside its place and moved there whole; a run counts once its record is there, which is
written last and has the hashes of the rest; whatever is read is checked against it first. A training job keeps where it stands
(weights, the optimizer's moments, the curve so far) every `execution.keep_seconds` and on SIGTERM, keyed by the run's
fingerprint, and goes on from there bit for bit on the same machine with as many threads. Other machines, other versions of
PyTorch and other numbers of threads round differently; `costs.csv` says what a run was trained on.
"""
ROWS: list[tuple[str, int, int, int]] = []  # fault, tried, survived, lost
# What a run costs, and the records and stamps that tell of it, differ from one time to the next.
LOCAL = re.compile(r"(^|/)(record\.json|costs\.csv|\.snakemake_timestamp)$|^results/(store|logs|made|records)/")


def contents(clone: Clone) -> dict[str, str]:
    """Every result by its bytes, without what a run costs."""
    files = [path for top in ("results", "data/datasets") for path in (clone.root / top).rglob("*") if path.is_file()]
    named = {path.relative_to(clone.root).as_posix(): path for path in files}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in sorted(named.items()) if not LOCAL.search(name)
    }


def survived(fault: str, tried: int, clone: Clone, expected: dict[str, str]) -> None:
    """Enter a row, and compare."""
    found = contents(clone)
    lost = [name for name in expected if found.get(name) != expected[name]]
    ROWS.append((fault, tried, tried if not lost else 0, len(lost)))
    assert lost == []
    assert found.keys() == expected.keys()


@pytest.fixture(scope="module")
def longer(finished: Clone, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone without results, whose runs train long enough to be hit."""
    root = tmp_path_factory.mktemp("longer") / "clone"
    shutil.copytree(finished.root, root, ignore=shutil.ignore_patterns("results", ".snakemake", "datasets"))
    clone = Clone(root, finished.environment | {"PYTHONPATH": str(root / "src")})
    clone.params(training__steps=STEPS, training__steps_scarce=STEPS, continual__steps=STEPS, execution={"keep_seconds": 0.3})
    return clone


@pytest.fixture(scope="module")
def undisturbed(longer: Clone, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What comes of it when nothing happens."""
    root = shutil.copytree(longer.root, tmp_path_factory.mktemp("undisturbed") / "clone")
    clone = Clone(root, longer.environment | {"PYTHONPATH": str(root / "src")})
    clone.snakemake()
    return contents(clone)


@pytest.fixture
def empty(longer: Clone, tmp_path: Path) -> Clone:
    root = shutil.copytree(longer.root, tmp_path / "clone")
    return Clone(root, longer.environment | {"PYTHONPATH": str(root / "src")})


def started(clone: Clone, *command: str) -> subprocess.Popen:
    """A command in a group of its own, which a kill ends as a whole."""
    return subprocess.Popen(
        command, cwd=clone.root, env=clone.environment, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_kills_at_random_times(empty: Clone, undisturbed: dict[str, str]):
    """SIGKILL to the whole group, again and again, at every stage; the same command goes on each time."""
    rng, kills, resumed = random.Random(5), 0, 0
    for stage in STAGES:
        latest = 6 if stage in TRAINING else 2.5  # seconds; so that most hit something
        for place in range(KILLS):
            job = started(empty, "snakemake", "--cores", "2", "--resources", "gpu=2", "--", stage)
            wait = rng.uniform(0.5, latest)
            if place == 0 and stage in TRAINING:  # hits a run that has kept a state, however slow the machine is
                while job.poll() is None and not list(empty.root.glob(f"results/store/{stage}/*/state.safetensors")):
                    time.sleep(0.02)
                wait = 0.1
            try:
                job.communicate(timeout=wait)
            except subprocess.TimeoutExpired:
                os.killpg(job.pid, signal.SIGKILL)
                resumed += job.communicate()[0].count("goes on at step")
                kills += 1
        resumed += empty.snakemake("--", stage).count("goes on at step")
    assert kills >= (30 if WHOLE else 5), kills
    assert resumed > 0
    empty.snakemake()
    assert not empty.planned()
    survived("SIGKILL at a random time, over all stages", kills, empty, undisturbed)


@pytest.mark.skipif(not WHOLE, reason="part of `make test-faults`; unit tests send SIGTERM to a job")
def test_sigterm_saves_at_once(empty: Clone, undisturbed: dict[str, str]):
    """As a scheduler does before it kills: to Snakemake and to its jobs."""
    tried = 0
    for _ in range(KILLS):
        job = started(empty, "snakemake", "--cores", "2", "--resources", "gpu=2")
        try:
            job.communicate(timeout=9)
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGTERM)
            job.communicate(timeout=60)
            tried += 1
    assert tried
    empty.snakemake()
    survived("SIGTERM to everything", tried, empty, undisturbed)


@pytest.fixture
def small_disk(empty: Clone) -> Iterator[Path]:
    """A file system of its own for the results, as small as one likes."""
    folder = empty.root / "results"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk(empty: Clone, small_disk: Path, undisturbed: dict[str, str]):
    """Full at the datasets, at checkpoints, views, tables, figures: each time an error that says so; then there is room."""
    # Just enough for what is there and a little: so that every kind of file is the one that no longer fits.
    tried, steps = 0, (8, 24, 60, 120, 240) if WHOLE else (60, 240)
    for more in [*steps] * 4:
        used = sum(path.stat().st_blocks * 512 for path in small_disk.rglob("*") if path.is_file())
        size = used // 1024 + more
        empty.run("mount", "-o", f"remount,size={size}k", str(small_disk))
        job = started(empty, "snakemake", "--cores", "1", "--resources", "gpu=1")
        printed = job.communicate()[0]
        if job.returncode == 0:
            break
        tried += 1
        assert "No space left on device" in printed
    empty.run("mount", "-o", "remount,size=200m", str(small_disk))
    empty.snakemake()
    survived("a disk that fills up, at different files", tried, empty, undisturbed)


DAMAGE = {
    "truncated": lambda data: data[: len(data) // 2],
    "one bit flipped": lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
    "empty": lambda data: b"",
}
RESULTS = {  # file -> jobs of the next run
    "data/datasets/p7-s0/dataset.safetensors": {"datasets": 1},
    "results/teachers/add-p11-f35-adamw-scratch-s0/checkpoint.safetensors": {"teachers": 1},
    "results/students/add-p11-p7-f20-adamw-distilled-s0/curve.csv": {"students": 1},
    "results/joint/add-p11-p7-f35-f20-adamw-distilled-s0/record.json": {"joint": 1},
    "results/curves/continual/add-p11-p7-f20-adamw-distilled-s0.csv": {"continual": 1},
    "results/metrics/baselines.json": {"baselines": 1},
    "results/runs.csv": {"tables": 1, "draw_figure": 7, "phase": 1, "readings": 1, "claims": 1, "overview": 1},
    "results/curves.parquet": {"tables": 1, "draw_figure": 7, "phase": 1, "readings": 1, "claims": 1, "overview": 1},
    "results/figures/figure-2.pdf": {"draw_figure": 1},
    "results/phase.csv": {"phase": 1, "overview": 1},
    "results/readings.csv": {"readings": 1},
    "results/claims.csv": {"claims": 1, "overview": 1},
    "results/made/claims.json": {"claims": 1, "overview": 1},
    "results/overview.html": {"overview": 1},
    "results/plan/students.txt": {},
}


def test_damaged_results(clone: Clone):
    """Every kind of result, damaged in every way: exactly that is made anew, from the store."""
    expected, tried = contents(clone), 0
    kinds = list(DAMAGE) if WHOLE else ["one bit flipped"]
    for kind in kinds:
        for name, jobs in RESULTS.items():
            path = clone.root / name
            whole = path.read_bytes()
            path.write_bytes(DAMAGE[kind](whole))
            assert dict(clone.planned()) == jobs, (name, kind)
            path.write_bytes(whole)
            tried += 1
    for name in RESULTS:
        (clone.root / name).write_bytes(b"damaged")
    clone.snakemake()
    survived("a result damaged or emptied", tried + len(RESULTS), clone, expected)


# What lies damaged in the store, and a change that makes a stage read it.
READ = {
    "dataset.safetensors": ("datasets", "students", "students__alpha"),
    "checkpoint.safetensors": ("teachers", "students", "students__alpha"),
    "record.json": ("teachers", "continual", "continual__alpha"),
    "curve.csv": ("teachers", "teachers", "evaluation__threshold"),
}


@pytest.mark.parametrize("name", READ if WHOLE else ["dataset.safetensors", "checkpoint.safetensors"])
def test_damage_in_the_store(clone: Clone, name: str):
    """What a stage reads is checked before it is used; the message names file and remedy, and the remedy works."""
    stage, reader, key = READ[name]
    kinds = {**DAMAGE, "unreadable": None} if WHOLE else {"truncated": DAMAGE["truncated"], "unreadable": None}
    expected, before, tried = contents(clone), (clone.root / "params.yaml").read_text(), 0
    for kind, damage in kinds.items():
        for path in (clone.root / "results/store" / stage).glob(f"*/{name}"):
            if damage:
                path.write_bytes(damage(path.read_bytes()))
            else:
                path.chmod(0)
        tried += 1
        clone.params(**{key: 0.5 + 0.01 * tried})
        command = ["snakemake", "--cores", "1", "--resources", "gpu=1", "--", reader]
        job = started(clone, *(AS_USER if damage is None else ()), *command)
        printed = job.communicate()[0]
        assert job.returncode != 0, (kind, printed)
        assert re.search(rf"results/store/{stage}/[0-9a-f]+/{name}", printed), (kind, printed)
        folders = {path.parent for path in (clone.root / "results/store" / stage).glob(f"*/{name}")}
        assert any(f"delete the folder {folder.relative_to(clone.root)}" in printed for folder in folders), (kind, printed)
        for folder in folders:
            shutil.rmtree(folder)
        clone.snakemake("--", reader)
    (clone.root / "params.yaml").write_text(before)
    clone.snakemake()
    survived(f"{name} damaged or unreadable in the store", tried, clone, expected)


def test_two_at_once(empty: Clone, undisturbed: dict[str, str]):
    """The second is told so at once, and the first goes on."""
    before = (empty.root / "params.yaml").read_text()
    empty.params(training__steps=1_000_000, training__steps_scarce=1_000_000)
    first = started(empty, "snakemake", "--cores", "1", "--resources", "gpu=1")
    try:
        deadline = time.monotonic() + 120
        while not list((empty.root / "results/store/locks").glob("*")):  # of runs in training
            assert time.monotonic() < deadline
            time.sleep(0.05)
        printed = empty.run("snakemake", "--cores", "1", "--resources", "gpu=1", ok=False)
        assert "cannot be locked" in printed, printed
        shutil.rmtree(empty.root / ".snakemake/locks")  # as a third one does that finds nothing to do
        for second in (["snakemake", "--cores", "1", "--resources", "gpu=1"], ["dvc", "repro"]):
            printed = empty.run("timeout", "120", *second, ok=False)  # or it waits for the first, which takes for ever
            assert f"Another snakemake (or dvc repro) is running in {empty.root}" in printed, printed
        assert first.poll() is None
    finally:
        os.killpg(first.pid, signal.SIGTERM)
        first.communicate(timeout=120)
    (empty.root / "params.yaml").write_text(before)
    empty.snakemake()
    survived("a second snakemake or dvc repro beside the first", 3, empty, undisturbed)


@pytest.fixture(scope="module", autouse=True)
def report() -> Iterator[None]:
    """After the whole: what was tried, as docs/reliability.md."""
    yield
    if not WHOLE:
        return
    rows = "".join(f"| {fault} | {tried} | {well} | {lost} |\n" for fault, tried, well, lost in ROWS)
    (ROOT / "docs" / "reliability.md").write_text(PAGE.format(rows=rows), encoding="utf-8")
