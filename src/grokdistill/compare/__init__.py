"""What changed between two studies: the verdicts, then the measures, each run against the run of its cell and seed."""

from __future__ import annotations

from pathlib import Path

from grokdistill.compare.differences import CHANGED, Comparison, compare, compare_verdicts, table
from grokdistill.compare.picture import draw
from grokdistill.compare.studies import Study, read
from grokdistill.compare.text import report
from grokdistill.files import DamagedFile, write

__all__ = ["Comparison", "Study", "compare", "compare_verdicts", "draw", "read", "report", "table", "write_out"]


def write_out(found: Comparison, folder: Path) -> str:
    """Write `compare.csv`, `verdicts.csv` and, where there is something to draw, `curves.png`; same input, same bytes.

    Returns:
        What was written and, where no picture was, why not.
    """
    for name, frame in (("compare.csv", table(found)), ("verdicts.csv", found.verdicts)):
        write(folder / name, frame.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    picture = folder / "curves.png"
    picture.unlink(missing_ok=True)  # one of another comparison would pass for this one's
    reasons = [f"{side}: {study.no_curves}" for side, study in (("A", found.a), ("B", found.b)) if study.curves is None]
    if not found.of(CHANGED):
        reasons = ["no cell changed"]
    if not reasons:
        try:
            draw(found, picture)
        except DamagedFile as error:
            reasons = [str(error)]
    written = f"{folder}: compare.csv, verdicts.csv"
    return f"{written}; no curves.png: {'; '.join(reasons)}" if reasons else f"{written}, curves.png"
