"""Results between this workflow and DVC, each way with a check of every byte.

    python workflow/scripts/results.py record     after `snakemake`: what it made, into dvc.lock and DVC's cache
    python workflow/scripts/results.py restore    after `git checkout`, or in a fresh clone: the results of this commit

`record` refuses where a result is not what params.yaml, the sources and the runs' records say. `restore` takes them from
DVC's cache, or else from its remote, puts the runs into the store, and refuses in the same way.
"""

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

from grokdistill import cli
from grokdistill.params import read, validate
from grokdistill.plan import write_plan
from grokdistill.runs import enumerate_runs


def checked(*commands: str) -> None:
    """Run commands of the library on the plan of params.yaml; stop at the first that refuses."""
    plan = write_plan(enumerate_runs(validate(read([Path("params.yaml")]))))
    for command in commands:
        if cli.main([command, str(plan)]):
            raise SystemExit(1)


def dvc(*arguments: str, quiet: bool = False) -> int:
    """Run DVC; its exit status."""
    output = subprocess.DEVNULL if quiet else None
    return subprocess.run(["dvc", *arguments], stdout=output, stderr=output).returncode


def record() -> int:
    """Take what lies there into DVC, if it is what it should be."""
    checked("check")
    return dvc("commit", "--force")


def restore() -> int:
    """Bring back what dvc.lock names, and put it into the store."""
    if dvc("checkout", quiet=True) and (failed := dvc("pull")):
        return failed
    checked("adopt", "check")
    return 0


if __name__ == "__main__":
    commands = {"record": record, "restore": restore}
    if len(sys.argv) != 2 or sys.argv[1] not in commands:
        raise SystemExit(__doc__)
    raise SystemExit(commands[sys.argv[1]]())
