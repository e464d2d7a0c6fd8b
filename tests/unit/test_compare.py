"""Two studies side by side, on rows written by hand, from folders and from a real git repository."""

from __future__ import annotations

import os
import subprocess
import sys
from math import nan
from pathlib import Path

import pandas as pd
import pytest

from grokdistill.cli import main
from grokdistill.compare import Comparison, Study, compare, compare_verdicts, draw, picture, read, report, table
from grokdistill.files import DamagedFile
from grokdistill.summary import COLUMNS

CLAIMS = pd.DataFrame(
    [
        {"claim": "sooner", "figure": "3", "verdict": "reproduced", "measured": "sooner: 1.5x"},
        {"claim": "groks", "figure": "", "verdict": "partly", "measured": "groks: 2/3"},
    ]
)


def row(seed: int = 0, **more: object) -> dict:
    """A student that grokked, unless told otherwise."""
    cell = {"stage": "students", "variant": "", "op": "add", "p1": 113, "p2": 107, "p1_fraction": None, "fraction": 0.2}
    cell |= {"optimizer": "adamw", "method": "distilled", "loss": "stablemax", "alpha": 0.9}
    outcome = {"steps": 3000, "status": "grokked", "t_mem": 500, "t_grok": 1000, "final_test_acc": 0.98, "norm_end": 50.0}
    found = dict.fromkeys(COLUMNS) | cell | outcome | {"seed": seed} | more
    name = "-".join(str(found[key]) for key in ("stage", "op", "fraction", "method", "variant", "seed"))
    return found | {"name": name, "fingerprint": more.get("fingerprint", f"print of {name}")}


def changed(seed: int = 0, **more: object) -> dict:
    """The same run made by another recipe."""
    return row(seed, **{"fingerprint": f"another {seed}"} | more)


CENSORED = {"status": "censored", "t_grok": None}


def write_study(folder: Path, rows: list[dict], claims: pd.DataFrame = CLAIMS, rise: int | None = 1000) -> Path:
    """A results folder; its curves rise at step `rise`, and are left out where that is None."""
    folder.mkdir(parents=True)
    pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(folder / "runs.csv", index=False)
    claims.to_csv(folder / "claims.csv", index=False)
    if rise is not None:
        steps = [0, 500, 1000, 1500]
        accuracy = [float(step >= rise) for step in steps]
        curves = [pd.DataFrame({"stage": r["stage"], "name": r["name"], "step": steps, "test_acc": accuracy}) for r in rows]
        pd.concat(curves).to_parquet(folder / "curves.parquet", index=False)
    return folder


@pytest.fixture
def study(tmp_path):
    """Reads rows as a study, by way of a folder."""
    made = []

    def make(*rows: dict, claims: pd.DataFrame = CLAIMS) -> Study:
        made.append(write_study(tmp_path / f"study{len(made)}", list(rows), claims, rise=None))
        return read(str(made[-1]))

    return make


def measured(found: Comparison, measure: str) -> pd.Series:
    """The one cell's row of a measure."""
    (result,) = table(found).query("measure == @measure").to_dict("records")
    return pd.Series(result)


def test_the_difference_is_the_median_over_pairs_of_one_seed(study):
    a = study(*(row(seed, final_test_acc=accuracy) for seed, accuracy in enumerate((0.5, 0.6, 0.9))))
    b = study(*(changed(seed, final_test_acc=accuracy) for seed, accuracy in ((2, 0.8), (1, 0.9), (0, 0.6))))
    found = measured(compare(a, b), "final_test_acc")
    assert (found["n"], found["pairs"], found["state"]) == (3, 3, "changed")
    assert found["difference"] == pytest.approx(0.1)  # the difference of the medians would be 0.2
    assert [found["low"], found["high"]] == pytest.approx([-0.1, 0.3])
    assert [found["median_a"], found["median_b"]] == pytest.approx([0.6, 0.8])
    assert "+0.100 (-0.100 to +0.300)" in report(compare(a, b))


