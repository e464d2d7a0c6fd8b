"""What a study's results consist of beside its runs, what each part is made from, and whether what lies there is that.

A target is a stage's view, the tables, a figure, or the claims. Its recipe is known before anything runs: the runs it shows, by
fingerprint, the sources that make it, and the settings they read. Beside its files lies a stamp with the recipe, a digest of
what was read and the files' hashes, and travels with them. A target is current where its stamp says so and both are those: in
any clone, at any commit, whatever the timestamps.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grokdistill import sources
from grokdistill.config import STAGES
from grokdistill.files import DamagedFile, sha256, to_json, write, write_if_changed
from grokdistill.store import RECORD

if TYPE_CHECKING:
    from grokdistill.plan import Plan
    from grokdistill.runs import Study

FIGURES = range(1, 8)
READ = {  # by module, which is also DVC's stage, below the results
    "figures": ("runs.csv", "curves.parquet"),
    "phase": ("runs.csv",),
    "readings": ("runs.csv", "curves.parquet"),
    "claims": ("runs.csv", "curves.parquet"),
    "overview": ("runs.csv", "claims.csv", "figures/phase.png"),
}
TIMESTAMP = ".snakemake_timestamp"  # what Snakemake leaves in a folder that a job made
NEVER = "it has not been made yet"
LONG_AGO = 946684800  # a timestamp that no file of a study is older than


class ChangedMeanwhile(RuntimeError):
    """Something that a target is made from changed after it was planned."""


@dataclass(frozen=True)
class Target:
    """A part of the results.

    Attributes:
        name: "teachers", ..., "tables", "figure-1", ..., "phase", "readings", "claims", "overview".
        module: the module whose sources make it.
        recipe: what it is made from.
        outputs: files and folders, relative to the working folder.
        stamp: the file that says what `outputs` are.
    """

    name: str
    module: str
    recipe: dict[str, Any]
    outputs: list[str]
    stamp: str

    @cached_property
    def digest(self) -> str:
        """The recipe in 20 hex digits."""
        return hashlib.sha256(json.dumps(self.recipe, sort_keys=True).encode()).hexdigest()[:20]

    @property
    def group(self) -> str:
        """What it is asked for by: its own name, or "figures"."""
        return "figures" if self.module == "figures" else self.name


def enumerate_targets(study: Study) -> dict[str, Target]:
    """Every target of a study by name; those that others are made from first."""
    params, results = study.params, Path(study.params.paths.results)
    found: dict[str, Target] = {}

    def add(name: str, module: str, recipe: dict[str, Any], *outputs: Path | str) -> None:
        recipe = {"sources": sources.digest(f"grokdistill.{module}")} | recipe
        stamp = (results / "made" / f"{name}.json").as_posix()
        found[name] = Target(name, module, recipe, [Path(path).as_posix() for path in outputs], stamp)

    listed = {stage: hashlib.sha256(manifest(study, stage).encode()).hexdigest()[:20] for stage in STAGES}
    evaluation = {"evaluation": params.evaluation.model_dump(mode="json")}
    add("datasets", "publish", {"runs": listed["datasets"]}, params.paths.datasets)
    for stage in STAGES[1:]:
        folders = (results / stage, results / "records" / stage, results / "curves" / stage)
        outputs = (*folders, results / "metrics" / f"{stage}.json")
        add(stage, "publish", {"runs": listed[stage]} | evaluation, *outputs)
    runs = {"runs": {stage: listed[stage] for stage in STAGES[1:]}}
    add("tables", "publish", runs | evaluation, results / "runs.csv", results / "costs.csv", results / "curves.parquet")
    shown = {"tables": found["tables"].digest, "pair": list(params.primes.pair)}
    look = params.figures.model_dump(mode="json") | {"threshold": params.evaluation.threshold}
    for number in FIGURES:
        outputs = (results / "figures" / f"figure-{number}.{kind}" for kind in ("png", "pdf"))
        add(f"figure-{number}", "figures", shown | {"look": look}, *outputs)
    pictures = (results / "figures" / f"phase.{kind}" for kind in ("png", "pdf"))
    add("phase", "phase", shown | {"look": look}, results / "phase.csv", *pictures)
    pictures = (results / "figures" / f"{name}.png" for name in ("readings", "readings-curves"))
    add("readings", "readings", shown | {"look": look}, results / "readings.csv", *pictures)
    judged = {"judging": params.claims.model_dump(mode="json"), "claims": _hash(Path(params.paths.claims))}
    add("claims", "claims", shown | judged, results / "claims.csv")
    add("overview", "overview", shown | {"phase": found["phase"].digest} | judged, results / "overview.html")
    return found


def manifest(study: Study, stage: str) -> str:
    """What a stage consists of: one line per run, fingerprint and name."""
    return "".join(f"{run.fingerprint} {run.name}\n" for run in study.of(stage))


def manifests(plan: Plan) -> dict[Path, str]:
    """What every stage and every group of targets is made from, as files for people and for DVC, and their content.

    A change of any of them is a change of what has to be made; a line of a stage's is a run.
    """
    content: dict[Path, str] = {}
    for target in plan.targets.values():
        path = plan.results / "plan" / f"{target.group}.txt"
        lines = [f"{key} {value if isinstance(value, str) else json.dumps(value)}\n" for key, value in target.recipe.items()]
        if target.name in STAGES:
            lines += [f"{key} {entry['name']}\n" for key, entry in plan.entries.items() if entry["stage"] == target.name]
        content[path] = "".join(lines)
    return content


def write_manifests(plan: Plan) -> None:
    """Write the manifests that are not as they should be."""
    for path, text in manifests(plan).items():
        write_if_changed(path, text)


def why_not_listed(plan: Plan) -> str | None:
    """Why the manifests have to be written, in words; None where they are as they should be."""
    for path, text in manifests(plan).items():
        if not path.is_file():
            return NEVER
        if path.read_bytes() != text.encode():
            return f"{path} does not list what the parameters and sources ask for"
    return None


class Hashes:
    """Hashes of files and folders, kept from one time to the next: a file is read again where its status has changed."""

    def __init__(self, kept: Path | None = None) -> None:
        self.kept, self.known, self.used = kept, {}, {}
        if kept and kept.is_file():
            try:
                self.known = json.loads(kept.read_text(encoding="utf-8"))
            except ValueError:
                self.known = {}  # only a memory: everything is read again

    def of(self, path: str | Path) -> str | None:
        """The hash of a file's bytes, or of a folder's files and their names; None where there is nothing."""
        path = Path(path)
        if not path.is_dir():
            return self._file(str(path))
        total = hashlib.sha256()
        for folder, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                if name != TIMESTAMP:
                    file = os.path.join(folder, name)  # noqa: PTH118 (tens of thousands of them)
                    total.update(f"{os.path.relpath(file, path)} {self._file(file)}\n".encode())
        return total.hexdigest()

    def _file(self, path: str) -> str | None:
        try:
            status = os.stat(path)  # noqa: PTH116
            # The time of the last change of status: unlike that of the content, nobody can set it back.
            state = [status.st_size, status.st_ctime_ns, status.st_ino]
            known = self.known.get(path)
            if not known or known[:3] != state:
                known = [*state, sha256(Path(path))]
        except OSError:
            return None
        self.used[path] = known
        return known[3]

    def keep(self) -> None:
        """Remember what was asked for."""
        if self.kept and self.used != self.known:
            write(self.kept, json.dumps(self.used))


def _hash(path: Path) -> str | None:
    return Hashes().of(path)


def what_is_read(plan: Plan, target: Target, hashes: Hashes) -> str:
    """A digest of what a target is made from as it lies there: the records of its runs, of views also which models; or tables.

    A recipe says which runs; one that is trained anew elsewhere, or whose model comes later, is the same run with other bytes.
    """
    if target.module in READ:
        lines = [f"{name} {hashes.of(plan.results / name)}" for name in READ[target.module]]
    else:
        view, store = target.name in STAGES, plan.store
        lines = [
            f"{key} {hashes.of(store.folder(entry['stage'], key) / RECORD)} {view and store.has_model(entry['stage'], key)}"
            for key, entry in plan.entries.items()
            if entry["stage"] == target.name or (not view and entry["stage"] != "datasets")
        ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:20]


def why_not_current(plan: Plan, target: Target, hashes: Hashes) -> str | None:
    """Why a target has to be made, in words; None where it is current."""
    try:
        stamp = json.loads(Path(target.stamp).read_text(encoding="utf-8"))
        digest, made_from, read, outputs = (stamp[key] for key in ("recipe", "made_from", "read", "outputs"))
    except FileNotFoundError:
        return NEVER
    except (OSError, ValueError, KeyError, TypeError):
        return f"{target.stamp} is not a stamp"
    if digest != target.digest:
        return f"made from other {', '.join(key for key, value in target.recipe.items() if made_from.get(key) != value)}"
    for path in target.outputs:
        found = hashes.of(path)
        if found is None:
            return f"{path} is missing"
        if found != outputs.get(path):
            return f"{path} is not what was made"
    if read != what_is_read(plan, target, hashes):
        return "made from other tables" if target.module in READ else "made from other records or models of its runs"
    return None


def mark(plan: Plan) -> dict[str, str]:
    """Say by timestamps what has to be made, for tools that go by them.

    Of each target that is current, the files `wanted` and `made` below the store are as old as can be; where it has to be made,
    `wanted` is new. Returns the targets to be made, with the reason.
    """
    hashes = Hashes(plan.store.root / "hashes.json")
    reasons = {name: why_not_current(plan, target, hashes) for name, target in plan.targets.items()}
    reasons["plan"] = why_not_listed(plan)
    for name, reason in reasons.items():
        if reason:
            write(wanted(plan.results, name), f"{name} {time.time_ns()}\n")
            continue
        for path in (wanted(plan.results, name), made(plan.results, name)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            os.utime(path, (LONG_AGO, LONG_AGO))
    hashes.keep()
    return {name: reason for name, reason in reasons.items() if reason}


def told(reasons: dict[str, str]) -> list[str]:
    """What has to be made anew and why, a line for each reason; what was never made goes without saying."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        by_reason.setdefault(reason, []).append(name)
    return [f"to be made anew: {', '.join(names)}: {reason}" for reason, names in by_reason.items() if reason != NEVER]


