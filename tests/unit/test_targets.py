"""Whether a result is what it should be, by content: hashes, stamps and recipes."""

import copy
import hashlib
import json
import os

import pytest

from grokdistill import sources
from grokdistill.params import validate
from grokdistill.plan import Plan, write_plan
from grokdistill.runs import enumerate_runs
from grokdistill.store import sealed
from grokdistill.targets import Hashes, enumerate_targets, told, what_is_read, why_not_current, why_not_listed
from grokdistill.why import changed_sources

STAGES = ("datasets", "teachers", "baselines", "students", "joint", "continual")


def test_a_file_has_the_hash_of_its_bytes_and_a_folder_that_of_names_and_bytes(tmp_path):
    (tmp_path / "view" / "run").mkdir(parents=True)
    one, two = tmp_path / "view" / "b", tmp_path / "view" / "run" / "a"
    one.write_bytes(b"1")
    two.write_bytes(b"2")
    hashes = Hashes()
    assert hashes.of(one) == hashlib.sha256(b"1").hexdigest()
    assert hashes.of(tmp_path / "nothing") is None
    whole = hashes.of(tmp_path / "view")
    (tmp_path / "view" / ".snakemake_timestamp").touch()
    one.touch()
    assert hashes.of(tmp_path / "view") == whole
    two.rename(two.with_name("c"))
    renamed = hashes.of(tmp_path / "view")
    two.with_name("c").rename(two)
    one.write_bytes(b"3")
    assert len({whole, renamed, hashes.of(tmp_path / "view")}) == 3
    one.write_bytes(b"1")
    assert hashes.of(tmp_path / "view") == whole


def test_hashes_that_are_kept_notice_a_change_that_hides(tmp_path):
    """Same size, same time of change: only the file's own status tells."""
    path, kept = tmp_path / "file", tmp_path / "hashes.json"
    path.write_bytes(b"one")
    first = Hashes(kept)
    before = first.of(path)
    first.keep()
    status = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert Hashes(kept).of(path) == hashlib.sha256(b"two").hexdigest() != before
    kept.write_text("{")
    assert Hashes(kept).of(path) == hashlib.sha256(b"two").hexdigest()


def test_hashes_that_are_kept_are_not_taken_again(tmp_path):
    path, kept = tmp_path / "file", tmp_path / "hashes.json"
    path.write_bytes(b"one")
    first = Hashes(kept)
    first.of(path)
    first.keep()
    known = json.loads(kept.read_text())
    known[str(path)][3] = "remembered"
    kept.write_text(json.dumps(known))
    assert Hashes(kept).of(path) == "remembered"


@pytest.mark.parametrize(
    ("change", "changed"),
    [
        ({"students": {"alpha": 0.5}}, {"students", "joint", "tables", "claims", "figures", "phase", "readings", "overview"}),
        ({"figures": {"dpi": 80}}, {"figures", "phase", "readings", "overview"}),
        ({"claims": {"min_n": 2}}, {"claims", "overview"}),
        ({"evaluation": {"hold": 4}}, {*STAGES[1:], "tables", "claims", "figures", "phase", "readings", "overview"}),
        ({"execution": {"seeds_per_job": 2}}, set()),
        ({"seeds": [0]}, {*STAGES, "tables", "claims", "figures", "phase", "readings", "overview"}),
    ],
)
def test_recipes_follow_what_targets_are_made_from(tiny, tmp_path, monkeypatch, change, changed):
    monkeypatch.chdir(tmp_path)
    before = enumerate_targets(enumerate_runs(validate(tiny)))
    for section, values in change.items():
        tiny[section] = tiny.get(section, {}) | values if isinstance(values, dict) else values
    after = enumerate_targets(enumerate_runs(validate(tiny)))
    assert before.keys() == after.keys()
    assert {target.group for name, target in after.items() if target.digest != before[name].digest} == changed


