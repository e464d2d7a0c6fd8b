"""What a large study costs before and after training: `make bench`.

Times `snakemake -n`, the tables, all figures, the claims, and reading the curves (from the one file, and from a CSV per run) of
studies of about 100, 1,000 and 10,000 runs: the paper's own cells with more seeds, and a made-up curve of the paper's length
for every run, below a temporary folder.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

import pandas as pd
import yaml
from about import about, save

from grokdistill import cli, params, publish
from grokdistill.files import write
from grokdistill.plan import Plan, write_plan
from grokdistill.runs import enumerate_runs
from grokdistill.store import CURVE
from grokdistill.targets import FIGURES

ROOT = Path(__file__).resolve().parents[1]


def study(folder: Path, seeds: int) -> Path:
    """A working folder for the workflow with that many seeds; it becomes the current one. Returns the study's plan."""
    os.chdir(folder)
    shutil.copytree(ROOT / "data" / "paper", folder / "data" / "paper")
    raw = params.read([ROOT / "params.yaml"]) | {"seeds": list(range(seeds))}
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    return write_plan(enumerate_runs(params.validate(raw)))


def dry_run(folder: Path) -> None:
    """`snakemake -n`."""
    snakemake = [sys.executable, "-m", "snakemake", "-n", "--quiet", "all"]
    subprocess.run(
        [*snakemake, "--snakefile", ROOT / "Snakefile", "--directory", folder], check=True, stdout=subprocess.DEVNULL
    )


def fill(plan: Plan, evaluations: int) -> None:
    """Put a record and a curve of the paper's length under every run's fingerprint."""
    columns = ["train_acc", "test_acc", "same_acc", "different_acc", "p1_acc", "p1_train_acc", "train_loss", "test_loss", "kl"]
    columns += ["weight_norm", "fourier_own", "fourier_teacher"]
    lines = [",".join(["step", *columns])]
    for place in range(evaluations + 1):
        share = (place + 1) / (evaluations + 1)
        lines.append(",".join(map(str, [100 * place, *(share**power for power in range(1, len(columns) + 1))])))
    curve = "\n".join(lines) + "\n"
    execution = {"seconds": 0.0, "device": "cpu", "threads": 1, "seeds_in_job": 1, "versions": {}}
    for fingerprint, entry in plan.entries.items():
        folder = plan.store.folder(entry["stage"], fingerprint)
        write(folder / CURVE, curve)
        record = {"diverged": None, "execution": execution, "final": {}, "facts": {}}
        plan.store.commit(entry["stage"], fingerprint, record, (CURVE,))


def seconds(function: Callable[..., object], *arguments: object) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def command(plan: Path, name: str) -> None:
    """A command of the library, as Snakemake calls it; as many processes one after the other as Snakemake starts jobs."""
    for more in [[str(number)] for number in FIGURES] if name == "figures" else [[]]:
        with redirect_stdout(io.StringIO()):
            assert cli.main([name, str(plan), *more]) == 0


def read_csvs(plan: Plan) -> None:
    """Read every run's curve from a file of its own."""
    for key, entry in plan.entries.items():
        pd.read_csv(plan.store.folder(entry["stage"], key) / CURVE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 9, 90], help="sizes of the studies (default: 1 9 90)")
    options = parser.parse_args()
    rows = []
    print(
        f"{'runs':>6} {'snakemake -n':>13} {'tables':>8} {'figures':>8} {'claims':>8} {'curves':>8} {'as CSVs':>14}   seconds"
    )
    for seeds in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            path = study(Path(folder), seeds)
            plan = Plan.load(path)
            row = {"runs": len(plan.entries), "planning": seconds(dry_run, Path(folder))}
            fill(plan, evaluations=150)
            row |= {name: seconds(command, path, name) for name in ("tables", "figures", "claims")}
            row |= {"curves": seconds(publish.read_curves, plan.results), "curves as CSVs": seconds(read_csvs, plan)}
            os.chdir(ROOT)
        rows.append(row)
        print("{runs:6,} {planning:13.1f} {tables:8.1f} {figures:8.1f} {claims:8.1f} {curves:8.1f}".format(**row), end="")
        print(f"{row['curves as CSVs']:15.1f}")
    save("planning", {"about": about(), "seconds": rows})


if __name__ == "__main__":
    main()
