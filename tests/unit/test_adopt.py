"""Adoption: only what is exactly the planned run comes in, and every file is checked."""

import json
import shutil

import pytest

from grokdistill.plan import Plan
from grokdistill.publish import culprit
from grokdistill.store import sealed

TRAINED = ("datasets", "teachers", "baselines", "students", "joint", "continual")


@pytest.fixture
def elsewhere(finished, tmp_path):
    """A results folder of the finished study's runs, free to be changed."""
    return shutil.copytree(finished.results, tmp_path / "elsewhere")


def files_of(made, key):
    return {path.name: path.read_bytes() for path in made.stored(key).iterdir()}


def record_of(elsewhere, made, key):
    return elsewhere / "store" / made.entries[key]["stage"] / key / "record.json"


def test_a_store_from_elsewhere(study, tiny, elsewhere, finished, capsys):
    """Every run comes in byte for byte, nothing is left to train, and the tables are those of the study that trained."""
    made = study(tiny)
    assert made.command("adopt", made.plan, elsewhere) == 0
    assert f"{len(made.entries)} runs adopted" in capsys.readouterr().out
    for key in made.entries:
        stored = files_of(made, key)
        assert stored.pop("done") == b""
        assert stored == {name: data for name, data in files_of(finished, key).items() if name != "done"}
    before = {key: made.stored(key).joinpath("record.json").stat().st_mtime_ns for key in made.entries}
    made.make(*TRAINED)
    assert before == {key: made.stored(key).joinpath("record.json").stat().st_mtime_ns for key in made.entries}
    made.finish()
    assert (made.results / "runs.csv").read_bytes() == (finished.results / "runs.csv").read_bytes()
    assert made.command("adopt", made.plan, elsewhere) == 0
    assert "0 runs adopted" in capsys.readouterr().out


def test_views_without_a_store(study, tiny, finished):
    """What DVC restores: the views of every stage, and the datasets where the parameters put them."""
    made = study(tiny)
    for stage in TRAINED[1:]:
        shutil.copytree(finished.results / stage, made.results / stage)
    shutil.copytree(finished.folder / "data" / "datasets", made.folder / "data" / "datasets")
    assert made.command("adopt", made.plan) == 0
    assert all((made.stored(key) / "record.json").is_file() for key in made.entries)


def test_a_changed_file_is_refused_by_name(study, tiny, elsewhere, capsys):
    made = study(tiny)
    key = made.of("students")[0]
    checkpoint = record_of(elsewhere, made, key).with_name("checkpoint.safetensors")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1] + b"\0\0")
    assert made.command("adopt", made.plan, elsewhere) == 1
    assert str(checkpoint) in capsys.readouterr().err
    assert not (made.stored(key) / "record.json").exists()
    assert not (made.stored(key) / "done").exists()
    assert all((made.stored(other) / "record.json").is_file() for other in made.entries if other != key)


@pytest.mark.parametrize("part", ["checkpoint.safetensors", "curve.csv"])
def test_a_missing_file_is_refused_by_name(study, tiny, elsewhere, part, capsys):
    made = study(tiny)
    key = made.of("joint")[0]
    path = record_of(elsewhere, made, key).with_name(part)
    path.unlink()
    assert made.command("adopt", made.plan, elsewhere) == 1
    assert str(path) in capsys.readouterr().err
    assert not (made.stored(key) / "record.json").exists()


@pytest.mark.parametrize("change", ["learning_rate", "sources", "parents", "cut"])
def test_a_record_that_does_not_make_its_own_fingerprint_is_refused(study, tiny, elsewhere, change, capsys):
    """A new rate over old weights."""
    made = study(tiny)
    key = made.of("students")[0]
    path = record_of(elsewhere, made, key)
    record = json.loads(path.read_text())
    if change == "learning_rate":
        record["config"]["learning_rate"] *= 2
    elif change == "sources":
        record["sources"] = record["sources"][::-1]
    else:
        record["parents"]["teacher"] = made.of("teachers")[-1]
    path.write_text(path.read_text()[:100] if change == "cut" else json.dumps(sealed(record)))
    assert made.command("adopt", made.plan, elsewhere) == 1
    message = capsys.readouterr().err
    assert f"{path}: {'not a record' if change == 'cut' else f'says it is run {key}, but'}" in message
    assert not (made.stored(key) / "record.json").exists()


def test_another_recipe_under_the_same_name_is_left_alone(study, tiny, finished, capsys):
    """The views of the old learning rate, in a study with a new one."""
    tiny["optim"]["learning_rate"] = 0.005
    made = study(tiny)
    shutil.copytree(finished.results / "teachers", made.results / "teachers")
    assert made.command("adopt", made.plan) == 0
    printed = capsys.readouterr().out
    assert "0 runs adopted" in printed
    assert printed.count("another recipe") == len(made.of("teachers"))
    assert not (made.results / "store" / "teachers").exists()


def test_a_folder_that_is_not_there(study, tiny, capsys):
    made = study(tiny)
    assert made.command("adopt", made.plan, "nowhere") == 1
    assert "nowhere" in capsys.readouterr().err


