"""Write the demo's claims and figure into the README: `make readme`, after `make demo`."""

import shutil
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
START, END = "<!-- claims: written by `make readme` from results-quick/claims.csv -->\n", "<!-- end of claims -->\n"


def claims_table(path: Path) -> str:
    """Claims that were judged, as a Markdown table, and how many were not run."""
    claims = pd.read_csv(path, keep_default_na=False)
    judged = claims[claims["verdict"] != "not run"]
    columns = ["claim", "measured", "n", "verdict"]
    lines = ["| " + " | ".join(columns) + " |", "|---|---|---:|---|"]
    for _, row in judged.iterrows():
        lines.append("| " + " | ".join(str(row[name]).replace("|", "\\|") for name in columns) + " |")
    return "\n".join(lines) + f"\n\n{len(claims) - len(judged)} further claims need runs that the demo does not make.\n"


if __name__ == "__main__":
    demo = ROOT / "docs" / "demo"
    demo.mkdir(parents=True, exist_ok=True)
    for name in ("claims.csv", "runs.csv", "figures/figure-1.png"):
        shutil.copyfile(ROOT / "results-quick" / name, demo / Path(name).name)
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    readme.write_text(before + START + claims_table(demo / "claims.csv") + END + after, encoding="utf-8")