@pytest.mark.parametrize(
    ("a", "b", "counted"),
    [
        ({"t_grok": 1000}, {"t_grok": 400}, "n"),
        (CENSORED, {"t_grok": 3000}, "sooner"),
        ({"t_grok": 3000}, CENSORED, "later"),
        (CENSORED, CENSORED | {"final_test_acc": 0.1}, "unknown"),
        (CENSORED | {"steps": 900}, {"t_grok": 1000}, "unknown"),  # A had ended before
        ({"t_grok": 1000}, {"t_grok": None, "status": "diverged", "steps": 300}, "unknown"),
    ],
)
def test_a_censored_run_has_no_number(study, a, b, counted):
    found = measured(compare(study(row(**a)), study(changed(**b))), "t_grok")
    assert {name: found[name] for name in ("n", "sooner", "later", "unknown")} == {
        name: int(name == counted) for name in ("n", "sooner", "later", "unknown")
    }
    assert found["difference"] == pytest.approx(-600 if counted == "n" else nan, nan_ok=True)


def test_censored_pairs_stand_beside_the_median_of_the_others(study):
    a = study(row(0), row(1), row(2, **CENSORED), row(3, **CENSORED))
    b = study(changed(0, t_grok=1200), changed(1, t_grok=900), changed(2), changed(3, **CENSORED))
    assert "+50 (-100 to +200) of 2, 1 sooner, 1 unknown" in report(compare(a, b))
    assert "2 -> 3" in report(compare(a, b))


def test_runs_are_paired_within_their_cell(study):
    """Cells that differ in one column alone, also in one that is empty, are two."""
    cells = [{}, {"p1_fraction": 0.35}, {"variant": "alpha=0.5"}, {"op": "sub"}, {"p1": 97}, {"method": "scratch"}]
    a = study(*(row(fingerprint=f"a{place}", **cell) for place, cell in enumerate(cells)))
    b = study(
        *(row(fingerprint=f"b{place}", norm_end=50.0 + place, **cell) for place, cell in reversed(list(enumerate(cells))))
    )
    found = table(compare(a, b)).query("measure == 'norm_end'")
    assert found["difference"].tolist() == [0, 1, 2, 3, 4, 5]
    assert found["state"].tolist() == ["made anew", *["changed"] * 5]


def test_cells_of_identical_runs_are_counted_and_not_listed(study):
    a = study(row(0), row(1), row(0, op="sub"))
    b = study(row(0), row(1), changed(0, op="sub", norm_end=60.0))
    text = report(compare(a, b))
    assert "sub adamw 20% distilled" in text
    assert "add adamw" not in text
    assert text.endswith("2 cells: 1 changed, 1 same")


def test_a_cell_made_anew_with_the_same_outcome_is_named_apart(study):
    a, b = study(row(0), row(0, op="sub")), study(row(0), changed(0, op="sub"))
    text = report(compare(a, b))
    assert "made anew, with the same outcome: students 113-107: sub adamw 20% distilled" in text
    assert "measures that changed" not in text
    assert "nothing differs" not in text


def test_one_fingerprint_with_two_outcomes_is_a_change(study):
    """As after another threshold, which trains nothing."""
    text = report(compare(study(row()), study(row(t_grok=1300))))
    assert "the same fingerprints: evaluated otherwise" in text
    assert "+300" in text


def test_a_change_that_no_column_shows_is_named(study):
    lines = report(compare(study(row()), study(row(t_mem=700)))).splitlines()
    assert lines[6].split()[-5:] == ["final_test_acc", "t_grok", "norm_end", "differs", "in"]
    assert lines[7].split()[-4:] == ["same", "same", "same", "t_mem"]


def test_settings_that_changed_head_their_cells(study):
    text = report(compare(study(row(), row(1)), study(changed(alpha=0.5, t_grok=900), changed(1, alpha=0.5))))
    assert "students 113-107, alpha 0.9 -> 0.5\n" in text


