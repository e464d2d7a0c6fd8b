"""Adoption: finished runs from elsewhere into the store, such as those of a GPU machine, or views that DVC restored.

Nothing is taken on trust: a run's fingerprint is computed anew from what its record says, and every file from its bytes. Where
git brings a study's records and curves but nobody its checkpoints, a run is known by these two alone, unless its model is
needed: by a run that is still to be made from it.
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
        known: of those there or adopted, the runs that are known by record and curve alone.
        missing: not found.
        other: found under the run's name, but made by another recipe: left alone, to be trained.
        refused: found, but not what it says it is; why, naming the file.
    """

    there: int = 0
    adopted: list[PlannedRun] = field(default_factory=list)
    known: list[PlannedRun] = field(default_factory=list)
    missing: list[PlannedRun] = field(default_factory=list)
    other: list[PlannedRun] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def adopt(plan: Plan, source: Path, models: bool = True) -> Adoption:
    """Put the plan's runs that lie below `source`, a results folder, into the plan's store.

    A run is looked for in the folder's store, then in its view of the stage; in the plan's own results also among records and
    curves. Markers in the plan's store follow its records. Without `models`, records and curves suffice for every run, also
    where others are still to be made from it: enough to show results, not to train on.
    """
    found = Adoption()
    needed: set[str] = set()  # runs from whose models others are still to be made
    for key in reversed(plan.entries):  # what is made from a run comes before it
        if not _settle(plan, key, source, models and key in needed, found):
            needed.update(plan.entries[key]["parents"].values())
    for runs in (found.adopted, found.known, found.missing, found.other, found.refused):
        runs.reverse()
    return found


def _settle(plan: Plan, key: str, source: Path, needed: bool, found: Adoption) -> bool:
    """See to one run; whether it is in the store then, with its model where that is needed."""
    stage, store = plan.entries[key]["stage"], plan.store
    record, marker = (store.folder(stage, key) / name for name in (RECORD, DONE))
    complete = store.complete(stage, key)
    if complete and (stage == "datasets" or store.has_model(stage, key)):
        found.there += 1
        if not marker.exists():
            marker.touch()
        return True
    run, known = plan.run(key), complete and not needed
    places = _places(plan, run, source, needed)
    if known:
        places = [place for place in places if CHECKPOINT in place]  # all that it can gain
    try:
        place = next((place for place in places if _take(plan, run, place)), None)
    except DamagedFile as error:
        found.refused.append(str(error))
        known = place = None
    else:
        if place:
            found.adopted.append(run)
        elif known:
            found.there += 1
        else:
            (found.other if places else found.missing).append(run)
    if place or known:
        if not plan.store.has_model(stage, key) and stage != "datasets":
            found.known.append(run)
        marker.touch()
        return True
    if complete:
        record.unlink()
    marker.unlink(missing_ok=True)
    return False


def _places(plan: Plan, run: PlannedRun, source: Path, needed: bool) -> list[dict[str, Path]]:
    """Where a run's files may lie, by name."""
    own = source.resolve() == plan.results.resolve()
    views = Path(plan.params.paths.datasets) if own and run.stage == "datasets" else source / run.stage
    names = (RECORD, DATASET) if run.stage == "datasets" else (RECORD, CHECKPOINT, CURVE)
    folders = (Store(source / "store").folder(run.stage, run.fingerprint), views / run.name)
    places = [{name: folder / name for name in names} for folder in folders]
    if own and run.stage != "datasets":
        places = [place for place in places if place[CHECKPOINT].is_file()]
        if not needed:
            record, curve = (source / kind / run.stage for kind in ("records", "curves"))
            places.append({RECORD: record / f"{run.name}.json", CURVE: curve / f"{run.name}.csv"})
    return [place for place in places if place[RECORD].is_file()]


def _take(plan: Plan, run: PlannedRun, files: dict[str, Path]) -> bool:
    """Copy a run's files into the store; False where they are another recipe's.

    Raises:
        DamagedFile: where the record contradicts itself or a file its record.
    """
    path = files[RECORD]
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
    for name, original in files.items():
        if name == RECORD:
            continue
        if not original.is_file():
            raise DamagedFile(f"{original}: is missing")
        write_with(target / name, lambda partial, original=original: shutil.copyfile(original, partial))
        if sha256(target / name) != outputs.get(name):  # of the copy: what is checked is what is kept
            (target / name).unlink()
            raise DamagedFile(f"{original}: does not match its record {path}")
    write_with(target / RECORD, lambda partial: shutil.copyfile(path, partial))
    (target / DONE).touch()
    return True
