"""The input-addressed store: a run's files lie in a folder named by its fingerprint.

A result in it can be missing, but never stale: whatever changes a run changes its fingerprint, hence its folder. A run is
complete once its record is there, which is written last and carries the hashes of everything else.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grokdistill.files import DamagedFile, sha256, to_json, write

RECORD = "record.json"
CHECKPOINT = "checkpoint.safetensors"
DATASET = "dataset.safetensors"
CURVE = "curve.csv"
SEAL = "sha256"  # the key of a record under which its own digest stands
DONE = "done"  # the empty file that Snakemake is told about


@dataclass(frozen=True)
class Store:
    """The store of one results folder."""

    root: Path

    def folder(self, stage: str, fingerprint: str) -> Path:
        return self.root / stage / fingerprint

    def complete(self, stage: str, fingerprint: str) -> bool:
        """Whether the run is there."""
        return (self.folder(stage, fingerprint) / RECORD).is_file()

    def has_model(self, stage: str, fingerprint: str) -> bool:
        """Whether the run's checkpoint is there too: a run may be known by its record and curve alone."""
        return (self.folder(stage, fingerprint) / CHECKPOINT).is_file()

    def record(self, stage: str, fingerprint: str) -> dict[str, Any]:
        """The run's record.

        Raises:
            DamagedFile: where it is missing, unreadable, or another run's.
        """
        path = self.folder(stage, fingerprint) / RECORD
        if not path.exists():
            raise DamagedFile(f"{path}: the run is not in the store; run its stage first ({stage})")
        try:
            record = read_record(path)
        except DamagedFile as error:
            raise DamagedFile(f"{error}; {_remedy(path.parent)}") from None
        if record["fingerprint"] != fingerprint:
            raise DamagedFile(f"{path}: records run {record['fingerprint']}; {_remedy(path.parent)}")
        return record

    def file(self, stage: str, fingerprint: str, name: str) -> Path:
        """One of the run's files, checked against the hash in its record.

        Raises:
            DamagedFile: where it is missing or its bytes are not those that were recorded.
        """
        path = self.folder(stage, fingerprint) / name
        expected = self.record(stage, fingerprint)["outputs"].get(name)
        try:
            state = None if sha256(path) == expected else "does not match its record"
        except FileNotFoundError:
            state = "is missing"
        except OSError as error:
            state = f"unreadable ({error.strerror})"
        if state:
            raise DamagedFile(f"{path}: {state}; {_remedy(path.parent)}")
        return path

    def commit(self, stage: str, fingerprint: str, record: dict[str, Any], names: tuple[str, ...]) -> None:
        """Complete a run whose files `names` have been written: hash them, then write the record."""
        folder = self.folder(stage, fingerprint)
        outputs = {name: sha256(folder / name) for name in names}
        write(folder / RECORD, to_json(sealed(record | {"fingerprint": fingerprint, "outputs": outputs})))


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """The record with a digest of all else that it says, so that a damaged one is noticed."""
    content = {key: value for key, value in record.items() if key != SEAL}
    return content | {SEAL: hashlib.sha256(to_json(content).encode()).hexdigest()}


def read_record(path: Path) -> dict[str, Any]:
    """A record from its file.

    Raises:
        DamagedFile: where it is unreadable, no record, or not what was written.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(record["outputs"], dict) and isinstance(record["fingerprint"], str) and sealed(record) == record
    except OSError as error:
        raise DamagedFile(f"{path}: unreadable ({error.strerror})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFile(f"{path}: not a record ({error!r})") from None
    if not whole:
        raise DamagedFile(f"{path}: is not what was recorded")
    return record


def _remedy(folder: Path) -> str:
    return f"delete the folder {folder} and type the command again: only this run is made anew"
