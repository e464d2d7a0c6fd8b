"""Adoption: finished runs from elsewhere into the store, such as those of a GPU machine, or views that DVC restored.

Nothing is taken on trust: a run's fingerprint is computed anew from what its record says, and every file from its bytes.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from grokdistill.files import DamagedFile, sha256, write_with
from grokdistill.plan import Plan, PlannedRun
from grokdistill.runs import fingerprint
from grokdistill.store import CHECKPOINT, CURVE, DATASET, DONE, RECORD, Store, read_record


@dataclass
class Adoption:
    """What came of it, by (stage, name) of the plan's runs.

    Attributes:
        there: how many were in the store before.
        adopted: put into the store now.
        missing: not found.
        other: found under the run's name, but made by another recipe: left alone, to be trained.
        refused: found, but not what it says it is; why, naming the file.
    """

    there: int = 0
    adopted: list[PlannedRun] = field(default_factory=list)
    missing: list[PlannedRun] = field(default_factory=list)
    other: list[PlannedRun] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def adopt(plan: Plan, source: Path) -> Adoption:
    """Put the plan's runs that lie below `source`, a results folder, into the plan's store.

    A run is looked for in the folder's store, then in its view of the stage. Markers in the plan's store follow its records.
    """
    found = Adoption()
    elsewhere, own = Store(source / "store"), source.resolve() == plan.results.resolve()
    for key, entry in plan.entries.items():
        marker = plan.store.folder(entry["stage"], key) / DONE
        if plan.store.complete(entry["stage"], key):
            found.there += 1
            if not marker.exists():
                marker.touch()
            continue
        marker.unlink(missing_ok=True)
        run = plan.run(key)
        views = Path(plan.params.paths.datasets) if own and run.stage == "datasets" else source / run.stage
        folders = [folder for folder in (elsewhere.folder(run.stage, key), views / run.name) if (folder / RECORD).is_file()]
        if not folders:
            found.missing.append(run)
            continue
        try:
            found_here = _take(plan, run, folders[0])
        except DamagedFile as error:
            found.refused.append(str(error))
        else:
            (found.adopted if found_here else found.other).append(run)
    return found


def _take(plan: Plan, run: PlannedRun, folder: Path) -> bool:
    """Copy a run into the store; False where the folder holds another recipe's.

    Raises:
        DamagedFile: where the record contradicts itself or a file its record.
    """
    path = folder / RECORD
    record = read_record(path)
    claimed, outputs = record["fingerprint"], record["outputs"]
    try:
        made = fingerprint(record["config"], record["sources"], record["parents"])
    except (KeyError, TypeError) as error:
        raise DamagedFile(f"{path}: not a record ({error!r})") from None
    if made != claimed:
        raise DamagedFile(f"{path}: says it is run {claimed}, but its configuration, sources and parents are those of {made}")
    if made != run.fingerprint:
        return False
    target = plan.store.folder(run.stage, made)
    for name in (DATASET,) if run.stage == "datasets" else (CHECKPOINT, CURVE):
        original = folder / name
        if not original.is_file():
            raise DamagedFile(f"{original}: is missing")
        write_with(target / name, lambda partial, original=original: shutil.copyfile(original, partial))
        if sha256(target / name) != outputs.get(name):  # of the copy: what is checked is what is kept
            (target / name).unlink()
            raise DamagedFile(f"{original}: does not match its record {path}")
    write_with(target / RECORD, lambda partial: shutil.copyfile(path, partial))
    (target / DONE).touch()
    return True
