"""Snakemake and DVC for real, at tiny settings, in a temporary clone of the working tree."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from grokdistill.config import STAGES
from grokdistill.params import read

ROOT = Path(__file__).resolve().parents[2]

# The same DAG with every stage, small enough for seconds: what is under test is what runs, not what is learned.
TINY = """
seeds: [0]
primes: {p1: 11, p2: 7}
other_pairs: {pairs: []}
model: {numbers: 13, d_model: 16, n_heads: 2, d_mlp: 16, norm: none}
training: {steps: 20, steps_scarce: 20, batch_size: 16}
evaluation: {every: 10, hold: 10}
teachers: {operators: [add], optimizers: [adamw], min_accuracy: 0.0, variants: []}
baselines: {operators: [add], optimizers: [adamw], fractions: [0.3, 0.2]}
students:
  {operators: [add], optimizers: [adamw], fractions: [0.3, 0.2], variants: [], alpha: 0.9,
   temperature: {reading: matched, value: 2.2}}
joint:
  {operators: [add], cells: [{p1_fraction: 0.35, fraction: 0.2}], d_model: 16, n_heads: 2, d_mlp: 16,
   temperature: {reading: relative, value: 3.0}}
continual: {operators: [add], fractions: [0.2], steps: 20}
figures: {dpi: 50}
claims: {min_n: 1}
"""

# Ends the power to read and write what a file's mode denies, so that root is as any user.
AS_USER = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-dac_override,-dac_read_search", "--")


@dataclass
class Clone:
    """A clone of the working tree in a temporary folder, with its own git and DVC."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *command: str, ok: bool = True) -> str:
        """Run a command there; returns what it printed."""
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert (done.returncode == 0) == ok, f"{' '.join(command)} returned {done.returncode}:\n{done.stdout}"
        return done.stdout

    def snakemake(self, *arguments: str, ok: bool = True) -> str:
        return self.run("snakemake", "--resources", "gpu=2", "--cores", "2", *arguments, ok=ok)

    def planned(self, *arguments: str) -> Counter[str]:
        """How many jobs of each rule a dry run plans, without the collecting rules."""
        printed = self.snakemake("--dry-run", *arguments)
        table = re.search(r"Job stats:\njob +count\n[- ]+\n(.*?)\ntotal", printed, re.S)
        if not table:
            assert "Nothing to be done" in printed, printed
            return Counter()
        counts = Counter({name: int(count) for name, count in (line.split() for line in table[1].splitlines())})
        return Counter({name: count for name, count in counts.items() if name not in ("all", "figures", "plan")})

    def planned_runs(self, *arguments: str) -> set[str]:
        """Names of the runs that a dry run would train, as stage/name without the seed 0."""
        printed = self.snakemake("--dry-run", *arguments)
        plans = sorted((self.root / "results/store/plans").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        runs = {key: run for plan in plans for key, run in json.loads(plan.read_text())["runs"].items()}
        found = re.findall(r"^    output: results/store/(\w+)/([0-9a-f]{20})/done", printed, re.M)
        return {f"{stage}/{runs[key]['name']}".removesuffix("-s0") for stage, key in found if stage != "datasets"}

    def results(self, command: str, ok: bool = True) -> str:
        """Record results in DVC, or restore them from it."""
        return self.run("python", "workflow/scripts/results.py", command, ok=ok)

    def trained(self) -> dict[str, int]:
        """How many runs of each stage the store holds, of whatever configuration."""
        return {stage: len(list((self.root / "results/store" / stage).glob("*/record.json"))) for stage in STAGES}

    def whole(self) -> dict[str, int]:
        """How many of them are there with their dataset or model, not by record and curve alone."""
        names = ("dataset.safetensors", "checkpoint.safetensors")
        store = self.root / "results/store"
        return {stage: sum(len(list((store / stage).glob(f"*/{name}"))) for name in names) for stage in STAGES}

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace a text that is there exactly once."""
        text = (self.root / path).read_text()
        assert text.count(old) == 1, f"{path}: {old!r} is there {text.count(old)} times"
        (self.root / path).write_text(text.replace(old, new))

    def params(self, **changes: object) -> None:
        """Set keys of params.yaml, given with dots as double underscores."""
        document = yaml.safe_load((self.root / "params.yaml").read_text())
        for key, value in changes.items():
            place = document
            *sections, last = key.split("__")
            for section in sections:
                place = place[section]
            place[last] = value
        (self.root / "params.yaml").write_text(yaml.safe_dump(document, sort_keys=False))

    def commit(self, message: str) -> str:
        """Commit everything; returns the commit."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)
        return self.run("git", "rev-parse", "HEAD").strip()


def training(jobs: Counter[str]) -> int:
    """How many of the jobs train."""
    return sum(count for name, count in jobs.items() if name.startswith("train_"))


def make_clone(folder: Path) -> Clone:
    """The working tree's tracked and new files in `folder`, with tiny parameters, committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"], cwd=ROOT, check=True, capture_output=True
    ).stdout.decode()
    for name in filter(None, listed.split("\0")):
        # What a full-scale study has committed is not part of a tiny one.
        if (ROOT / name).is_file() and not name.startswith("results/") and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / "tiny.yaml").write_text(TINY)
    params = read([folder / "params.yaml", folder / "tiny.yaml"])
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    who = {"GIT_AUTHOR_NAME": "test", "GIT_AUTHOR_EMAIL": "test@example.org"}
    who |= {key.replace("AUTHOR", "COMMITTER"): value for key, value in who.items()}
    environment = os.environ | who | {"OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1", "PYTHONPATH": str(folder / "src")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    clone = Clone(folder, environment)
    clone.run("git", "init", "--quiet", "--initial-branch", "main")
    clone.commit("tiny")
    return clone


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A clone in which Snakemake has run everything once; tests that change it work on a copy."""
    clone = make_clone(tmp_path_factory.mktemp("finished"))
    clone.snakemake()
    return clone


@pytest.fixture
def clone(finished: Clone, tmp_path: Path) -> Clone:
    """A copy of the finished clone, timestamps and metadata included."""
    root = tmp_path / "clone"
    shutil.copytree(finished.root, root, symlinks=True)
    return Clone(root, finished.environment | {"PYTHONPATH": str(root / "src")})
