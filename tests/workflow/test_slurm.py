"""workflow/profiles/slurm on a real Slurm of one machine with two GPUs that do not exist (tests/cluster/slurm.sh)."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Clone
from test_faults import contents

from grokdistill.files import locked

SCRIPT = ROOT / "tests/cluster/slurm.sh"
# What differs on this Slurm: it keeps no accounts, and its jobs are short.
RUN = ["snakemake", "--workflow-profile", "workflow/profiles/slurm", "--slurm-status-command", "squeue"]
RUN += ["--slurm-init-seconds-before-status-checks", "5", "--latency-wait", "10"]


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    """A Slurm, for one session of tests at a time."""
    with locked(Path(tempfile.gettempdir()) / "grokdistill-slurm.lock", "another session of tests has Slurm"):
        for command in ("stop", "start"):  # stop what a session left that was itself killed
            done = subprocess.run([SCRIPT, command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if done.returncode == 77:
                pytest.skip(done.stdout.strip().splitlines()[-1])
            assert done.returncode == 0, done.stdout
        yield
        subprocess.run([SCRIPT, "stop"], check=True)


def asked(*command: str) -> str:
    return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout


def jobs() -> list[dict[str, str]]:
    """All jobs that Slurm knows of, ended ones too."""
    return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in asked("scontrol", "--oneliner", "show", "jobs").splitlines()]


def test_the_whole_through_slurm(slurm: None, clone: Clone, tmp_path: Path):
    """Through Slurm, and with a training job killed on the way, comes out what comes out here; each training on its own GPU."""
    # Long enough to be hit, and nothing waits for it.
    clone.params(continual__steps=3000, execution={"keep_seconds": 0.5})
    root = shutil.copytree(clone.root, tmp_path / "slurm", ignore=shutil.ignore_patterns("results", ".snakemake", "datasets"))
    through = Clone(root, clone.environment | {"PYTHONPATH": str(root / "src")})
    printed = tmp_path / "printed"
    with printed.open("w") as file:
        process = subprocess.Popen(RUN, cwd=root, env=through.environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 600
        while not (states := list(root.glob("results/store/continual/*/state.safetensors"))):
            assert process.poll() is None and time.monotonic() < deadline, printed.read_text()
            time.sleep(0.05)
        killed = states[0].parent.name
        (job,) = [job for job in jobs() if job["Comment"].endswith(killed)]
        asked("scancel", "--signal=KILL", job["JobId"])
        clone.snakemake()  # meanwhile, and without Slurm: the continual runs, and what is made from them
        assert process.wait(timeout=600) == 0, printed.read_text()
    finally:
        process.kill()  # the jobs end with Slurm

    assert contents(through) == contents(clone)
    assert not through.planned()
    assert printed.read_text().count("Trying to restart job") == 1
    log = (root / f"results/logs/continual/{killed}.log").read_text()
    assert int(re.search(r"goes on at step ([\d,]+)", log)[1].replace(",", "")) > 0

    # One job of Slurm's per run, and two for the killed one; what is short runs here.
    training = jobs()
    runs = [path.parent for path in root.glob("results/store/*/*/record.json") if path.parent.parent.name != "datasets"]
    assert Counter(job["Comment"].rpartition("_")[2] for job in training) == Counter([run.name for run in runs] + [killed])

    # The GPU that each run was given, the only one that it sees; at a time, one to a job. By Slurm's clock, in whose seconds a
    # job that starts as another ends is not beside it. What the killed job was given, its second attempt has written over.
    logs = {run.name: (root / f"results/logs/{run.parent.name}/{run.name}.log").read_text() for run in runs}
    given = {name: re.search(r"^GPU ([01]) \(of \1\)", log, re.M)[1] for name, log in logs.items()}
    most = 0
    for job in training:
        beside = [other for other in training if other["StartTime"] <= job["StartTime"] < other["EndTime"]]
        gpus = [given[other["Comment"].rpartition("_")[2]] for other in beside if other["JobState"] == "COMPLETED"]
        assert len(gpus) == len(set(gpus)), beside
        most = max(most, len(beside))
    assert most == 2
    assert set(given.values()) == {"0", "1"}