def test_cells_and_seeds_of_one_side_are_listed(study):
    a = study(row(0), row(1), row(0, op="sub"), row(0, fraction=0.1))
    b = study(row(0), row(4), row(5), row(0, fraction=0.3), row(7, fraction=0.1))
    found = compare(a, b)
    text = report(found)
    assert "only in A, of cells that both have, seed 1: students 113-107: add adamw 20% distilled" in text
    assert "only in B, of cells that both have, seeds 4 5: students 113-107: add adamw 20% distilled" in text
    assert "only in A, cells with seed 0: students 113-107: sub adamw 20% distilled" in text
    assert "only in B, cells with seed 0: students 113-107: add adamw 30% distilled" in text
    assert [cell.state for cell in found.cells] == ["same", "only in A", "without a common seed", "only in B"]
    assert "runs without a partner: 3 only in A, 4 only in B" in text.splitlines()[-1]
    seeds = table(found).query("measure == 't_grok'")[["only_a", "only_b"]]
    assert seeds.values.tolist() == [["1", "4 5"], ["0", ""], ["0", "7"], ["", "0"]]


def test_all_cells_of_a_stage_are_not_listed_one_by_one(study):
    cells = [{"fraction": fraction} for fraction in (0.1, 0.2, 0.3)]
    a, b = (study(*(row(seed, **cell) for cell in cells for seed in seeds)) for seeds in ([0], [0, 1]))
    assert "seed 1: students 113-107: all 3 cells\n" in report(compare(a, b))


def test_nothing_differs(study):
    text = report(compare(study(row(0), row(1)), study(row(1), row(0))))
    assert text.splitlines()[2:] == ["", "nothing differs: 2 runs in 1 cell and 2 verdicts are the same"]


@pytest.mark.parametrize(
    "other",
    [
        {"rows": [row(0, norm_end=50.1)]},
        {"rows": [changed(0)]},
        {"rows": [row(0), row(1)]},
        {"rows": []},
        {"claims": CLAIMS[:1]},
        {"claims": CLAIMS.assign(measured="otherwise")},
    ],
)
def test_whatever_differs_is_not_nothing(study, other):
    b = study(*other.get("rows", [row(0)]), claims=other.get("claims", CLAIMS))
    assert "nothing differs" not in report(compare(study(row(0)), b))
    assert "nothing differs" not in report(compare(b, study(row(0))))


def test_verdicts_come_first_and_in_the_order_of_the_claims(study):
    b = CLAIMS.assign(verdict=["partly", "partly"], measured=["sooner: 0.9x", "groks: 1/3"])
    b = pd.concat([b, b[:1].assign(claim="new")])
    found = compare_verdicts(CLAIMS, b)
    assert found[["claim", "figure", "state"]].to_numpy().tolist() == [
        ["sooner", "3", "changed"], ["groks", "", "measured otherwise"], ["new", "3", "only in B"],
    ]  # fmt: skip
    assert compare_verdicts(b, CLAIMS)["figure"].tolist() == ["3", "", "3"]
    lines = report(compare(study(row()), study(changed(norm_end=1.0), claims=b))).splitlines()
    assert lines[3:8] == [
        "verdicts that changed, A -> B:",
        "  sooner (figure 3): reproduced -> partly",
        "    A: sooner: 1.5x",
        "    B: sooner: 0.9x",
        "claims only in B: new: partly",
    ]
    assert lines[9].startswith("measures that changed")
    assert lines[-1] == "3 verdicts: 1 changed, 1 measured otherwise, 1 only in B; 1 cell: 1 changed"


def test_stages_keep_their_order(study):
    a = study(row(stage="teachers", p2=None, p1_fraction=0.2), row(stage="joint", p1_fraction=0.35))
    b = study(row(stage="baselines"), row(stage="joint", p1_fraction=0.35))
    found = compare(a, b)
    assert [f"{cell.group} {cell.label}" for cell in found.cells] == [
        "teachers 113 add adamw 20% distilled",
        "baselines 113-107 add adamw 20% distilled",
        "joint 113-107 add adamw 35%+20% distilled",
    ]


