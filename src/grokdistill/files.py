"""Files that are never half there: atomic writes, hashes, and safetensors with their configuration in the header."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:
    fcntl = None


LARGEST = 4 * 2**30  # bytes of a safetensors file, checked before anything is read of it


class DamagedFile(RuntimeError):
    """A file that is missing or is not what its record says; the message names it and the remedy."""


def write(path: Path, content: bytes | str) -> None:
    """Write a file so that it is there whole or not at all."""
    write_with(path, lambda partial: partial.write_bytes(content.encode() if isinstance(content, str) else content))


def write_with(path: Path, writer: Callable[[Path], object]) -> None:
    """Let `writer` write a file beside `path` under a passing name, then move it there in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    os.close(handle)
    partial = Path(name)
    try:
        writer(partial)
        partial.chmod(0o644)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def hold(path: Path) -> IO[str] | None:
    """Hold a file's lock until the file returned is closed, or the process ends however it ends; None where another holds it.

    Where there are no such locks (Windows, some network file systems), nothing is held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError:
        pass
    return file


@contextmanager
def locked(path: Path, note: str, check: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a file's lock; where another holds it, say `note` and wait, as long as `check` raises nothing."""
    file = hold(path)
    if file is None:
        print(f"{note}; waiting for it", file=sys.stderr, flush=True)
    while file is None:
        if check:
            check()
        time.sleep(0.5)
        file = hold(path)
    with file:
        yield


def write_if_changed(path: Path, content: str) -> None:
    """Write a text file unless it already says exactly that, so that its timestamp means something."""
    if not path.is_file() or path.read_bytes() != content.encode():
        write(path, content)


def to_json(value: Any) -> str:
    """Readable JSON with a stable order of keys."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_tensors(path: Path, tensors: dict[str, Any], header: dict[str, Any], backend: str) -> None:
    """Write a safetensors file whose header carries a JSON description.

    Args:
        tensors: name -> array of the backend.
        header: what the file is, readable without loading it.
        backend: "torch" or "numpy".
    """
    save_file = _safetensors(backend).save_file
    write_with(path, lambda partial: save_file(tensors, partial, metadata={"about": json.dumps(header, sort_keys=True)}))


def load_tensors(path: Path, backend: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors and header of a safetensors file; nothing in it is ever executed.

    Raises:
        DamagedFile: where the file is missing, truncated or not safetensors.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if path.stat().st_size > LARGEST:
            raise DamagedFile(f"{path}: {path.stat().st_size:,} bytes; no file of a study has more than {LARGEST:,}")
        with safe_open(path, framework="pt" if backend == "torch" else "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            header = json.loads((file.metadata() or {}).get("about", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedFile(f"{path}: not a readable safetensors file ({error})") from None
    return tensors, header


def _safetensors(backend: str) -> Any:
    if backend == "torch":
        import safetensors.torch as module
    else:
        import safetensors.numpy as module
    return module
