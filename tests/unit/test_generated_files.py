"""Files that are generated from the library say what it says now."""

import importlib
import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml

from grokdistill.params import schema


@pytest.fixture
def script(repository, monkeypatch):
    """Imports a script of the workflow by name."""
    monkeypatch.syspath_prepend(repository / "workflow" / "scripts")
    monkeypatch.chdir(repository)
    return importlib.import_module


def test_the_schema_for_editors_is_current(repository):
    """`python -m grokdistill schema > workflow/schemas/params.schema.json` brings it up to date."""
    assert (repository / "workflow/schemas/params.schema.json").read_text(encoding="utf-8") == schema()


def test_dvc_yaml_is_current(repository, script):
    """`python workflow/scripts/write_dvc_yaml.py` brings it up to date."""
    assert (repository / "dvc.yaml").read_text(encoding="utf-8") == script("write_dvc_yaml").text()


def test_the_order_of_the_grid_is_current(repository, script):
    """`python workflow/scripts/grid_order.py` brings it up to date."""
    assert (repository / "docs/grid-order.md").read_text(encoding="utf-8") == script("grid_order").text()


def test_the_readme_tells_what_the_grid_made(repository, script):
    """`make readme` brings it up to date."""
    if subprocess.run(["git", "status", "--porcelain", "results"], cwd=repository, capture_output=True, check=True).stdout:
        pytest.skip("results/ is not what git has")
    module = script("update_readme")
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert text == module.between(text, "results/", module.grid(repository / "results"))


@pytest.mark.parametrize(
    ("page", "source", "write", "folder"),
    [
        ("README.md", "results-quick/", "demonstration", "docs/demo"),
        ("README.md", "benchmarks/results/", "speed", "benchmarks/results"),
        ("docs/scaling.md", "benchmarks/results/planning.json", "large_studies", "benchmarks/results"),
    ],
)
def test_a_page_tells_what_was_made(repository, script, page, source, write, folder):
    """`make readme` brings it up to date."""
    module = script("update_readme")
    text = (repository / page).read_text(encoding="utf-8")
    assert text == module.between(text, source, getattr(module, write)(repository / folder))


def test_the_page_of_readings_has_every_table_of_its_studies(repository, script):
    """`make readings` brings it up to date."""
    module = script("readings")
    page = (repository / "docs/readings.md").read_text(encoding="utf-8")
    assert {path.stem for path in (repository / "docs/readings").glob("*.csv")} == set(module.STUDIES)
    for name in module.STUDIES:
        block = page.partition(f"<!-- written by `make readings` from results-{name}/ -->")[2].partition("<!-- end")[0]
        found = pd.read_csv(repository / "docs" / "readings" / f"{name}.csv", dtype={"t_grok": "Int64"})
        assert all(table in block for table in module.comparisons(found)), name


def test_what_the_readme_tells_of_a_grid(script, tmp_path):
    """The headline over seeds, of the main pair's default runs at 20% alone; claims that were judged; hours by machine."""
    rows = [
        ("baselines", "", 113, 107, 0.2, "scratch", 0, "censored", "", 0.1),
        ("baselines", "", 113, 107, 0.2, "scratch", 1, "grokked", 9000, 0.96),
        ("baselines", "", 113, 107, 0.2, "scratch", 2, "censored", "", 0.3),
        ("students", "", 113, 107, 0.2, "distilled", 0, "grokked", 1700, 1.0),
        ("students", "alpha=0.5", 113, 107, 0.2, "distilled", 0, "grokked", 5, 0.5),
        ("students", "", 113, 107, 0.25, "distilled", 0, "grokked", 6, 0.6),
        ("students", "", 109, 107, 0.2, "distilled", 0, "grokked", 7, 0.7),
        ("students", "", 113, 97, 0.2, "distilled", 0, "grokked", 8, 0.8),
    ]
    names = ["stage", "variant", "p1", "p2", "fraction", "method", "seed", "status", "t_grok", "final_test_acc"]
    more = {"op": "sub", "optimizer": "adam", "steps": 30000, "final_p1_acc": None, "fingerprint": list("abcdefgh")}
    pd.DataFrame(rows, columns=names).assign(**more).to_csv(tmp_path / "runs.csv", index=False)
    verdicts = [
        ("one", "it groks", "2/3", 3, "partly"),
        ("two", "it does not", "needs runs", 0, "not run"),
        ("three", "it did once", "needs 3 seeds, has 1; so far reproduced", 1, "not run"),
    ]
    pd.DataFrame(verdicts, columns=["claim", "statement", "measured", "n", "verdict"]).to_csv(
        tmp_path / "claims.csv", index=False
    )
    costs = [("c", "X", 1, 3600), ("a", "X", 1, 1800), ("b", "Y", 2, 720), ("d", "GPU", None, 36)]
    pd.DataFrame(costs, columns=["fingerprint", "device", "threads", "seconds"]).to_csv(tmp_path / "costs.csv", index=False)
    lines = script("update_readme").grid(tmp_path).splitlines()
    assert [line for line in lines if line.startswith("| sub")] == [
        "| sub | adam | scratch | 1 of 3 |  | 0.300 (0.100 to 0.960) |",
        "| sub | adam | distilled | 1 of 1 | 1700 | 1.000 (1.000 to 1.000) |",
    ]
    assert "| one | it groks | 2/3 | 3 | partly |" in lines
    assert "| three | it did once | needs 3 seeds, has 1; so far reproduced | 1 | not run |" in lines
    assert "1 further claims need runs that are not finished ([docs/grid-order.md](docs/grid-order.md))." in lines
    assert lines[-1].startswith("4 of ")
    assert lines[-1].endswith(
        "run-hours by their records: 0.0 on GPU (833 updates a second); "
        "1.5 on X with 1 thread (11 updates a second); 0.2 on Y with 2 threads (42 updates a second)."
    )


