"""A study to compare, read from a commit or from a results folder."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

from grokdistill.files import DamagedFile
from grokdistill.publish import CURVES, read_curves, read_runs
from grokdistill.readings import CELL, Curves
from grokdistill.summary import COLUMNS

RUNS, CLAIMS = "runs.csv", "claims.csv"
CELL_COLUMNS = [*CELL, "variant"]
KEY = [*CELL_COLUMNS, "seed"]
SETTINGS = ["loss", "alpha", "temperature", "position"]
OUTCOME = list(COLUMNS[COLUMNS.index("steps") : COLUMNS.index("fingerprint")])
TEXTS = {"stage", "name", "variant", "op", "optimizer", "method", "loss", "temperature", "position", "status", "fingerprint"}


@dataclass(frozen=True)
class Study:
    """One side of a comparison.

    Attributes:
        title: what it was asked for by, and the commit.
        runs: its `runs.csv`, with a number for every measure.
        claims: its `claims.csv`, all texts.
        curves: its `curves.parquet`; None where it was not asked for or cannot be read.
        no_curves: why there are none, else empty.
    """

    title: str
    runs: pd.DataFrame
    claims: pd.DataFrame
    curves: Curves | None
    no_curves: str


def read(what: str, results: Path = Path("results"), *, with_curves: bool = False) -> Study:
    """A study by a results folder, or by a commit, tag, branch or DVC experiment of the repository that one works in.

    Args:
        what: a folder that holds `runs.csv`, else anything that names a commit.
        results: the results folder inside a commit, relative to the working folder.
        with_curves: whether to read the curves, too.

    Raises:
        DamagedFile: where there is no such study, or its runs or claims are missing or unreadable. Missing curves are no error.
    """
    if (Path(what) / RUNS).is_file():
        return _read_folder(Path(what), what, what, with_curves)
    commit = _commit(what)
    if commit is None:
        raise DamagedFile(
            f"{what}: git knows no such commit or experiment here, and there is no folder with {Path(what) / RUNS}"
        )
    with TemporaryDirectory() as name:
        for file in (RUNS, CLAIMS, CURVES) if with_curves else (RUNS, CLAIMS):
            content = _git("show", f"{commit}:./{(results / file).as_posix()}")
            if content is not None:
                (Path(name) / file).write_bytes(content)
        return _read_folder(Path(name), f"{what}:{results.as_posix()}", f"{what} ({commit[:8]})", with_curves)


def _read_folder(folder: Path, place: str, title: str, with_curves: bool) -> Study:
    """The study in a folder, which may be a copy; messages call it `place`."""
    for name in (RUNS, CLAIMS):
        if not (folder / name).is_file():
            raise DamagedFile(f"{place}/{name}: there is no such file")
    try:
        runs = _checked(read_runs(folder), folder / RUNS)
        claims = pd.read_csv(folder / CLAIMS, dtype=str, keep_default_na=False)[["claim", "figure", "verdict", "measured"]]
    except DamagedFile as error:
        raise DamagedFile(str(error).replace(str(folder), place)) from None
    except (OSError, ValueError, KeyError) as error:
        raise DamagedFile(f"{place}/{CLAIMS}: unreadable ({error}); make it anew with `snakemake claims`") from None
    if not with_curves:
        return Study(title, runs, claims, None, "they were not asked for")
    if not (folder / CURVES).is_file():
        return Study(title, runs, claims, None, f"{place}/{CURVES}: there is no such file")
    try:
        return Study(title, runs, claims, read_curves(folder), "")
    except DamagedFile as error:
        return Study(title, runs, claims, None, str(error).replace(str(folder), place))


def _checked(runs: pd.DataFrame, path: Path) -> pd.DataFrame:
    """What is compared of a table of runs, one run per cell and seed, with numbers where numbers belong."""
    columns = [*KEY, "name", "fingerprint", *SETTINGS, *OUTCOME]
    if lacking := [column for column in columns if column not in runs]:
        raise DamagedFile(f"{path}: lacks {', '.join(lacking)}; make it anew with `snakemake tables`")
    try:
        # An empty column, or an empty table, would pair with no number.
        numbers = runs[columns].astype({column: float for column in columns if column not in TEXTS} | {"seed": int})
    except ValueError as error:
        raise DamagedFile(f"{path}: unreadable ({error}); make it anew with `snakemake tables`") from None
    if (twice := numbers.duplicated(KEY)).any():
        raise DamagedFile(f"{path}: several runs of one cell and seed, such as {numbers['name'][twice].iloc[0]}")
    return numbers


def _commit(what: str) -> str | None:
    """The commit of that name; None where there is none."""
    found = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{what}^{{commit}}")
    if found is not None:
        return found.decode().strip()
    # DVC keeps an experiment under the commit that it started from, where git does not look for names.
    listed = _git("for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{what}") or b""
    commits = set(listed.decode().split())
    if len(commits) > 1:
        raise DamagedFile(f"{what}: {len(commits)} experiments have that name; name one by its commit (`dvc exp show -A`)")
    return commits.pop() if commits else None


def _git(*arguments: str) -> bytes | None:
    """What git says; None where it fails."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise DamagedFile("git: not installed; only results folders can be compared") from None
    return done.stdout if done.returncode == 0 else None