def as_git_brings_it(made, finished):
    """Records and curves in the study's results, and nothing else."""
    for kind in ("records", "curves"):
        shutil.copytree(finished.results / kind, made.results / kind)


def test_records_and_curves_suffice_where_nothing_is_to_be_made_from_a_run(study, tiny, finished, capsys):
    """Tables come out byte for byte, without a checkpoint anywhere."""
    made = study(tiny)
    as_git_brings_it(made, finished)
    made.make("datasets")
    assert made.command("adopt", made.plan) == 0
    trained = [key for key in made.entries if made.entries[key]["stage"] != "datasets"]
    assert f"{len(trained)} of them are known by record and curve alone" in capsys.readouterr().out
    made.finish()
    for name in ("runs.csv", "costs.csv"):
        assert (made.results / name).read_bytes() == (finished.results / name).read_bytes()
    assert not list(made.results.rglob("checkpoint.safetensors"))
    with made.inside():
        assert [culprit(Plan.load(made.plan), stage) for stage in TRAINED] == [None] * len(TRAINED)


def test_a_run_from_which_another_is_to_be_made_is_not_known_by_its_record_alone(study, tiny, finished):
    """One joint run is missing: its two teachers, and what they learned from, are to be made with it; all others are not."""
    made = study(tiny)
    lost = next(key for key in made.of("joint") if made.entries[key]["config"]["method"] == "distilled")
    as_git_brings_it(made, finished)
    (made.results / "records" / "joint" / f"{made.entries[lost]['name']}.json").unlink()
    needed, waiting = {lost}, [lost]
    while waiting:
        parents = set(made.entries[waiting.pop()]["parents"].values())
        waiting += parents - needed
        needed |= parents
    for _ in range(2):  # the second time, nothing that the first one left is taken for whole
        assert made.command("adopt", made.plan) == 0
        there = {key for key in made.entries if (made.stored(key) / "done").exists()}
        assert {key for key in made.entries if made.entries[key]["stage"] != "datasets"} - there == {
            key for key in needed if made.entries[key]["stage"] != "datasets"
        }


def test_a_model_that_is_needed_later_is_trained_again(study, tiny, finished):
    made = study(tiny)
    as_git_brings_it(made, finished)
    made.make("datasets")
    made.command("adopt", made.plan)
    student = next(key for key in made.of("students") if "teacher" in made.entries[key]["parents"])
    (made.stored(student) / "record.json").unlink()
    (made.results / "records" / "students" / f"{made.entries[student]['name']}.json").unlink()
    made.command("adopt", made.plan)
    teacher = made.entries[student]["parents"]["teacher"]
    assert not (made.stored(teacher) / "record.json").exists()
    made.command("train", made.plan, teacher, student)
    assert files_of(made, teacher)["checkpoint.safetensors"] == files_of(finished, teacher)["checkpoint.safetensors"]
    assert files_of(made, student)["curve.csv"] == files_of(finished, student)["curve.csv"]


def test_a_changed_curve_is_refused_also_without_a_checkpoint(study, tiny, finished, capsys):
    made = study(tiny)
    as_git_brings_it(made, finished)
    path = made.results / "curves" / "baselines" / f"{made.entries[made.of('baselines')[0]]['name']}.csv"
    path.write_text(path.read_text().replace("0", "1", 1))
    assert made.command("adopt", made.plan) == 1
    assert path.relative_to(made.folder).as_posix() in capsys.readouterr().err


def test_results_from_elsewhere_come_with_their_models(study, tiny, elsewhere, finished, capsys):
    """Only git's own records may do without."""
    for path in elsewhere.rglob("checkpoint.safetensors"):
        path.unlink()
    made = study(tiny)
    assert made.command("adopt", made.plan, elsewhere) == 1
    assert "known by record" not in capsys.readouterr().out
    assert len(list((made.results / "store").rglob("done"))) == len(made.of("datasets"))


def test_models_that_come_later_are_taken(study, tiny, finished, capsys):
    """A study known by records and curves, then what DVC brings: the views."""
    made = study(tiny)
    as_git_brings_it(made, finished)
    made.make("datasets")
    made.command("adopt", made.plan)
    for stage in TRAINED[1:]:
        shutil.copytree(finished.results / stage, made.results / stage)
    student = made.of("students")[0]
    damaged = made.results / "students" / made.entries[student]["name"] / "checkpoint.safetensors"
    damaged.write_bytes(b"")
    capsys.readouterr()
    assert made.command("adopt", made.plan) == 1
    assert damaged.relative_to(made.folder).as_posix() in capsys.readouterr().err
    whole = [key for stage in TRAINED[1:] for key in made.of(stage) if key != student]
    assert all(files_of(made, key).items() >= files_of(finished, key).items() for key in whole)
    assert not (made.stored(student) / "done").exists()


def test_a_view_of_another_recipe_does_not_hide_a_record(study, tiny, finished):
    made = study(tiny)
    as_git_brings_it(made, finished)
    view = made.results / "baselines" / made.entries[made.of("baselines")[0]]["name"]
    shutil.copytree(finished.stored(finished.of("baselines")[1]), view)
    made.command("adopt", made.plan)
    assert (made.stored(made.of("baselines")[0]) / "done").exists()