def test_the_grid_in_order(repository, script):
    """Every training run once, parents first, the headline first; every claim with the seeds that its verdict needs."""
    plan, hours, order = script("grid_order").grid()
    runs = [key for step in order for key in step.runs]
    assert sorted(runs) == sorted(key for key, entry in plan.entries.items() if entry["stage"] != "datasets") == sorted(hours)
    place = {key: i for i, key in enumerate(runs)}
    for key in runs:
        assert all(place.get(parent, -1) < place[key] for parent in plan.entries[key]["parents"].values())
    claims = yaml.safe_load((repository / plan.params.paths.claims).read_text(encoding="utf-8"))
    most = {step.claim: step.seeds for step in order if step.claim}  # the last time that it is named
    assert most == {name: claim.get("min_n", 3) for name, claim in claims.items()}
    twice = [step.claim for step in order if step.claim and step.seeds == 1 and step.claim != "prime-pairs"]
    assert sorted(twice + list(most)) == sorted(step.claim for step in order if step.claim)
    assert not set(twice) & {"distilled-20", "scratch-20-never", "distilled-20-rapid"}  # the headline's runs decide them
    assert [step.claim for step in order if step.runs][:2] == ["distilled-20", "scratch-20-never"]
    assert {step.claim for step in order[1:4]} == {"teacher-groks", "distilled-20-rapid", "weight-decay-helps-20"}
    first = {plan.entries[key]["name"] for key in order[0].runs}
    assert first == {
        f"{op}-{what}-s{seed}"
        for op in ("add", "sub")
        for what in ("p113-f35-adamw-scratch", "p113-p107-f20-adam-distilled", "p113-p107-f20-adamw-distilled")
        for seed in (0, 1, 2)
    }


def test_runs_that_no_claim_asks_for_come_last(script, monkeypatch):
    module = script("grid_order")
    more = module.read([module.ROOT / "params.yaml"]) | {"seeds": [0, 1, 2, 7]}
    monkeypatch.setattr(module, "read", lambda paths: more)
    plan, _, (*_, last) = module.grid()
    assert (last.claim, last.seeds, {plan.entries[key]["name"][-3:] for key in last.runs}) == ("", 4, {"-s7"})


def test_the_next_of_the_grid_is_what_is_missing_of_its_first_unfinished_step(
    repository, script, tmp_path, monkeypatch, capsys
):
    shutil.copytree(repository / "data" / "paper", tmp_path / "data" / "paper")
    monkeypatch.chdir(tmp_path)
    module = script("grid_order")
    plan, _, order = module.grid()
    first, second, *_ = (step for step in order if step.runs)

    def finish(keys):
        for key in keys:
            record = plan.store.folder(plan.entries[key]["stage"], key) / "record.json"
            record.parent.mkdir(parents=True)
            record.touch()

    def shown():
        module.show_next()
        return [Path(line).parts[-2] for line in capsys.readouterr().out.splitlines()]

    assert shown() == first.runs
    finish(first.runs[:2])
    assert shown() == first.runs[2:]
    finish(first.runs[2:])
    assert shown() == second.runs


def test_the_next_of_the_grid_is_never_a_run_whose_record_git_brought(repository, script, tmp_path, monkeypatch, capsys):
    for folder in ("data/paper", "results/records", "results/curves"):
        shutil.copytree(repository / folder, tmp_path / folder)
    records = [json.loads(path.read_text()) for path in (tmp_path / "results/records").glob("*/*.json")]
    monkeypatch.chdir(tmp_path)
    module = script("grid_order")
    plan, hours, _ = module.grid()
    brought = {record["fingerprint"] for record in records} & plan.entries.keys()
    if not brought:
        pytest.skip("the records in git are of another recipe")
    module.show_next()
    named = {Path(line).parts[-2] for line in capsys.readouterr().out.splitlines()}
    assert bool(named) == (len(brought) < len(hours))
    assert not named & brought

    # All in one list also names those brought whose models the others are made from, and no others.
    left = [key for _, keys in module.unfinished(models=True) for key in keys]
    assert len(set(left)) == len(left)
    assert set(left) - brought == hours.keys() - brought
    asked = {parent for key in left for parent in plan.entries[key]["parents"].values()}
    assert asked & brought == brought.intersection(left)

    spoilt = next((tmp_path / "results/curves").glob("*/*.csv"))
    spoilt.write_text(spoilt.read_text() + "1")
    shutil.rmtree(tmp_path / "results/store")
    with pytest.raises(SystemExit, match=spoilt.name):
        module.show_next()
