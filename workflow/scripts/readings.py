"""Write what `results-readings/` holds into docs/readings.md and docs/readings/: `make readings`, which trains it first."""

import shutil

import pandas as pd
from update_readme import ROOT, between, markdown

RESULTS, KEPT = ROOT / "results-readings", ROOT / "docs" / "readings"
TITLES = {
    "teachers": "Teachers",
    "baselines": "From scratch",
    "students": "Students",
    "joint": "f_M",
    "continual": "Continual runs",
}


def table(found: pd.DataFrame) -> str:
    """A stage's readings, best first, a column per cell: median final accuracy, seeds that grokked, median step at which."""
    joint = found["stage"] == "joint"
    accuracy = found["test_acc"].where(~joint, found[["test_acc", "p1_acc"]].min(axis=1))
    text = accuracy.map("{:.2f}".format)
    held = "; p1 " + found["p1_acc"].map("{:.2f}".format) + ", uncovered " + found["p1_uncovered_acc"].map("{:.2f}".format)
    text += held.where(found["stage"] == "continual", "")
    text += "; " + found["grokked"].astype(str) + " of " + found["n"].astype(str)
    text += found["t_grok"].map("; {:,}".format, na_action="ignore").fillna("")
    percents = found["fraction"].map("{:.0%}".format)
    percents = percents.where(~joint, found["p1_fraction"].map("{:.0%}".format, na_action="ignore") + "+" + percents)
    method = found["method"].where(found["method"] == "supervised", "")
    cells = (found["op"] + " " + found["optimizer"] + " " + method + " " + percents).str.replace("  ", " ")
    steps = found["steps"].map("{:,}".format)
    shown = found.assign(reading=found["reading"].str.replace(",", ", "), steps=steps, cell=cells, text=text, accuracy=accuracy)
    order = shown.groupby(["reading", "steps"])["accuracy"].mean().sort_values(ascending=False, kind="stable").index
    wide = shown.pivot(index=["reading", "steps"], columns="cell", values="text").reindex(order)[list(dict.fromkeys(cells))]
    return markdown(wide.fillna("").reset_index())


def cost(stage: str) -> str:
    """What a stage's runs took, in words."""
    costs = pd.read_csv(RESULTS / "costs.csv").query("stage == @stage")
    processors = ", ".join(sorted(costs["device"].unique()))
    return f"{len(costs)} runs, {costs['seconds'].sum() / 3600:.1f} hours of one thread ({processors}).\n"


if __name__ == "__main__":
    KEPT.mkdir(exist_ok=True)
    for picture in ("readings", "readings-curves"):
        shutil.copyfile(RESULTS / "figures" / f"{picture}.png", KEPT / f"{picture}.png")
    shutil.copyfile(RESULTS / "readings.csv", KEPT / "readings.csv")
    found = pd.read_csv(KEPT / "readings.csv", dtype={"t_grok": "Int64"})
    new = "".join(f"\n### {TITLES[stage]}\n\n{cost(stage)}\n{table(own)}" for stage, own in found.groupby("stage", sort=False))
    page = ROOT / "docs" / "readings.md"
    page.write_text(between(page.read_text(encoding="utf-8"), "results-readings/", new, "make readings"), encoding="utf-8")
