"""`--resources gpu=N` without GPUs: jobs report the card that they were given, and some of them crash."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT, Clone

JOBS = 12
SNAKEFILE = """
rule all:
    input: expand("{{n}}.done", n=range({jobs}))

rule job:
    output: touch("{{n}}.done")
    resources: gpu=1
    retries: 1
    shell: "{python} job.py {{wildcards.n}} {gpus}"
"""
# Says in one log which card it has, from when to when; every fourth is killed the first time.
JOB = """
import os, signal, sys, time
from pathlib import Path
from grokdistill import cards

def say(what, card):
    with open("log", "a") as log:
        log.write(f"{time.monotonic_ns()} {what} {sys.argv[1]} {card}\\n")

names = cards.visible()
with cards.taken(names) as place:
    say("begins", names[place])
    # The first jobs hold theirs until all cards are taken.
    while Path("log").read_text().count("begins") < int(sys.argv[2]):
        time.sleep(0.01)
    first = Path(sys.argv[1] + ".tried")
    if int(sys.argv[1]) % 4 == 0 and not first.exists():
        first.touch()
        say("killed", names[place])
        os.kill(os.getpid(), signal.SIGKILL)
    say("ends", names[place])
"""


@pytest.mark.parametrize(("gpus", "visible"), [(1, "0,1,2,3"), (4, "0,1,2,3"), (2, "5,3")])
def test_every_job_has_a_card_of_its_own(tmp_path: Path, finished: Clone, gpus: int, visible: str):
    (tmp_path / "Snakefile").write_text(SNAKEFILE.format(jobs=JOBS, gpus=gpus, python=sys.executable))
    (tmp_path / "job.py").write_text(JOB)
    environment = finished.environment | {
        "CUDA_VISIBLE_DEVICES": visible, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT / "src")
    }  # fmt: skip
    command = ["snakemake", "--cores", "16", "--resources", f"gpu={gpus}", "--directory", str(tmp_path)]
    subprocess.run([*command, "-s", str(tmp_path / "Snakefile")], env=environment, check=True, capture_output=True)
    events = sorted((int(time), what, job, card) for time, what, job, card in map(str.split, (tmp_path / "log").open()))
    busy: dict[str, str] = {}
    most = 0
    for _, what, job, card in events:
        assert card in visible.split(",")
        if what == "begins":
            assert card not in busy, f"job {job} got card {card}, which job {busy[card]} has"
            busy[card] = job
        else:
            assert busy.pop(card) == job
        most = max(most, len(busy))
    assert most == gpus
    assert Counter(what for _, what, _, _ in events) == {"begins": JOBS + JOBS // 4, "killed": JOBS // 4, "ends": JOBS}


def test_training_jobs_take_cards(clone: Clone):
    """The workflow's own jobs say theirs, in what the user sees and in their logs."""
    clone.environment = clone.environment | {"CUDA_VISIBLE_DEVICES": "2,3"}
    clone.params(baselines__fractions=[0.3, 0.2, 0.25])
    assert re.search(r"^GPU [23] \(of 2,3\)", clone.snakemake("--", "baselines"), re.M)
