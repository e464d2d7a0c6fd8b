"""What a large study costs before and after training: `make bench`.

Times `snakemake -n` and the tables for studies of about 100, 1,000 and 10,000 runs: the paper's own cells with more seeds. For
the tables, one real run of a few updates stands in for every run of the study, below a temporary folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from about import about, save

from grokdistill import params, publish
from grokdistill.files import write
from grokdistill.plan import Plan, write_plan
from grokdistill.runs import enumerate_runs
from grokdistill.store import CURVE

ROOT = Path(__file__).resolve().parents[1]


def study(folder: Path, seeds: int) -> Plan:
    """A working folder for the workflow with that many seeds, and the study's plan; the folder becomes the current one."""
    os.chdir(folder)
    shutil.copytree(ROOT / "data" / "paper", folder / "data" / "paper")
    raw = params.read([ROOT / "params.yaml"]) | {"seeds": list(range(seeds))}
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    return Plan.load(write_plan(enumerate_runs(params.validate(raw))))


def dry_run(folder: Path) -> float:
    """Seconds of `snakemake -n`."""
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-n",
        "--quiet",
        "all",
        "--snakefile",
        ROOT / "Snakefile",
        "--directory",
        folder,
    ]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def fill(plan: Plan, evaluations: int) -> None:
    """Put a record and a curve of the paper's length under every run's fingerprint."""
    columns = ["train_acc", "test_acc", "same_acc", "different_acc", "p1_acc", "p1_train_acc", "train_loss", "test_loss", "kl"]
    columns += ["weight_norm", "fourier_own", "fourier_teacher"]
    lines = [",".join(["step", *columns])]
    for place in range(evaluations + 1):
        share = place / evaluations
        lines.append(",".join(map(str, [100 * place, *(share**power for power in range(1, len(columns) + 1))])))
    curve = "\n".join(lines) + "\n"
    execution = {"seconds": 0.0, "device": "cpu", "threads": 1, "seeds_in_job": 1, "versions": {}}
    for fingerprint, entry in plan.entries.items():
        folder = plan.store.folder(entry["stage"], fingerprint)
        write(folder / CURVE, curve)
        record = {"diverged": None, "execution": execution, "final": {}, "facts": {}}
        plan.store.commit(entry["stage"], fingerprint, record, (CURVE,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 9, 90], help="sizes of the studies (default: 1 9 90)")
    options = parser.parse_args()
    rows = []
    print(f"{'runs':>6} {'snakemake -n':>13} {'tables':>8}   seconds")
    for seeds in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            plan = study(Path(folder), seeds)
            planning = dry_run(Path(folder))
            fill(plan, evaluations=150)
            start = time.perf_counter()
            publish.tables(plan)
            tables = time.perf_counter() - start
            os.chdir(ROOT)
        rows.append({"runs": len(plan.entries), "planning": planning, "tables": tables})
        print(f"{len(plan.entries):6,} {planning:13.1f} {tables:8.1f}")
    save("planning", {"about": about(), "seconds": rows})


if __name__ == "__main__":
    main()
