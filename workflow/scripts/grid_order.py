"""In which order to train the paper's grid where it takes many hours, by what each run adds to the verdicts.

    python workflow/scripts/grid_order.py           writes docs/grid-order.md
    python workflow/scripts/grid_order.py --next    prints what `snakemake -- ...` is to make next; `make grid` goes on so
    python workflow/scripts/grid_order.py --left    prints the fingerprints of all that is left, for `grokdistill train`

The latter two first take into the store what git brought.

A step is a claim, and its runs are those that the claim still lacks, with all that they are made from. First come the claims
that the paper is about, with the seeds that a verdict needs; then always the one that takes least, first with one seed, then
with as many as it needs, at last all the rest. Costs are seconds per example and stage, from the records of
`config/readings-after.yaml`.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import pandas as pd
from update_readme import ROOT, between, markdown

from grokdistill import summary
from grokdistill.adopt import adopt
from grokdistill.batches import batches_per_epoch
from grokdistill.claims import load_claims, needed
from grokdistill.config import RunConfig
from grokdistill.data import train_size
from grokdistill.params import read, validate
from grokdistill.plan import Plan, write_plan
from grokdistill.runs import enumerate_runs
from grokdistill.store import DONE, read_record

HEADLINE = ("distilled-20", "scratch-20-never")
PAGE = ROOT / "docs" / "grid-order.md"


class Step(NamedTuple):
    """A claim's share of the grid: the runs that it still lacks, by fingerprint, parents first."""

    claim: str
    seeds: int
    runs: list[str]


def work(config: RunConfig) -> float:
    """Examples that a run sees in training."""
    of = ((config.p1, config.p1_fraction), (config.p2, config.fraction))
    examples = sum(train_size(prime, fraction) for prime, fraction in of if prime and fraction)
    return config.steps * min(config.batch_size, examples / batches_per_epoch(examples, config.batch_size, "keep"))


def rates() -> dict[str, float]:
    """Seconds of one thread per example, by stage: medians over the records of the readings."""
    found: dict[str, list[float]] = {}
    for path in sorted((ROOT / "results-readings-after" / "records").glob("*/*.json")):
        record = read_record(path)
        config = RunConfig.model_validate(record["config"])
        found.setdefault(config.stage, []).append(record["execution"]["seconds"] / work(config))
    return {stage: median(values) for stage, values in found.items()}


def steps(plan: Plan, runs: pd.DataFrame, hours: dict[str, float]) -> Iterator[Step]:
    """The order. `runs` says what each run is, indexed by fingerprint; `hours` what it costs."""
    claims = {claim.id: claim for claim in load_claims(plan.params.paths.claims)}
    asked = {name: needed(claim, runs, plan.params.primes.pair) for name, claim in claims.items()}
    done: set[str] = set()

    def lacking(keys: list[str]) -> list[str]:
        found: dict[str, None] = {}
        for key in keys:
            parents = plan.entries[key]["parents"].values()
            for one in (*lacking([other for other in parents if other in hours]), key):
                if one not in done:
                    found[one] = None
        return list(found)

    def wanted(name: str, seeds: int) -> list[str]:
        return lacking(list(runs.index[asked[name] & runs["seed"].isin(plan.params.seeds[:seeds])]))

    enough = {name: claim.min_n for name, claim in claims.items()}

    def take(name: str, seeds: int) -> Step:
        found = wanted(name, seeds)
        done.update(found)
        return Step(name, seeds if wanted(name, enough[name]) else enough[name], found)

    settled: set[str] = set()
    for name in HEADLINE:
        yield take(name, enough[name])
        settled.add(name)
        decided = [other for other in claims if other not in settled and not wanted(other, enough[other])]
        yield from (take(other, enough[other]) for other in decided)
        settled.update(decided)
    for most in (1, max(enough.values())):
        left = [name for name in claims if name not in settled]
        while left:
            name = min(left, key=lambda name: sum(hours[key] for key in wanted(name, min(most, enough[name]))))
            left.remove(name)
            step = take(name, min(most, enough[name]))
            if step.seeds == enough[name]:
                settled.add(name)
            yield step
    if rest := lacking(list(runs.index)):
        yield Step("", len(plan.params.seeds), rest)


class Grid(NamedTuple):
    """The study of params.yaml, what each training run costs in hours of one thread, and the order."""

    plan: Plan
    hours: dict[str, float]
    order: list[Step]


def grid() -> Grid:
    """The paper's grid in order."""
    plan = Plan.load(write_plan(enumerate_runs(validate(read([ROOT / "params.yaml"])))))
    trained = [plan.run(key) for key, entry in plan.entries.items() if entry["stage"] != "datasets"]
    runs = pd.DataFrame([summary.described(plan, run) for run in trained], index=[run.fingerprint for run in trained])
    rate = rates()
    hours = {run.fingerprint: work(run.config) * rate[run.stage] / 3600 for run in trained}
    return Grid(plan, hours, list(steps(plan, runs, hours)))


def text() -> str:
    """docs/grid-order.md with its table; claims that need no further run stand with the step that decides them."""
    _, hours, order = grid()
    rows, total = [], 0.0
    for step in order:
        name = f"`{step.claim}`" if step.claim else "no claim"
        if step.runs:
            cost = sum(hours[key] for key in step.runs)
            total += cost
            rows.append([step.seeds, name, len(step.runs), f"{cost:.1f}", f"{total:.1f}"])
        else:
            rows[-1][1] += f", {name}"
    table = pd.DataFrame(rows, columns=["seeds", "is for", "runs", "hours", "hours so far"])
    page = PAGE.read_text(encoding="utf-8")
    return between(page, "params.yaml and data/paper/claims.yaml", markdown(table), "make readme")


def unfinished(models: bool) -> Iterator[tuple[Step, dict[str, Path]]]:
    """The steps that are not finished, with the marker of each run that they lack.

    A run whose record git brought is finished; with `models`, not where its model is needed for others and is not here.
    """
    plan, _, order = grid()
    if refused := adopt(plan, plan.results, models).refused:
        sys.exit("\n  ".join(["these are not what they say:", *refused]))
    for step in order:
        stages = {key: plan.entries[key]["stage"] for key in step.runs}
        left = [key for key, stage in stages.items() if not plan.store.complete(stage, key)]
        if left:
            yield step, {key: plan.store.folder(stages[key], key) / DONE for key in left}


def show_next() -> None:
    """Print the markers of the first step that is not finished; nothing where all are. Snakemake trains again what it needs."""
    for step, left in unfinished(models=False):
        print("\n".join(path.as_posix() for path in left.values()))
        print(f"== {step.claim or 'the rest'}, {step.seeds} seed(s): {len(left)} runs", file=sys.stderr)
        return


if __name__ == "__main__":
    if sys.argv[1:] == ["--next"]:
        show_next()
    elif sys.argv[1:] == ["--left"]:
        print("\n".join(key for _, left in unfinished(models=True) for key in left))
    else:
        PAGE.write_text(text(), encoding="utf-8")
