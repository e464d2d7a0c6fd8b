"""Write what the studies of the readings found into docs/readings.md and docs/readings/: `make readings` trains them first."""

import shutil

import pandas as pd
from update_readme import ROOT, between, markdown

from grokdistill.figures import covered_share, same_answer_share
from grokdistill.readings import PARTS, cell_name, ranked_accuracy
from grokdistill.summary import cell_of, over_seeds

KEPT = ROOT / "docs" / "readings"
STUDIES = sorted(path.stem for path in (ROOT / "config").glob("readings*.yaml"))


def worded(found: pd.DataFrame) -> pd.DataFrame:
    """The table of readings with its cells, readings and lengths as texts, and the accuracy that a reading is ranked by."""
    return found.assign(
        cell=found.apply(cell_name, axis=1).str.replace("\n", " "),
        reading=found["reading"].str.replace(",", ", "),
        steps=found["steps"].map("{:,}".format),
        grokked=found["grokked"].astype(str) + " of " + found["n"].astype(str),
        accuracy=ranked_accuracy(found, "test_acc", "p1_acc"),
    )


def comparison(found: pd.DataFrame) -> str:
    """A study's readings, best first, a column per cell: median final accuracy, seeds that grokked, median step at which."""
    shown = worded(found)
    shown["text"] = shown["accuracy"].map("{:.2f}".format) + "; " + shown["grokked"]
    shown["text"] += shown["t_grok"].astype(object).map("; {:,}".format, na_action="ignore").fillna("")
    order = shown.groupby(["reading", "steps"])["accuracy"].mean().sort_values(ascending=False, kind="stable").index
    wide = shown.pivot(index=["reading", "steps"], columns="cell", values="text").reindex(order)[
        list(dict.fromkeys(shown["cell"]))
    ]
    return markdown(wide.fillna("").reset_index())


def two_primes(found: pd.DataFrame) -> str:
    """Readings of a stage that knows both primes, best first: final accuracies (medians), p1's also on parts of its pairs."""
    shown = worded(found).assign(worse=found[["test_acc", "p1_acc"]].min(axis=1))
    names = {"test_acc": "p2", "p1_acc": "p1"} | {name: name.removesuffix("_acc").replace("_", " ") for name in PARTS[2:]}
    names = {name: label for name, label in names.items() if found[name].notna().any()}
    shown[list(names)] = shown[list(names)].apply(lambda column: column.map("{:.2f}".format, na_action="ignore"))
    columns = ["cell", "reading", "steps", "grokked", "t_grok", *names]
    return markdown(shown.sort_values(["cell", "worse"], ascending=[True, False], kind="stable")[columns].rename(columns=names))


def comparisons(found: pd.DataFrame) -> list[str]:
    """A table of readings for each stage and method."""
    groups = found.groupby(["stage", "method"], sort=False)
    return [two_primes(own) if stage in ("joint", "continual") else comparison(own) for (stage, _), own in groups]


def outcomes(runs: pd.DataFrame) -> str:
    """What came of the default: a line per run, or per cell where there are several seeds."""
    runs = runs[runs["variant"] == ""]
    if runs["seed"].nunique() > 1:
        return markdown(over_seeds(runs.assign(cell=cell_of(runs["name"])), ["cell", "steps"]).round(3))
    names = ["stage", "name", "steps", "status", "t_mem", "t_grok", "final_test_acc", "final_p1_acc", "norm_start", "norm_end"]
    shown = runs[names].dropna(axis="columns", how="all")
    return markdown(shown.round({"final_test_acc": 3, "final_p1_acc": 3, "norm_start": 1, "norm_end": 1}))


def bounds(runs: pd.DataFrame) -> str:
    """What a continual run's accuracy on p1 is to be held against, by counting pairs."""
    p1, p2 = (int(value) for value in runs.loc[runs["stage"] == "continual", ["p1", "p2"]].iloc[0])
    same = " and ".join(f"{same_answer_share(p1, p2, op):.4f} ({op})" for op in ("add", "sub"))
    covered = f", and {covered_share(p1, p2):.3f} are pairs of {p2} too" if p2 < p1 else ""
    return f"Of the pairs of {p1}, {same} have the same answer under {p2}{covered}.\n"


def written(name: str) -> str:
    """What a study's results say, as Markdown."""
    results = ROOT / f"results-{name}"
    costs, runs = (pd.read_csv(results / f"{table}.csv", dtype={"variant": str}) for table in ("costs", "runs"))
    machine = ", ".join(sorted(costs["device"].unique()))
    text = [f"{len(costs)} runs, {costs['seconds'].sum() / 3600:.1f} hours of one thread ({machine}).\n"]
    found = pd.read_csv(results / "readings.csv", dtype={"t_grok": "Int64"})
    if (runs["stage"] == "continual").any():
        text.append(bounds(runs))
    text += comparisons(found)
    text.append(outcomes(runs.astype({"t_mem": "Int64", "t_grok": "Int64"}).fillna({"variant": ""})))
    shutil.copyfile(results / "readings.csv", KEPT / f"{name}.csv")
    shutil.copyfile(results / "figures" / "readings-curves.png", KEPT / f"{name}.png")
    return "\n".join(text)


if __name__ == "__main__":
    KEPT.mkdir(exist_ok=True)
    page = ROOT / "docs" / "readings.md"
    text = page.read_text(encoding="utf-8")
    for name in STUDIES:
        text = between(text, f"results-{name}/", written(name), "make readings")
    page.write_text(text, encoding="utf-8")
