"""The plan of a study as a file: what every command but the planning itself reads.

A plan is written from the parameters, named by its content, and never changed, so that jobs of a running study keep theirs
when the parameters are edited meanwhile.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from grokdistill.config import RunConfig
from grokdistill.files import DamagedFile, write
from grokdistill.params import Params
from grokdistill.runs import Run, Study
from grokdistill.store import Store
from grokdistill.targets import Target, enumerate_targets


@dataclass(frozen=True)
class PlannedRun:
    """A run as the plan tells of it."""

    fingerprint: str
    stage: str
    name: str
    cell: str
    variant: str
    config: RunConfig
    parents: dict[str, str]
    sources: str
    batch: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """A study's runs by fingerprint, its targets by name, its folders, and its parameters."""

    params: Params
    entries: dict[str, dict[str, Any]]
    targets: dict[str, Target]

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read a plan file."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            targets = {name: Target(**entry) for name, entry in document["targets"].items()}
            return cls(Params.model_validate(document["params"]), document["runs"], targets)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedFile(f"{path}: not a plan ({error}); make it anew with `python -m grokdistill plan`") from None

    @property
    def results(self) -> Path:
        return Path(self.params.paths.results)

    @property
    def store(self) -> Store:
        return Store(self.results / "store")

    def run(self, fingerprint: str) -> PlannedRun:
        """One run.

        Raises:
            KeyError: where the plan has no such run.
        """
        if fingerprint not in self.entries:
            raise KeyError(f"no run {fingerprint} in this plan")
        entry = self.entries[fingerprint]
        config = RunConfig.model_validate(entry["config"])
        return PlannedRun(fingerprint=fingerprint, **(entry | {"config": config, "batch": tuple(entry["batch"])}))

    def stage(self, stage: str) -> list[PlannedRun]:
        """The stage's runs, in the order of the parameters."""
        return [self.run(key) for key, entry in self.entries.items() if entry["stage"] == stage]

    def so_far(self) -> Plan:
        """The plan without the training runs that are not in the store, and without what learned from those."""
        there: dict[str, dict[str, Any]] = {}
        for key, entry in self.entries.items():  # parents come first
            complete = entry["stage"] == "datasets" or self.store.complete(entry["stage"], key)
            if complete and all(parent in there for parent in entry["parents"].values()):
                there[key] = entry
        return replace(self, entries=there)


def write_plan(study: Study) -> Path:
    """Write the plan into the study's store; returns its path."""
    results = Path(study.params.paths.results)
    batches = study.together
    runs = {run.fingerprint: _entry(run, batches[run.fingerprint]) for run in study.runs}
    targets = {
        name: {field.name: getattr(target, field.name) for field in fields(target)}
        for name, target in enumerate_targets(study).items()
    }
    document = {"params": study.params.model_dump(mode="json"), "runs": runs, "targets": targets}
    text = json.dumps(document, indent=1) + "\n"
    path = results / "store" / "plans" / f"{hashlib.sha256(text.encode()).hexdigest()[:20]}.json"
    if not path.is_file():
        write(path, text)
    return path


def _entry(run: Run, batch: tuple[Run, ...]) -> dict[str, Any]:
    return {
        "stage": run.config.stage,
        "name": run.name,
        "cell": run.cell,
        "variant": run.variant,
        "config": run.config.model_dump(exclude_none=True),
        "parents": {role: parent.fingerprint for role, parent in run.parents.items()},
        "sources": run.sources,
        "batch": [other.fingerprint for other in batch],
    }
