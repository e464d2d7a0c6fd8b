"""Results between this workflow and DVC, each way with a check of every byte.

    python workflow/scripts/results.py record     after `snakemake`: what it made, into dvc.lock and DVC's cache
    python workflow/scripts/results.py restore    after `git checkout`, or in a fresh clone: the results of this commit

`record` refuses where a result is not what params.yaml, the sources and the runs' records say. `restore` takes them from
DVC's cache, or else from its remote, puts the runs into the store, and refuses in the same way. What a remote or a disk has
damaged is named and discarded; what is whole comes all the same.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from dvc.repo import Repo

from grokdistill import cli
from grokdistill.config import STAGES
from grokdistill.params import Params, read, validate
from grokdistill.plan import write_plan
from grokdistill.runs import enumerate_runs

SURPRISED = 255  # DVC's exit status where it did not get as far as objects


def parameters() -> Params:
    """What params.yaml asks for."""
    return validate(read([Path("params.yaml")]))


def checked(*commands: str) -> bool:
    """Run commands of the library on the plan of params.yaml up to the first that refuses; whether none did."""
    plan = write_plan(enumerate_runs(parameters()))
    return not any(cli.main([command, str(plan)]) for command in commands)


def dvc(*arguments: str, quiet: bool = False) -> int:
    """Run DVC; its exit status."""
    output = subprocess.DEVNULL if quiet else None
    return subprocess.run(["dvc", *arguments], stdout=output, stderr=output).returncode


def record() -> int:
    """Take what lies there into DVC, if it is what it should be."""
    return dvc("commit", "--force") if checked("check") else 1


def restore() -> int:
    """Bring back what dvc.lock names, and put it into the store."""
    with Repo() as repo:
        repo.drop_data_index()  # listings of folders as they once came, perhaps damaged
        lacks = any(out.use_cache and out.changed_cache() for out in repo.index.outs)
    failed = dvc("pull" if lacks else "checkout")
    if failed == SURPRISED:  # one folder's listing is damaged, and none was fetched
        for stage in STAGES:
            dvc("pull", stage)
    elif failed:  # what could be fetched is in the cache
        dvc("checkout", quiet=True)
    discard()
    whole = checked("adopt") if failed else checked("adopt", "check")
    return failed or int(not whole)


def discard() -> None:
    """Delete what DVC's cache holds under a name that is not its hash, and the copies of it among the results.

    DVC takes most remotes at their word, and then its cache: a damaged object would be brought back for ever.
    """
    with Repo() as repo:
        cache = Path(repo.cache.local.path)
    objects = {path: path.parent.name + path.stem for path in cache.glob("??/[0-9a-f]*")}
    damaged = {path: digest for path, name in objects.items() if (digest := md5(path)) != name}
    if not damaged:
        return
    paths = parameters().paths
    folders = [Path(paths.datasets), *(Path(paths.results, stage) for stage in STAGES)]
    results = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    copies = [path for path in results if md5(path) in damaged.values()]
    # The listings of folders that name it: while a remote has one, DVC takes all that it names to be there.
    lists = [path for path in objects if path.suffix and any(objects[other].encode() in path.read_bytes() for other in damaged)]
    for path in (*copies, *damaged):
        print(f"discarded: {path} is not what DVC recorded", file=sys.stderr)
        path.unlink()
    there = "\n  ".join(sorted({f"files/md5/{path.relative_to(cache).as_posix()}" for path in (*damaged, *lists)}))
    print(
        "Type the command again: it is fetched anew. If that brings the same, the remote is damaged: delete there\n"
        f"  {there}\nand `dvc push` from a clone with sound results.",
        file=sys.stderr,
    )


def md5(path: Path) -> str:
    """DVC's hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


if __name__ == "__main__":
    commands = {"record": record, "restore": restore}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        raise SystemExit(__doc__)
    raise SystemExit(commands[sys.argv[1]]())
