"""What the unit tests share: the repository's parameters, and a study small enough to train within a second."""

import copy
import json
import os
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("datasets", "teachers", "baselines", "students", "joint", "continual")

RELATIVE = {"reading": "relative", "value": 3.0}
TINY = {
    "seeds": [0, 1],
    "primes": {"p1": 7, "p2": 5},
    "other_pairs": {"pairs": []},
    "model": {"numbers": 8, "d_model": 16, "n_heads": 2, "d_mlp": 24, "norm": "none"},
    "optim": {"warmup_steps": 2},
    "training": {"steps": 6, "steps_scarce": 6, "batch_size": 8, "precision": "float64"},
    "evaluation": {"every": 2, "threshold": 0.95, "hold": 2},
    "teachers": {"fraction": 0.5, "operators": ["add", "sub"], "optimizers": ["adamw"], "min_accuracy": 0.0},
    "baselines": {"operators": ["add", "sub"], "optimizers": ["adamw"], "fractions": [0.4]},
    "students": {
        **{"operators": ["add", "sub"], "optimizers": ["adamw"], "fractions": [0.4]},
        **{"alpha": 0.9, "temperature": RELATIVE},
    },
    "joint": {
        **{"operators": ["add"], "cells": [{"p1_fraction": 0.5, "fraction": 0.4}], "temperature": RELATIVE},
        **{"d_model": 24, "n_heads": 3, "d_mlp": 32},
    },
    "continual": {"operators": ["add"], "fractions": [0.4], "steps": 6},
}


def pytest_configure():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture
def full() -> dict:
    """params.yaml as parsed, free to be changed."""
    return yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def tiny() -> dict:
    """A tiny study's parameters, free to be changed."""
    return copy.deepcopy(TINY)


class TinyStudy:
    """A study in a folder of its own, driven by the command line alone."""

    def __init__(self, folder: Path, raw: dict) -> None:
        self.folder, self.results = folder, folder / "results"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
        assert self.command("plan", "params.yaml") == 0

    @contextmanager
    def inside(self):
        """Work in the study's folder, to which its paths are relative."""
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            yield
        finally:
            os.chdir(before)

    def command(self, *arguments: str) -> int:
        """The exit status of `python -m grokdistill ...` in the study's folder."""
        from grokdistill.cli import main

        with self.inside():
            return main([str(argument) for argument in arguments])

    @property
    def plan(self) -> Path:
        """The plan file, of which a fresh study has one."""
        (path,) = (self.results / "store" / "plans").glob("*.json")
        return path

    @property
    def entries(self) -> dict[str, dict]:
        """The plan's runs by fingerprint."""
        return json.loads(self.plan.read_text(encoding="utf-8"))["runs"]

    def of(self, stage: str) -> list[str]:
        """Fingerprints of a stage's runs."""
        return [key for key, entry in self.entries.items() if entry["stage"] == stage]

    def make(self, *stages: str) -> None:
        """Make every run of these stages; every one must succeed."""
        for stage in stages:
            arguments = ("dataset", self.plan, "--all") if stage == "datasets" else ("train", self.plan, "--stage", stage)
            assert self.command(*arguments) == 0, stage

    def finish(self) -> None:
        """Publish every stage and write the tables."""
        for stage in STAGES:
            assert self.command("publish", self.plan, stage) == 0, stage
        assert self.command("tables", self.plan) == 0

    def stored(self, fingerprint: str) -> Path:
        """The run's folder in the store."""
        return self.results / "store" / self.entries[fingerprint]["stage"] / fingerprint


@pytest.fixture
def study(tmp_path):
    """Makes a tiny study in a new folder from parameters."""
    made = []

    def make(raw: dict) -> TinyStudy:
        made.append(TinyStudy(tmp_path / f"study{len(made)}", raw))
        return made[-1]

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The tiny study with everything made; tests must not change it."""
    done = TinyStudy(tmp_path_factory.mktemp("finished") / "study", copy.deepcopy(TINY))
    done.make(*STAGES)
    done.finish()
    return done
