"""Write job counts, what the grid and the demo made, and benchmarks into README and docs/scaling.md: `make readme`, after
`make demo`."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd

from grokdistill.config import STAGES
from grokdistill.params import read, validate
from grokdistill.runs import enumerate_runs
from grokdistill.summary import over_seeds

ROOT = Path(__file__).resolve().parents[2]


def markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown; numbers to the right."""
    kinds = ["---:" if pd.api.types.is_numeric_dtype(frame[name]) else "---" for name in frame]
    rows = [list(frame), kinds, *frame.astype(object).where(frame.notna(), "").to_numpy().tolist()]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def jobs_table() -> str:
    """How many jobs of each rule the paper at full scale takes, from nothing."""
    command = ["snakemake", "--dry-run", "--forceall", "--quiet", "rules"]
    printed = subprocess.run(command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
    counts = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", printed.partition("Job stats")[2], re.M)}
    total = counts.pop("total")
    long = {name: counts[name] for name in ("generate_datasets", *(f"train_{stage}" for stage in STAGES[1:]))}
    rows = {f"`{name}`": count for name, count in long.items()}
    rows |= {"plan, layout, tables, figures, phase, readings, claims, overview": total - sum(long.values()), "all": total}
    return markdown(pd.DataFrame({"rule": list(rows), "jobs": list(rows.values())}))


def runs_table(path: Path) -> str:
    """What became of every run."""
    runs = pd.read_csv(path, dtype={"t_mem": "Int64", "t_grok": "Int64"})
    for name in ("final_test_acc", "final_p1_acc"):
        runs[name] = runs[name].round(3)
    return markdown(runs[["stage", "name", "status", "t_mem", "t_grok", "final_test_acc", "final_p1_acc"]])


def claims_table(path: Path, rest: str) -> str:
    """Claims whose cells all have runs, as a Markdown table, and how many have not, with `rest` said of them."""
    claims = pd.read_csv(path, keep_default_na=False)
    judged = claims[claims["n"] > 0]
    parts = []
    if len(judged):
        parts.append(markdown(judged[["claim", "statement", "measured", "n", "verdict"]]))
    if len(judged) < len(claims):
        parts.append(f"{len(claims) - len(judged)} {'further ' * bool(parts)}claims {rest}.\n")
    return "\n".join(parts)


def headline(results: Path, pair: tuple[int, int]) -> str:
    """What the paper is about, at 20% of the data: a row per operator, optimizer and method, over the seeds."""
    runs = pd.read_csv(results / "runs.csv")
    asked = runs["stage"].isin(["baselines", "students"]) & runs["variant"].isna() & (runs["fraction"] == 0.2)
    by = ["op", "optimizer", "method"]
    cells = over_seeds(runs[asked & (runs["p1"] == pair[0]) & (runs["p2"] == pair[1])], by)
    cells = cells.sort_values(by, ascending=[True, False, False])
    cells["grokked"] = [f"{grokked} of {n}" for grokked, n in zip(cells["grokked"], cells["n"])]
    cells["final test accuracy"] = [
        f"{row.test_acc:.3f} ({row.test_acc_min:.3f} to {row.test_acc_max:.3f})" for row in cells.itertuples()
    ]
    return markdown(cells[[*by, "grokked", "t_grok", "final test accuracy"]])


def demonstration(folder: Path) -> str:
    """What the demo made."""
    return runs_table(folder / "runs.csv") + "\n" + claims_table(folder / "claims.csv", "need runs that the demo does not make")


def grid(results: Path) -> str:
    """What the paper's grid says, as far as it is trained."""
    params = validate(read([ROOT / "params.yaml"]))
    runs = sum(run.config.stage != "datasets" for run in enumerate_runs(params).runs)
    claims = claims_table(results / "claims.csv", "need runs that are not finished ([docs/grid-order.md](docs/grid-order.md))")
    return "\n".join([headline(results, params.primes.pair), claims, cost(results, runs)])


def cost(results: Path, runs: int) -> str:
    """How much of the grid is there, and what it took, by the runs' own records."""
    costs = pd.read_csv(results / "costs.csv").merge(pd.read_csv(results / "runs.csv")[["fingerprint", "steps"]])
    # A GPU's runs have no threads.
    used = [" with 1 thread" if n == 1 else f" with {n:.0f} threads" if n == n else "" for n in costs["threads"]]
    sums = costs.groupby(costs["device"] + used)[["seconds", "steps"]].sum()
    took = "; ".join(
        f"{row.seconds / 3600:.1f} on {what} ({row.steps / row.seconds:,.0f} updates a second)" for what, row in sums.iterrows()
    )
    return f"{len(costs)} of {runs} training runs are finished; run-hours by their records: {took}.\n"


def speed(folder: Path) -> str:
    """What an update costs, with LayerNorm and without, with one thread and with all, and what planning does."""
    step, planning = (json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("step", "planning"))
    about, largest = step["about"], planning["seconds"][-1]
    norms = {"after": "LayerNorm", "none": "no LayerNorm"}
    columns = [f"{norms[found['norm']]}, {found['threads']} thread{'s' * (found['threads'] > 1)}" for found in step["steps"]]
    names = list(step["steps"][0]["milliseconds"])
    rows = [[f"{name}, ms" if name != "engine" else "**this engine**, ms"] for name in names]
    for row, name in zip(rows, names, strict=True):
        row += [f"{found['milliseconds'][name]:.1f}" for found in step["steps"]]
    for name in step["steps"][0]["ratios"]:
        rows.append([name, *(f"{found['ratios'][name]:.2f}" for found in step["steps"])])
    table = markdown(pd.DataFrame(rows, columns=[f"one update of {about['batch']:,} examples", *columns]))
    return (
        f"{table}\n{about['processor']}, PyTorch {about['versions']['torch']}, median of {about['updates']} updates. Planning "
        f"a study of {largest['runs']:,} runs (`snakemake -n`) takes {largest['planning']:.0f} seconds, its tables "
        f"{largest['tables']:.0f}.\n{gpu_speed(folder)}"
    )


def gpu_speed(folder: Path) -> str:
    """What a GPU makes of it."""
    found = json.loads((folder / "gpu.json").read_text(encoding="utf-8"))
    rates = found["run-steps per second"]
    (eager, first), *others = rates.items()
    told = ", ".join(f"{rate:,.0f} with {what} ({rate / first:.1f} times)" for what, rate in others)
    device, version = found["about"]["device"], found["about"]["versions"]["torch"]
    steps = found["5 seeds of one student"]["steps"]
    return (
        f"\nUpdates per second, summed over seeds, of a student at 35% on one {device} (PyTorch {version}, "
        f"`python benchmarks/gpu.py --steps {steps}`): {first:,.0f} with the textbook model in {eager}; this engine {told}.\n"
    )


def large_studies(folder: Path) -> str:
    """What studies of several sizes cost beside their training."""
    planning = json.loads((folder / "planning.json").read_text(encoding="utf-8"))
    shown = pd.DataFrame(planning["seconds"]).rename(columns={"planning": "`snakemake -n`", "figures": "seven figures"})
    shown["runs"] = shown["runs"].map("{:,}".format)
    return markdown(shown.round(1)) + f"\n{planning['about']['processor']}.\n"


def between(text: str, source: str, new: str, command: str = "make readme") -> str:
    """`text` with `new` in the block that says it was written from `source`."""
    start, end = f"<!-- written by `{command}` from {source} -->\n", f"<!-- end of what `{command}` wrote -->\n"
    before, found, rest = text.partition(start)
    if not found:
        raise SystemExit(f"no block from {source}")
    return before + start + new + end + rest.partition(end)[2]


if __name__ == "__main__":
    demo = ROOT / "docs" / "demo"
    demo.mkdir(parents=True, exist_ok=True)
    for name in ("claims.csv", "runs.csv", "figures/figure-1.png"):
        shutil.copyfile(ROOT / "results-quick" / name, demo / Path(name).name)
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    text = between(text, "results-quick/", demonstration(demo))
    text = between(text, "results/", grid(ROOT / "results"))
    text = between(text, "snakemake -n --forceall", jobs_table())
    readme.write_text(between(text, "benchmarks/results/", speed(ROOT / "benchmarks" / "results")), encoding="utf-8")
    scaling = ROOT / "docs" / "scaling.md"
    text = between(
        scaling.read_text(encoding="utf-8"), "benchmarks/results/planning.json", large_studies(ROOT / "benchmarks" / "results")
    )
    scaling.write_text(text, encoding="utf-8")
