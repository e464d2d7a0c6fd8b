"""Write the demo's runs, claims and figure into the README: `make readme`, after `make demo`."""

import shutil
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
START, END = "<!-- written by `make readme` from results-quick/ -->\n", "<!-- end of what `make readme` wrote -->\n"


def markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown; numbers to the right."""
    kinds = ["---:" if pd.api.types.is_numeric_dtype(frame[name]) else "---" for name in frame]
    rows = [list(frame), kinds, *frame.astype(object).where(frame.notna(), "").to_numpy().tolist()]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def runs_table(path: Path) -> str:
    """What became of every run."""
    runs = pd.read_csv(path, dtype={"t_mem": "Int64", "t_grok": "Int64"})
    for name in ("final_test_acc", "final_p1_acc"):
        runs[name] = runs[name].round(3)
    return markdown(runs[["stage", "name", "status", "t_mem", "t_grok", "final_test_acc", "final_p1_acc"]])


def claims_table(path: Path) -> str:
    """Claims that were judged, as a Markdown table, and how many were not run."""
    claims = pd.read_csv(path, keep_default_na=False)
    judged = claims[claims["verdict"] != "not run"]
    rest = f"{len(claims) - len(judged)} further claims need runs that the demo does not make."
    return markdown(judged[["claim", "statement", "measured", "n", "verdict"]]) + f"\n{rest}\n"


if __name__ == "__main__":
    demo = ROOT / "docs" / "demo"
    demo.mkdir(parents=True, exist_ok=True)
    for name in ("claims.csv", "runs.csv", "figures/figure-1.png"):
        shutil.copyfile(ROOT / "results-quick" / name, demo / Path(name).name)
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    readme.write_text(
        before + START + runs_table(demo / "runs.csv") + "\n" + claims_table(demo / "claims.csv") + END + after,
        encoding="utf-8",
    )
