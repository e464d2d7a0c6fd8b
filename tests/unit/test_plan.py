"""Plans: what is written, when it changes, and that it can be read back."""

import json

import pytest

from grokdistill.files import DamagedFile
from grokdistill.params import validate
from grokdistill.plan import Plan, write_plan
from grokdistill.runs import enumerate_runs

STAGES = ("datasets", "teachers", "baselines", "students", "joint", "continual")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_plan_at_the_papers_scale_reads_back_as_it_was(full):
    """Variants and all."""
    study = enumerate_runs(validate(full))
    plan = Plan.load(write_plan(study))
    assert plan.params == study.params
    assert len(plan.entries) == len(study.runs)
    for stage in STAGES:
        for planned, run in zip(plan.stage(stage), study.of(stage), strict=True):
            assert (planned.fingerprint, planned.name, planned.cell) == (run.fingerprint, run.name, run.cell)
            assert (planned.config, planned.variant, planned.sources) == (run.config, run.variant, run.sources)
            assert planned.parents == {role: parent.fingerprint for role, parent in run.parents.items()}


def test_a_tiny_plan_reads_back_as_it_was(tiny):
    study = enumerate_runs(validate(tiny))
    plan = Plan.load(write_plan(study))
    assert plan.params == study.params
    assert [plan.run(run.fingerprint).config for run in study.runs] == [run.config for run in study.runs]
    with pytest.raises(KeyError, match="0123"):
        plan.run("0123")


def test_batches_of_the_plan_are_those_of_the_study(tiny):
    tiny["seeds"], tiny["execution"] = [0, 1, 2], {"seeds_per_job": 2}
    study = enumerate_runs(validate(tiny))
    plan = Plan.load(write_plan(study))
    for batch in study.batches():
        for run in batch:
            assert plan.run(run.fingerprint).batch == tuple(other.fingerprint for other in batch)


def test_a_plan_is_named_by_its_content_and_never_changed(tiny, tmp_path):
    first = write_plan(enumerate_runs(validate(tiny)))
    before, inode = first.read_bytes(), first.stat().st_ino
    assert write_plan(enumerate_runs(validate(tiny))) == first
    assert first.stat().st_ino == inode
    tiny["students"]["alpha"] = 0.5
    second = write_plan(enumerate_runs(validate(tiny)))
    assert second != first
    assert first.read_bytes() == before


def test_a_study_writes_below_its_results_alone(tiny, tmp_path):
    tiny["paths"] = {"results": "results-other/where", "datasets": "results-other/where/datasets"}
    write_plan(enumerate_runs(validate(tiny)))
    assert {path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*") if path.is_file()} == {
        ("results-other", "where")
    }


@pytest.mark.parametrize("content", [None, "", "{", "{}", '{"params": {}, "runs": {}}', '{"params": 3, "runs": {}}', "[]"])
def test_a_plan_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "plan.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DamagedFile, match=r"plan\.json"):
        Plan.load(path)


def test_a_plan_holds_plain_json(tiny):
    path = write_plan(enumerate_runs(validate(tiny)))
    document = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert set(document) == {"params", "runs", "targets"}
