"""Run the ablation of what the paper leaves open, and keep what came out in docs/readings/: `make readings`.

A round is a file of parameters in config/readings/ whose first line says what it asks. Rounds share a store: each trains only
what no earlier one did, and one that was stopped goes on where it stood.
"""

import argparse
import shutil
import subprocess

import pandas as pd
from update_readme import ROOT, between, markdown

ROUNDS, RESULTS, KEPT = ROOT / "config" / "readings", ROOT / "results-readings", ROOT / "docs" / "readings"
PICTURES = ("readings", "readings-curves")


def run(name: str) -> None:
    """Train and compare what a round asks for."""
    overlay = ROUNDS / f"{name}.yaml"
    subprocess.run(
        ["snakemake", "--cores", "2", "--resources", "gpu=2", "--configfile", overlay, "--", "readings"], cwd=ROOT, check=True
    )
    KEPT.mkdir(exist_ok=True)
    shutil.copyfile(RESULTS / "readings.csv", KEPT / f"{name}.csv")
    for picture in PICTURES:
        shutil.copyfile(RESULTS / "figures" / f"{picture}.png", KEPT / f"{name}{picture.removeprefix('readings')}.png")
    runs, costs = (pd.read_csv(RESULTS / f"{table}.csv") for table in ("runs", "costs"))
    trained = {
        "round": name,
        "question": overlay.read_text(encoding="utf-8").splitlines()[0].lstrip("# "),
        "runs": len(runs),
        "seeds": " ".join(map(str, sorted(runs["seed"].unique()))),
        "updates": runs["steps"].sum(),
        "hours": round(costs["seconds"].sum() / 3600, 2),
    }
    listed = KEPT / "rounds.csv"
    before = pd.read_csv(listed) if listed.is_file() else pd.DataFrame(columns=list(trained))
    rounds = pd.concat([before[before["round"] != name], pd.DataFrame([trained])])
    rounds.to_csv(listed, index=False, lineterminator="\n")


def rounds_table() -> str:
    """What each round asked and took, its teachers and baselines included."""
    rounds = pd.read_csv(KEPT / "rounds.csv")
    return markdown(rounds.assign(updates=rounds["updates"].map("{:,}".format)).rename(columns={"hours": "run-hours"}))


def round_table(name: str) -> str:
    """A round's readings, best first, a column per cell: median final accuracy, seeds that grokked, median step at which."""
    found = pd.read_csv(KEPT / f"{name}.csv", dtype={"t_grok": "Int64"}, keep_default_na=False, na_values=[""])
    joint = found["stage"] == "joint"
    accuracy = found["test_acc"].where(~joint, found[["test_acc", "p1_acc"]].min(axis=1))
    text = accuracy.map("{:.2f}".format)
    held = "; p1 " + found["p1_acc"].map("{:.2f}".format) + ", uncovered " + found["p1_uncovered_acc"].map("{:.2f}".format)
    text += held.where(found["stage"] == "continual", "")
    text += "; " + found["grokked"].astype(str) + " of " + found["n"].astype(str)
    text += found["t_grok"].map("; {:,}".format, na_action="ignore").fillna("")
    percents = found["fraction"].map("{:.0%}".format)
    percents = percents.where(~joint, found["p1_fraction"].map("{:.0%}".format, na_action="ignore") + "+" + percents)
    pairs = found["p1"].astype(str) + " to " + found["p2"].astype(str) + " "
    cells = (
        found["op"]
        + " "
        + found["optimizer"]
        + " "
        + found["method"].where(found["method"] != "distilled", "")
        + " "
        + percents
    )
    cells = (pairs.where(pairs.nunique() > 1, "") + cells).str.replace("  ", " ")
    shown = found.assign(
        reading=found["reading"].str.replace(",", ", "), steps=found["steps"].map("{:,}".format), cell=cells, text=text
    )
    order = shown.assign(accuracy=accuracy).groupby(["reading", "steps"])["accuracy"].mean().sort_values(ascending=False).index
    wide = shown.pivot(index=["reading", "steps"], columns="cell", values="text").reindex(order)[list(dict.fromkeys(cells))]
    return markdown(wide.fillna("").reset_index())


if __name__ == "__main__":
    known = sorted(path.stem for path in ROUNDS.glob("*.yaml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rounds", nargs="*", metavar="ROUND", help=f"which; all if none is given: {', '.join(known)}")
    chosen = parser.parse_args().rounds or known
    if unknown := [name for name in chosen if name not in known]:
        parser.error(f"no config/readings/{unknown[0]}.yaml; there are: {', '.join(known)}")
    for name in chosen:
        run(name)
    page = ROOT / "docs" / "readings.md"
    text = between(page.read_text(encoding="utf-8"), "docs/readings/rounds.csv", rounds_table(), "make readings")
    for name in (path.stem for path in KEPT.glob("*.csv") if path.stem != "rounds"):
        text = between(text, f"docs/readings/{name}.csv", round_table(name), "make readings")
    page.write_text(text, encoding="utf-8")
