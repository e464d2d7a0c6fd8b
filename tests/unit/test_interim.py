"""What a study says before all of its runs are made."""

import shutil

import pandas as pd
import pytest

from grokdistill.plan import Plan

STAGES = ("teachers", "baselines", "students", "joint", "continual")


@pytest.fixture
def begun(study, tiny, repository):
    """A study whose datasets, teachers, baselines and addition's students are made."""
    made = study(tiny)
    shutil.copytree(repository / "data" / "paper", made.folder / "data" / "paper")
    made.make("datasets", "teachers", "baselines")
    addition = [key for key in made.of("students") if made.entries[key]["name"].startswith("add")]
    assert made.command("train", made.plan, *addition) == 0
    return made


def test_finished_runs_are_shown_and_no_others(begun, finished, capsys):
    assert begun.command("interim", begun.plan) == 0
    runs = pd.read_csv(begun.results / "runs.csv", dtype={"variant": str})
    whole = pd.read_csv(finished.results / "runs.csv", dtype={"variant": str})
    there = whole["stage"].isin(["teachers", "baselines"]) | (whole["stage"] == "students") & (whole["op"] == "add")
    pd.testing.assert_frame_equal(runs, whole[there].reset_index(drop=True), check_dtype=False)
    for kind in ("records", "curves"):
        shown = {path.stem for path in (begun.results / kind).rglob("*.*")}
        assert shown == set(runs["name"]), kind
    for name in (*(f"figure-{number}.png" for number in range(1, 8)), "phase.pdf", "readings.png"):
        assert (begun.results / "figures" / name).stat().st_size > 1000
    for stage in ("teachers", "baselines"):
        first, second = ((made.results / "metrics" / f"{stage}.json").read_bytes() for made in (begun, finished))
        assert first == second, stage
    assert f"judged by {there.sum()} training runs" in (begun.results / "overview.html").read_text()
    claims = pd.read_csv(begun.results / "claims.csv")
    assert "not run" in set(claims["verdict"])
    assert f"{there.sum()} of {len(whole)} runs are finished" in capsys.readouterr().out
    # Nothing is stamped: `check`, as Snakemake, still wants all of it.
    assert begun.command("check", begun.plan) == 1
    wanted = capsys.readouterr().err
    assert "teachers: " in wanted
    assert "tables: it has not been made yet" in wanted


def test_what_git_keeps_of_it_is_enough_to_go_on(begun, study, tiny, finished):
    """A clone with its records and curves alone trains the other runs, and ends with the same tables."""
    assert begun.command("interim", begun.plan) == 0
    clone = study(tiny)
    for kind in ("records", "curves"):
        shutil.copytree(begun.results / kind, clone.results / kind)
    shutil.copytree(begun.folder / "data", clone.folder / "data")
    kept = {path.relative_to(clone.results): path.read_bytes() for path in clone.results.glob("records/*/*")}
    assert clone.command("interim", clone.plan) == 0  # also before the teachers' models are here again
    assert kept == {path.relative_to(clone.results): path.read_bytes() for path in clone.results.glob("records/*/*")}
    assert clone.command("adopt", clone.plan) == 0
    baselines = [clone.stored(key) / "record.json" for key in clone.of("baselines")]
    before = [path.stat().st_mtime_ns for path in baselines]
    clone.make("datasets", *STAGES)
    assert [path.stat().st_mtime_ns for path in baselines] == before
    clone.finish()
    assert (clone.results / "runs.csv").read_bytes() == (finished.results / "runs.csv").read_bytes()


def test_why_tells_a_run_that_is_known_from_one_that_is_not(begun, study, tiny, capsys):
    """Of a clone with records and curves alone."""
    assert begun.command("interim", begun.plan) == 0
    clone = study(tiny)
    for kind in ("records", "curves"):
        shutil.copytree(begun.results / kind, clone.results / kind)

    def why(stage, start):
        name = next(clone.entries[key]["name"] for key in clone.of(stage) if clone.entries[key]["name"].startswith(start))
        capsys.readouterr()
        assert clone.command("why", f"{stage}/{name}") == 0
        return capsys.readouterr().out

    assert ": current" in why("baselines", "add")
    assert "its record is here" in why("teachers", "sub")
    assert "would be made: the store has no run like it" in why("students", "sub")


def test_a_run_whose_teacher_is_not_there_is_left_out(begun):
    """Its row could not name the teacher."""
    teacher = next(key for key in begun.of("teachers") if begun.entries[key]["name"].startswith("add"))
    (begun.stored(teacher) / "record.json").unlink()
    with begun.inside():
        there = Plan.load(begun.plan).so_far().entries
    taught = [key for key in begun.of("students") if teacher in begun.entries[key]["parents"].values()]
    assert taught and teacher not in there and not there.keys() & set(taught)
    assert set(begun.of("baselines")) <= there.keys()


def test_a_damaged_record_is_named_and_not_written_over(begun, study, tiny, capsys):
    assert begun.command("interim", begun.plan) == 0
    clone = study(tiny)
    for kind in ("records", "curves"):
        shutil.copytree(begun.results / kind, clone.results / kind)
    curve = next((clone.results / "curves" / "baselines").iterdir())
    curve.write_text("step\n")
    assert clone.command("interim", clone.plan) == 1
    assert str(curve.relative_to(clone.folder)) in capsys.readouterr().err
    assert curve.read_text() == "step\n"
    assert not (clone.results / "runs.csv").exists()


def test_verdicts_on_other_claims_are_no_first_page(begun, capsys):
    assert begun.command("interim", begun.plan) == 0
    path = begun.results / "claims.csv"
    pd.read_csv(path, dtype=str, keep_default_na=False)[1:].to_csv(path, index=False)
    assert begun.command("overview", begun.plan) == 1
    assert "results/claims.csv: judges other claims than data/paper/claims.yaml" in capsys.readouterr().err


def test_a_study_that_has_not_begun(study, tiny, capsys):
    made = study(tiny)
    assert made.command("interim", made.plan) == 1
    assert "no run of this study" in capsys.readouterr().err
    assert not (made.results / "runs.csv").exists()