def wanted(results: Path, name: str) -> Path:
    """The file that `mark` renews where a target has to be made."""
    return results / "store" / "targets" / f"{name}.wanted"


def made(results: Path, name: str) -> Path:
    """The file that whoever makes a target touches afterwards."""
    return results / "store" / "targets" / f"{name}.made"


@contextmanager
def making(plan: Plan, name: str) -> Iterator[Target]:
    """Make a target inside: it is stamped at the end, unless something that it is made from is not as planned.

    Raises:
        ChangedMeanwhile: where the sources or the claims are not those of the plan.
    """
    target = plan.targets[name]
    if sources.digest(f"grokdistill.{target.module}") != target.recipe["sources"]:
        raise ChangedMeanwhile(f"{name}: the sources changed after it was planned; type the command again")
    Path(target.stamp).unlink(missing_ok=True)
    read = what_is_read(plan, target, Hashes())
    yield target
    claims = plan.params.paths.claims
    if "claims" in target.recipe and _hash(Path(claims)) != target.recipe["claims"]:
        raise ChangedMeanwhile(f"{name}: {claims} changed after it was planned; type the command again")
    outputs = {path: _hash(Path(path)) for path in target.outputs}
    missing = [path for path, found in outputs.items() if found is None]
    if missing:
        raise DamagedFile(f"{missing[0]}: was not made")
    write(Path(target.stamp), to_json({"made_from": target.recipe, "recipe": target.digest, "read": read, "outputs": outputs}))