@pytest.mark.parametrize("module", ["figures", "phase", "readings", "claims", "overview"])
def test_what_hands_a_target_its_settings_belongs_to_its_recipe(module):
    """An edit of which threshold, pair or format is used makes it anew."""
    file = sources.module_path(f"grokdistill.{module}").relative_to(sources.ROOT).as_posix()
    assert "make" in sources.parts(f"grokdistill.{module}")[file]


def test_the_file_of_claims_is_part_of_their_recipe_alone(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny["paths"] = {"claims": "claims.yaml"}
    found = []
    for text in ("a: 1", "a: 2"):
        (tmp_path / "claims.yaml").write_text(text)
        found.append({name: target.digest for name, target in enumerate_targets(enumerate_runs(validate(tiny))).items()})
    assert {name for name in found[0] if found[0][name] != found[1][name]} == {"claims", "overview"}


def test_published_stages_are_current_until_something_changes(study, tiny, finished, capsys):
    made = study(tiny)
    assert made.command("adopt", made.plan, finished.results) == 0
    for stage in STAGES:
        assert made.command("publish", made.plan, stage) == 0
    path = made.plan
    plan = Plan.load(path)
    with made.inside():
        reasons = {name: why_not_current(plan, plan.targets[name], Hashes()) for name in STAGES}
        assert set(reasons.values()) == {None}
        changed = copy.deepcopy(tiny)
        changed["students"]["alpha"] = 0.5
        other = Plan.load(write_plan(enumerate_runs(validate(changed))))
        assert why_not_current(other, other.targets["students"], Hashes()) == "made from other runs"
        assert why_not_current(other, other.targets["teachers"], Hashes()) is None
    record = next((made.results / "joint").glob("*/record.json"))
    record.write_text(record.read_text() + " ")
    (made.results / "made" / "baselines.json").write_text("[]")
    (made.results / "metrics" / "continual.json").unlink()
    with made.inside():
        assert why_not_current(plan, plan.targets["joint"], Hashes()) == "results/joint is not what was made"
        assert why_not_current(plan, plan.targets["baselines"], Hashes()) == "results/made/baselines.json is not a stamp"
        assert why_not_current(plan, plan.targets["continual"], Hashes()) == "results/metrics/continual.json is missing"
    capsys.readouterr()
    assert made.command("check", path) == 1
    printed = capsys.readouterr().err
    assert "joint: results/joint is not what was made" in printed
    assert "tables: it has not been made yet" in printed


def test_check_names_the_file_of_a_view(study, tiny, finished, capsys):
    made = study(tiny)
    assert made.command("adopt", made.plan, finished.results) == 0
    assert made.command("publish", made.plan, "teachers") == 0
    curve = next((made.results / "teachers").glob("*/curve.csv"))
    curve.write_text("")
    assert made.command("check", made.plan) == 1
    assert f"teachers: {curve.relative_to(made.folder)} does not match its record" in capsys.readouterr().err


def test_a_run_with_other_bytes_and_a_model_that_comes_later_make_their_views_anew(study, tiny, finished):
    """Fingerprints say which run it is, not which bytes: machines may round differently, and a clone may lack models."""
    made = study(tiny)
    assert made.command("adopt", made.plan, finished.results) == 0
    plan, keys = Plan.load(made.plan), made.of("students")

    def stale():
        with made.inside():
            return {name for name in (*STAGES, "tables", "phase") if why_not_current(plan, plan.targets[name], Hashes())}

    for names in (*(["publish", stage] for stage in STAGES), ["tables"], ["phase"]):
        assert made.command(names[0], made.plan, *names[1:]) == 0
    assert not stale()

    model, aside = made.stored(keys[0]) / "checkpoint.safetensors", made.folder / "aside"
    model.rename(aside)
    assert stale() == {"students"}
    assert made.command("publish", made.plan, "students") == 0
    assert not stale()
    aside.rename(model)
    assert stale() == {"students"}
    assert made.command("publish", made.plan, "students") == 0
    assert not stale()

    path = made.stored(keys[0]) / "record.json"
    record = json.loads(path.read_text())
    record["execution"]["device"] = "another machine"
    path.write_text(json.dumps(sealed(record)))
    assert stale() == {"students", "tables"}
    assert made.command("tables", made.plan) == 0
    assert stale() == {"students"}  # the phase diagram shows runs.csv, which is as it was


@pytest.mark.parametrize(
    ("name", "files"),
    [
        *((f"figure-{number}", ["runs.csv", "curves.parquet"]) for number in (1, 7)),
        ("phase", ["runs.csv"]),
        ("readings", ["runs.csv", "curves.parquet"]),
        ("claims", ["runs.csv", "curves.parquet"]),
        ("overview", ["runs.csv", "claims.csv", "figures/phase.png"]),
    ],
)
def test_all_that_a_target_shows_counts_as_read(study, tiny, name, files):
    made = study(tiny)
    plan = Plan.load(made.plan)
    with made.inside():
        found = [what_is_read(plan, plan.targets[name], Hashes())]
        for file in files:
            path = plan.results / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("another")
            found.append(what_is_read(plan, plan.targets[name], Hashes()))
    assert len(set(found)) == len(files) + 1


def test_a_picture_drawn_before_its_table_is_not_current_after_it(study, tiny, finished):
    made = study(tiny)
    assert made.command("adopt", made.plan, finished.results) == 0
    assert made.command("tables", made.plan) == 0
    runs = made.results / "runs.csv"
    whole = runs.read_text()
    runs.write_text(whole.rsplit("\n", 2)[0] + "\n")
    assert made.command("phase", made.plan) == 0
    runs.write_text(whole)
    plan = Plan.load(made.plan)
    with made.inside():
        assert why_not_current(plan, plan.targets["phase"], Hashes()) == "made from other tables"


def test_a_manifest_that_is_no_text_is_written_anew(study, tiny):
    made = study(tiny)
    assert made.command("manifests", made.plan) == 0
    path = made.results / "plan" / "teachers.txt"
    whole = path.read_bytes()
    path.write_bytes(b"\xff\xfe" + whole)
    plan = Plan.load(made.plan)
    with made.inside():
        assert str(path.relative_to(made.folder)) in why_not_listed(plan)
    assert made.command("manifests", made.plan) == 0
    assert path.read_bytes() == whole


def test_what_changes_after_the_plan_is_not_stamped(study, tiny, finished, monkeypatch, capsys):
    made = study(tiny)
    assert made.command("adopt", made.plan, finished.results) == 0
    monkeypatch.setattr(sources, "digest", lambda module: "another")
    assert made.command("publish", made.plan, "teachers") == 1
    assert "the sources changed after it was planned" in capsys.readouterr().err
    assert not (made.results / "made" / "teachers.json").exists()


def test_reasons_are_told_together():
    assert told({"a": "made from other runs", "b": "made from other runs", "c": "it has not been made yet"}) == [
        "to be made anew: a, b: made from other runs"
    ]


def test_changed_sources_are_told_by_function():
    before = sources.parts("grokdistill.stages.students")
    assert before["distill.py"].keys() >= {"", "teach", "soften", "Targets"}
    assert before["engine.py"].keys() >= {"Engine", "Engine.logits", "_Mix.backward"}
    assert "plan.py" not in before
    old = copy.deepcopy(before)
    old["distill.py"]["soften"] = old["distill.py"][""] = "another"
    del old["losses.py"]["entropy"]
    old["losses.py"]["gone"] = "x"
    del old["probes.py"]
    old["former.py"] = {}
    assert changed_sources(old, "students") == [
        "src/grokdistill/distill.py: the code outside functions changed",
        "src/grokdistill/distill.py: soften changed",
        "src/grokdistill/former.py: no longer used",
        "src/grokdistill/losses.py: entropy added",
        "src/grokdistill/losses.py: gone removed",
        "src/grokdistill/probes.py: new",
    ]