def test_what_is_written_is_the_same_bytes_for_the_same_studies(tmp_path, capsys):
    a = write_study(tmp_path / "a", [row(0), row(1)])
    b = write_study(tmp_path / "b", [changed(0, t_grok=500), changed(1, t_grok=500)], rise=500)
    for out in ("one", "two"):
        assert main(["compare", str(a), str(b), "--out", str(tmp_path / out)]) == 0
    for name in ("compare.csv", "verdicts.csv", "curves.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    picture = (tmp_path / "one" / "curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert b"Software" not in picture  # the version of matplotlib
    written = pd.read_csv(tmp_path / "one" / "compare.csv").set_index("measure")
    assert list(written.index) == ["final_test_acc", "final_p1_acc", "t_grok", "norm_end"]
    assert written.loc["t_grok", ["n", "difference", "low", "high"]].tolist() == [2, -500, -500, -500]
    assert pd.read_csv(tmp_path / "one" / "verdicts.csv")["claim"].tolist() == ["sooner", "groks"]


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn: the lines of every panel by its title, and the texts below."""
    found = {}

    def keep(figure, *arguments, **options):
        found["panels"] = {ax.get_title(loc="left"): ax.lines for ax in figure.axes if ax.lines}
        found["note"] = " ".join(text.get_text() for text in figure.texts)

    monkeypatch.setattr(picture.Figure, "savefig", keep)
    return found


def test_a_panel_has_a_dashed_line_for_a_and_a_solid_one_for_b_for_every_seed(tmp_path, drawn):
    a = write_study(tmp_path / "a", [row(0), row(1), row(2)])
    b = write_study(tmp_path / "b", [changed(0, alpha=0.5), changed(1, t_grok=500), row(3)], rise=500)
    found = compare(*(read(str(folder), with_curves=True) for folder in (a, b)))
    draw(found, tmp_path / "curves.png")
    ((title, lines),) = drawn["panels"].items()
    assert "grokked 2 \N{RIGHTWARDS ARROW} 2 of 2" in title
    assert "alpha 0.9 \N{RIGHTWARDS ARROW} 0.5" in title
    rises = [(line.get_linestyle(), list(line.get_ydata())) for line in lines]
    assert rises == [("--", [0, 0, 1, 1]), ("-", [0, 1, 1, 1])] * 2


def test_the_picture_shows_the_largest_differences_and_says_how_many_it_leaves_out(tmp_path, drawn):
    sizes = {f"alpha=0.{place}": place / 100 for place in range(10, 25)}
    a = write_study(tmp_path / "a", [row(variant=variant) for variant in sizes])
    b = write_study(tmp_path / "b", [changed(variant=v, final_test_acc=0.98 - size) for v, size in sizes.items()])
    draw(compare(*(read(str(folder), with_curves=True) for folder in (a, b))), tmp_path / "curves.png")
    assert [title.rpartition("=")[2] for title in drawn["panels"]] == [f"0.{place}" for place in range(24, 12, -1)]
    assert "15 changed cells, the 12 with the largest differences; 3 left out" in drawn["note"]


@pytest.mark.parametrize(("rise", "rows"), [(None, None), (1000, [row(7)])])
def test_without_curves_the_tables_are_written_and_it_is_said_why_there_is_no_picture(tmp_path, capsys, rise, rows):
    a = write_study(tmp_path / "a", [row()], rise=rise)
    if rows:  # curves of other runs
        (a / "curves.parquet").write_bytes((write_study(tmp_path / "other", rows) / "curves.parquet").read_bytes())
    b = write_study(tmp_path / "b", [changed(t_grok=500)])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "curves.png").write_bytes(b"of another comparison")
    assert main(["compare", str(a), str(b), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr()
    assert "-500" in said.out
    assert "no curves.png: " in said.err
    assert str(a / "curves.parquet") in said.err or row()["name"] in said.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["compare.csv", "verdicts.csv"]


@pytest.fixture
def repository_of_studies(tmp_path, monkeypatch):
    """A git repository with a commit per study, an experiment as DVC keeps them, and a branch without results."""
    root = tmp_path / "repository"
    root.mkdir()
    monkeypatch.chdir(root)
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "someone")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "someone@example.org")

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()

    def commit(rows: list[dict], rise: int) -> str:
        if (root / "results").exists():
            git("rm", "-rq", "results")
        write_study(root / "results", rows, rise=rise)
        git("add", "-A")
        git("commit", "-qm", "a study")
        return git("rev-parse", "HEAD")

    git("init", "-q", "-b", "main")
    git("commit", "-qm", "empty", "--allow-empty")
    git("branch", "bare")
    commit([row()], 1000)
    git("tag", "paper")
    experiment = commit([changed(t_grok=800)], 500)
    git("update-ref", f"refs/exps/{experiment[:2]}/{experiment[2:]}/brave-newt", experiment)
    git("reset", "-q", "--hard", "paper")
    commit([changed(t_grok=500)], 500)
    return root, git


def test_two_commits_are_compared_by_any_of_their_names(repository_of_studies, capsys):
    root, git = repository_of_studies
    commit = git("rev-parse", "paper")
    for a, b, change in (("paper", "main", -500), ("HEAD", "HEAD~1", 500), (commit[:10], "brave-newt", -200)):
        assert main(["compare", a, b, "--out", str(root / "out")]) == 0
        said = capsys.readouterr()
        assert f"{change:+d}" in said.out
        assert said.out.startswith(f"A: {a} ({git('rev-parse', a)[:8]}), 1 run\n")
        assert (root / "out" / "curves.png").is_file(), said.err


def test_a_commit_is_compared_with_the_folder_before_it_is_committed(repository_of_studies, capsys):
    root, _ = repository_of_studies
    assert main(["compare", "HEAD", "results"]) == 0
    assert "nothing differs" in capsys.readouterr().out
    pd.DataFrame([changed(t_grok=700)], columns=list(COLUMNS)).to_csv(root / "results" / "runs.csv", index=False)
    assert main(["compare", "HEAD", "results"]) == 0
    assert "+200" in capsys.readouterr().out


def test_results_names_the_folder_inside_a_commit_from_where_one_works(repository_of_studies, capsys, monkeypatch):
    root, git = repository_of_studies
    write_study(root / "below" / "made", [row()])
    git("add", "-A")
    git("commit", "-qm", "another folder")
    monkeypatch.chdir(root / "below")
    assert main(["compare", "HEAD", "made", "--results", "made"]) == 0
    assert "nothing differs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("b", "words"),
    [
        ("nowhere", ["nowhere", "no such commit or experiment", "nowhere/runs.csv"]),
        ("bare", ["bare:results/runs.csv", "no such file"]),
        ("--results=made HEAD", ["main:made/runs.csv"]),
        ("lacking", ["lacking/runs.csv", "lacks norm_end"]),
        ("twice", ["twice/runs.csv", "several runs of one cell and seed"]),
        ("words", ["words/runs.csv", "unreadable"]),
        ("unjudged", ["unjudged/claims.csv", "no such file"]),
        ("misjudged", ["misjudged/claims.csv", "unreadable"]),
    ],
)
def test_bad_input_is_told_in_one_line_with_status_2(repository_of_studies, capsys, b, words):
    root, _ = repository_of_studies
    pd.DataFrame([row()]).drop(columns="norm_end").to_csv(write_study(root / "lacking", [row()]) / "runs.csv")
    write_study(root / "twice", [row(), row()])
    write_study(root / "words", [row(t_grok="late")])
    (write_study(root / "unjudged", [row()]) / "claims.csv").unlink()
    (write_study(root / "misjudged", [row()]) / "claims.csv").write_text("claim\nsooner\n")
    assert main(["compare", "main", *b.split()]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    for word in words:
        assert word in said.err


def test_a_damaged_file_of_a_commit_is_named_as_the_commit_has_it(repository_of_studies):
    root, git = repository_of_studies
    (root / "results" / "runs.csv").write_text("")
    (root / "results" / "curves.parquet").write_text("no parquet")
    git("commit", "-qam", "damaged")
    with pytest.raises(DamagedFile, match=r"^HEAD:results/runs\.csv: unreadable"):
        read("HEAD")
    git("checkout", "-q", "HEAD~1", "--", "results/runs.csv")
    git("commit", "-qam", "half mended")
    study = read("HEAD", with_curves=True)
    assert study.curves is None
    assert study.no_curves.startswith("HEAD:results/curves.parquet: unreadable")


def test_two_experiments_of_one_name_are_told_apart_by_their_commits(repository_of_studies):
    _, git = repository_of_studies
    commit = git("rev-parse", "paper")
    git("update-ref", f"refs/exps/{commit[:2]}/{commit[2:]}/brave-newt", commit)
    with pytest.raises(DamagedFile, match="2 experiments"):
        read("brave-newt")


def test_comparing_needs_no_torch():
    """Results are compared on machines that train nothing."""
    code = "import sys, grokdistill.compare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, check=False).returncode == 0
