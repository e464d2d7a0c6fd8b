"""Why a run would be trained, in words: what changed since the nearest run that the store holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grokdistill import sources
from grokdistill.config import IDENTITY
from grokdistill.files import DamagedFile
from grokdistill.plan import Plan, PlannedRun
from grokdistill.store import RECORD, Store, read_record
from grokdistill.targets import Hashes, Target, why_not_current


class Unknown(LookupError):
    """A name that the study does not know; the message says what it does."""


def find(plan: Plan, name: str) -> list[PlannedRun | Target]:
    """What a name stands for: "teachers/add-...-s0", "add-...-s0", a fingerprint or its beginning, a target, or "all".

    Raises:
        Unknown: where there is nothing of that name.
    """
    if name == "all":
        return [*(plan.run(key) for key in plan.entries), *plan.targets.values()]
    if name in plan.targets or name == "figures":
        return [target for target in plan.targets.values() if name in (target.name, target.group)]
    wanted = name.strip("/").removeprefix(f"{plan.results}/")
    found = [
        plan.run(key)
        for key, entry in plan.entries.items()
        if wanted in (entry["name"], f"{entry['stage']}/{entry['name']}") or (len(wanted) >= 6 and key.startswith(wanted))
    ]
    if not found:
        examples = ", ".join(f"{entry['stage']}/{entry['name']}" for entry in list(plan.entries.values())[-3:])
        raise Unknown(f"{name}: no such run or target. Targets are {', '.join(plan.targets)}; runs are named like {examples}")
    return found


def explain(plan: Plan, what: PlannedRun | Target, hashes: Hashes) -> list[str]:
    """Lines that say whether something is current, or why it would be made."""
    if isinstance(what, Target):
        return [f"{what.name}: {f'would be made: {reason}' if (reason := why_not_current(plan, what, hashes)) else 'current'}"]
    return list(_explain(plan, what, ""))


def _explain(plan: Plan, run: PlannedRun, indent: str) -> Iterator[str]:
    title = f"{indent}{run.stage}/{run.name} ({run.fingerprint})"
    if plan.store.complete(run.stage, run.fingerprint):
        yield f"{title}: current"
        return
    if _known(plan, run):
        yield f"{title}: would be made: its record is here, but not what is needed beside it, such as its model"
        return
    record = nearest(plan.store, run)
    if record is None:
        yield f"{title}: would be made: the store has no run like it"
        return
    yield f"{title}: would be made; compared with {record['fingerprint']}, the nearest in the store:"
    indent += "  "
    new, old = run.config.model_dump(exclude_none=True), record["config"]
    for key in sorted(new.keys() | old.keys()):
        if new.get(key) != old.get(key):
            yield f"{indent}{key}: {_shown(old.get(key))} -> {_shown(new.get(key))}"
    if record["sources"] != run.sources:
        yield from (f"{indent}{line}" for line in changed_sources(record.get("parts"), run.stage))
    for role, parent in run.parents.items():
        if record["parents"].get(role) == parent:
            continue
        planned = plan.run(parent)
        if plan.store.complete(planned.stage, parent):
            yield f"{indent}{role}: another run than before, {planned.stage}/{planned.name} ({parent}), which is there"
        else:
            yield f"{indent}{role}: another run than before, itself to be made:"
            yield from _explain(plan, planned, indent + "  ")


def _known(plan: Plan, run: PlannedRun) -> bool:
    """Whether the results tell of the run, without its model."""
    try:
        return read_record(plan.results / "records" / run.stage / f"{run.name}.json")["fingerprint"] == run.fingerprint
    except DamagedFile:
        return False


def nearest(store: Store, run: PlannedRun) -> dict[str, Any] | None:
    """The record in the store that says the same of what the run is, with the fewest differences; the newest of those."""
    wanted, found = run.config.model_dump(exclude_none=True), []
    for path in (store.root / run.stage).glob(f"*/{RECORD}"):
        try:
            record = store.record(run.stage, path.parent.name)
        except DamagedFile:
            continue
        config = record["config"]
        if all(config.get(key) == wanted.get(key) for key in IDENTITY):
            other = sum(config.get(key) != wanted.get(key) for key in config.keys() | wanted.keys())
            found.append((other, -path.stat().st_mtime_ns, record["fingerprint"], record))
    return min(found)[3] if found else None


def changed_sources(before: dict[str, dict[str, str]] | None, stage: str) -> list[str]:
    """Which functions of which files differ from those that a record tells of."""
    if before is None:
        return ["sources: changed (the record does not say what they were)"]
    now, lines = sources.parts(f"grokdistill.stages.{stage}"), []
    for file in sorted(now.keys() | before.keys()):
        path = (Path("src/grokdistill") / file).as_posix()
        if file not in before or file not in now:
            lines.append(f"{path}: {'new' if file in now else 'no longer used'}")
            continue
        for name in sorted(now[file].keys() | before[file].keys()):
            old, new = before[file].get(name), now[file].get(name)
            if old != new:
                state = "changed" if old and new else "added" if new else "removed"
                lines.append(f"{path}: {name or 'the code outside functions'} {state}")
    return lines or ["sources: the order of definitions changed"]


def _shown(value: object) -> str:
    return "not set" if value is None else str(value)
