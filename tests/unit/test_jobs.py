"""A tiny study from parameters to tables through the command line: every stage, twice, damaged, interrupted and stacked."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open

from grokdistill import train
from grokdistill.data import generate
from grokdistill.files import load_tensors
from grokdistill.model import Shape, Transformer
from grokdistill.publish import read_curves

TRAINING = ("teachers", "baselines", "students", "joint", "continual")
COLUMNS = [
    *("stage", "name", "variant", "op", "p1", "p2", "p1_fraction", "fraction", "optimizer", "method", "loss", "teacher"),
    *("alpha", "temperature", "position", "seed", "steps", "status", "t_mem", "t_grok", "gap", "sharpness"),
    *("final_train_acc", "final_test_acc", "final_p1_acc", "norm_start", "norm_grok", "norm_end", "fingerprint"),
]


def rows_of(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def bytes_below(folder, *patterns):
    return {
        path.relative_to(folder): path.read_bytes() for pattern in patterns for path in folder.rglob(pattern) if path.is_file()
    }


def small(raw, *stages):
    """The study cut down to these stages, one operator, one seed."""
    raw["seeds"] = [0]
    for stage in TRAINING:
        raw[stage]["operators"] = ["add"] if stage in stages else []
    return raw


class TestFinished:
    """What a finished study leaves."""

    def test_runs_csv_has_the_documented_columns_and_a_row_per_training_run(self, finished):
        lines = (finished.results / "runs.csv").read_text(encoding="utf-8").splitlines()
        assert lines[0].split(",") == COLUMNS
        rows = rows_of(finished.results / "runs.csv")
        expected = [entry for entry in finished.entries.values() if entry["stage"] != "datasets"]
        assert [(row["stage"], row["name"]) for row in rows] == [(entry["stage"], entry["name"]) for entry in expected]
        assert len(rows) == 2 * (2 + 2 + 2 + 2 + 2)
        assert len({row["fingerprint"] for row in rows}) == len(rows)

    def test_rows_say_what_the_runs_are(self, finished):
        rows = {(row["stage"], row["name"]): row for row in rows_of(finished.results / "runs.csv")}
        row = rows["students", "sub-p7-p5-f40-adamw-distilled-s1"]
        expected = {
            **{"variant": "", "op": "sub", "p1": "7", "p2": "5", "p1_fraction": "", "fraction": "0.4", "optimizer": "adamw"},
            **{"method": "distilled", "loss": "stablemax", "teacher": "sub-p7-f50-adamw-scratch-s1", "alpha": "0.9"},
            **{"temperature": "relative 3", "position": "operator", "seed": "1", "steps": "6", "final_p1_acc": ""},
        }
        assert {name: row[name] for name in expected} == expected
        row = rows["baselines", "add-p7-p5-f40-adamw-scratch-s0"]
        assert [row[name] for name in ("teacher", "alpha", "temperature", "position")] == [""] * 4
        row = rows["joint", "add-p7-p5-f50-f40-adamw-supervised-s0"]
        assert (row["p1_fraction"], row["fraction"], row["alpha"], row["teacher"]) == ("0.5", "0.4", "", "")
        assert 0 <= float(row["final_p1_acc"]) <= 1
        row = rows["continual", "add-p7-p5-f40-adamw-supervised-s0"]
        assert (row["teacher"], row["alpha"]) == ("add-p7-f50-adamw-scratch-s0", "")
        row = rows["teachers", "add-p7-f50-adamw-scratch-s0"]
        assert (row["p1"], row["p2"], row["p1_fraction"], row["method"]) == ("7", "", "0.5", "scratch")

    def test_a_censored_run_has_empty_times(self, finished):
        rows = rows_of(finished.results / "runs.csv")
        assert {row["status"] for row in rows} <= {"grokked", "censored"}
        censored = [row for row in rows if row["status"] == "censored"]
        assert len(censored) > 10  # six updates teach nobody
        for row in censored:
            assert [row[name] for name in ("t_grok", "gap", "sharpness", "norm_grok")] == [""] * 4
            assert row["steps"] == "6"
            assert float(row["norm_end"]) > 0

    def test_costs_are_apart(self, finished):
        rows = rows_of(finished.results / "costs.csv")
        assert [row["fingerprint"] for row in rows] == [row["fingerprint"] for row in rows_of(finished.results / "runs.csv")]
        for row in rows:
            assert float(row["seconds"]) >= 0
            assert row["device"]
            assert json.loads(row["versions"])["torch"] == torch.__version__

    def test_many_runs_are_shown_as_cells(self, finished, tmp_path, capsys):
        """Each seed of a cell counts; few runs are shown one by one."""
        runs = pd.read_csv(finished.results / "runs.csv")
        (tmp_path / "claims.csv").write_text("claim,figure,statement,expected,measured,interval,n,verdict\n")
        cells = runs["stage"] + runs["name"].str.rsplit("-s", n=1).str[0]
        for copies, expected in ((1, len(runs)), (60, cells.nunique())):
            seeds = [runs.assign(name=runs["name"].str.replace(r"-s\d+$", f"-s{seed}", regex=True)) for seed in range(copies)]
            pd.concat(seeds if copies > 1 else [runs]).to_csv(tmp_path / "runs.csv", index=False)
            assert finished.command("show", tmp_path) == 0
            lines = capsys.readouterr().out.splitlines()
            assert sum(line.split()[:1] in [[stage] for stage in TRAINING] for line in lines) == expected
            assert not any("<NA>" in line or "nan" in line for line in lines)
        assert f"{expected} of {expected} cells with {60 * len(runs)} runs" in "\n".join(lines)

    def test_claims_with_runs_are_shown_and_the_others_named(self, finished, tmp_path, capsys):
        (tmp_path / "runs.csv").write_bytes((finished.results / "runs.csv").read_bytes())
        claims = ["judged,,it groks,,3/3,,3,reproduced", "few,,it groks,,needs 3 seeds,,1,not run", "absent,,so,,,,0,not run"]
        head = "claim,figure,statement,expected,measured,interval,n,verdict"
        (tmp_path / "claims.csv").write_text("\n".join([head, *claims, ""]))
        assert finished.command("show", tmp_path) == 0
        rows, _, rest = capsys.readouterr().out.partition("not run, since runs that they need are not there (1 claims")
        assert "judged" in rows and "few" in rows and "needs 3 seeds" in rows
        assert "absent" in rest and "few" not in rest and "judged" not in rest

    @pytest.mark.parametrize(
        ("content", "message"),
        [(None, "No such file"), ("", "No columns"), ("claim,n\na,3\n", "figure"), ("HEAD\na,,b,c,d,,x,partly\n", "'x'")],
    )
    def test_claims_that_cannot_be_read_are_named(self, finished, tmp_path, capsys, content, message):
        (tmp_path / "runs.csv").write_bytes((finished.results / "runs.csv").read_bytes())
        path = tmp_path / "claims.csv"
        if content is not None:
            path.write_text(content.replace("HEAD", "claim,figure,statement,expected,measured,interval,n,verdict"))
        assert finished.command("show", tmp_path) == 1
        printed = capsys.readouterr().err
        assert f"error: {path}: unreadable" in printed and message in printed and "snakemake claims" in printed

    def test_a_reader_that_stops_reading_is_no_fault(self, finished, repository):
        """Such as `head`: neither a long text nor a short one ends in a message."""
        environment = os.environ | {"PYTHONPATH": str(repository / "src"), "PYTHONUNBUFFERED": ""}
        for arguments in (["schema"], ["plan", "params.yaml"]):
            read, write = os.pipe()
            os.close(read)
            command = [sys.executable, "-m", "grokdistill", *arguments]
            done = subprocess.run(
                command, cwd=finished.folder, env=environment, stdout=write, stderr=subprocess.PIPE, text=True
            )
            os.close(write)
            assert done.returncode == 141
            assert "rror" not in done.stderr

    def test_the_one_file_of_curves_holds_each_run_s_own(self, finished):
        curves = read_curves(finished.results)
        for row in rows_of(finished.results / "runs.csv"):
            own = pd.read_csv(finished.results / "curves" / row["stage"] / f"{row['name']}.csv")
            pd.testing.assert_frame_equal(
                curves(row["stage"], row["name"]), own.dropna(axis=1, how="all"), check_dtype=False, check_like=True
            )
        with pytest.raises(FileNotFoundError, match="no curve of joint/nobody"):
            curves("joint", "nobody")

    def test_views_hold_exactly_the_runs(self, finished):
        for stage in TRAINING:
            names = {finished.entries[key]["name"] for key in finished.of(stage)}
            assert {path.name for path in (finished.results / stage).iterdir()} == names
            assert {path.stem for path in (finished.results / "curves" / stage).iterdir()} == names
            for key in finished.of(stage):
                name = finished.entries[key]["name"]
                view, stored = finished.results / stage / name, finished.stored(key)
                for file in ("record.json", "curve.csv", "checkpoint.safetensors"):
                    assert (view / file).read_bytes() == (stored / file).read_bytes()
                assert (finished.results / "curves" / stage / f"{name}.csv").read_bytes() == (stored / "curve.csv").read_bytes()
        names = {finished.entries[key]["name"] for key in finished.of("datasets")}
        assert {path.name for path in (finished.folder / "data/datasets").iterdir()} == names
        assert names == {"p7-s0", "p7-s1", "p5-s0", "p5-s1"}

    def test_datasets_hold_what_two_loops_find(self, finished):
        for key in finished.of("datasets"):
            config = finished.entries[key]["config"]
            prime = config["p1"]
            arrays, header = load_tensors(finished.stored(key) / "dataset.safetensors", "numpy")
            assert header == {"prime": prime, "seed": config["seed"]}
            assert arrays["add"].tolist() == [(a + b) % prime for a in range(prime) for b in range(prime)]
            assert arrays["sub"].tolist() == [(a - b) % prime for a in range(prime) for b in range(prime)]
            assert sorted(arrays["order"].tolist()) == list(range(prime**2))

    def test_metrics_are_nested_without_dots(self, finished):
        for stage in TRAINING:
            tree = json.loads((finished.results / "metrics" / f"{stage}.json").read_text())
            cells = []

            def walk(value, path, cells=cells):
                if "n" in value:
                    cells.append((path, value))
                else:
                    for key, inner in value.items():
                        assert "." not in key
                        walk(inner, (*path, key))

            walk(tree, ())
            assert len(cells) == len(finished.of(stage)) / 2
            for path, cell in cells:
                assert cell["n"] == 2
                assert 0 <= cell["share_grokked"] <= 1
                assert path[0] in ("add", "sub")
        tree = json.loads((finished.results / "metrics/students.json").read_text())
        cell = tree["add"]["p7-p5"]["f40"]["adamw"]["distilled"]
        rows = [row for row in rows_of(finished.results / "runs.csv") if (row["stage"], row["op"]) == ("students", "add")]
        assert cell["final_test_acc"] == pytest.approx(np.mean([float(row["final_test_acc"]) for row in rows]), rel=1e-4)

    def test_checkpoints_carry_their_configuration_and_load_into_the_textbook_model(self, finished):
        for stage in TRAINING:
            for key in finished.of(stage):
                path = finished.stored(key) / "checkpoint.safetensors"
                with safe_open(path, framework="pt") as file:
                    about = json.loads(file.metadata()["about"])
                assert about["config"] == finished.entries[key]["config"]
                assert about["shape"]["d_model"] == (24 if stage == "joint" else 16)
                textbook(finished, key)

    def test_records_carry_the_recipe_and_what_it_ran_on(self, finished):
        for key, entry in finished.entries.items():
            record = json.loads((finished.stored(key) / "record.json").read_text())
            assert record["fingerprint"] == key
            assert {name: record[name] for name in ("stage", "config", "parents", "sources")} == {
                name: entry[name] for name in ("stage", "config", "parents", "sources")
            }
            assert set(record["outputs"]) == {path.name for path in finished.stored(key).iterdir()} - {"record.json"}
            told = set(record["execution"])
            assert told == {"versions"} if entry["stage"] == "datasets" else {"seconds", "device", "versions"} <= told

    def test_datasets_and_their_records_are_the_same_bytes_wherever_they_are_made(self, finished, study, tiny):
        again = study(tiny)
        again.make("datasets")
        for key in finished.of("datasets"):
            for path in finished.stored(key).iterdir():
                assert (again.stored(key) / path.name).read_bytes() == path.read_bytes()

    @pytest.mark.parametrize("stage", TRAINING)
    def test_the_last_row_of_a_curve_is_what_the_checkpoint_scores(self, finished, stage):
        """Accuracies, losses and the weight norm of every run's end, computed again from its checkpoint by brute force."""
        for key in finished.of(stage):
            rows = rows_of(finished.stored(key) / "curve.csv")
            assert [row["step"] for row in rows] == ["0", "2", "4", "6"]
            for name, expected in scores(finished, key).items():
                found = rows[-1][name]
                assert found == "" if math.isnan(expected) else float(found) == pytest.approx(expected, rel=1e-5), (key, name)

    @pytest.mark.parametrize("stage", ["baselines", "students", "joint", "continual"])
    def test_every_evaluation_tells_same_from_different_answers_and_measures_the_embedding(self, finished, stage):
        """They ride on the training loop, since adding them later would make every result stale."""
        for key in finished.of(stage):
            for row in rows_of(finished.stored(key) / "curve.csv"):
                for name in ("weight_norm", "fourier_own", "fourier_teacher", "same_acc", "different_acc"):
                    assert 0 <= float(row[name]) <= (1e6 if name == "weight_norm" else 1), name


def textbook(study, key):
    """The run's final model."""
    tensors, header = load_tensors(study.stored(key) / "checkpoint.safetensors", "torch")
    model = Transformer(Shape(**header["shape"])).double()
    model.load_state_dict(tensors, strict=True)
    return model.eval()


def scores(study, key):
    """What the curve of a run should end with, from its checkpoint, the datasets and the definitions."""
    config, model = study.entries[key]["config"], textbook(study, key)
    names = {name: place for place, name in enumerate(model.shape.vocabulary)}
    op, stage = config["op"], config["stage"]

    def answer(a, b, prime):
        return (a + b if op == "add" else a - b) % prime

    def exam(prime, other, fraction):
        """Per pair: whether it is answered, its loss, whether it trains, whether the answers agree, whether it is covered."""
        inside = set(generate(prime, config["seed"]).order[: math.floor(round((fraction or 0) * prime**2, 9))].tolist())
        tokens = [[a, b, names[op], names[f"mod {prime}"]] for a in range(prime) for b in range(prime)]
        with torch.no_grad():
            logits = model(torch.tensor(tokens))[:, 3].numpy()
        found = []
        for number, row in enumerate(logits):
            a, b = divmod(number, prime)
            right = answer(a, b, prime)
            s = np.where(row >= 0, row + 1, 1 / (1 - np.minimum(row, 0)))
            same = other is not None and right == answer(a, b, other)
            covered = other is not None and a < other and b < other
            found.append((row.argmax() == right, -math.log(s[right] / s.sum()), number in inside, same, covered))
        return np.array(found)

    def mean(values):
        return values.mean() if len(values) else math.nan

    p1, p2 = config["p1"], config.get("p2")
    main = exam(p2 or p1, p1 if p2 else None, config["fraction"] if p2 else config["p1_fraction"])
    right, loss, inside, same = main[:, 0], main[:, 1], main[:, 2] == 1, main[:, 3] == 1
    expected = {"train_acc": mean(right[inside]), "test_acc": mean(right[~inside])}
    expected |= {"train_loss": mean(loss[inside]), "test_loss": mean(loss[~inside])}
    if p2:
        expected |= {"same_acc": mean(right[~inside & same]), "different_acc": mean(right[~inside & ~same])}
    if stage == "joint":
        del expected["same_acc"], expected["different_acc"]  # a test of their own says that they are there
        first = exam(p1, p2, config["p1_fraction"])
        expected |= {"p1_train_acc": mean(first[first[:, 2] == 1, 0]), "p1_acc": mean(first[first[:, 2] == 0, 0])}
    if stage == "continual":
        first = exam(p1, p2, None)
        expected |= {"p1_acc": mean(first[:, 0]), "p1_same_acc": mean(first[first[:, 3] == 1, 0])}
        expected |= {"p1_different_acc": mean(first[first[:, 3] == 0, 0]), "p1_covered_acc": mean(first[first[:, 4] == 1, 0])}
        expected |= {"p1_uncovered_acc": mean(first[first[:, 4] == 0, 0])}
    known = (p1, p2) if stage in ("joint", "continual") else (p2 or p1,)
    used = {*map(str, range(max(known))), op, *(f"mod {prime}" for prime in known)}
    total = 0.0
    for name, value in model.state_dict().items():
        if name == "embedding.weight":
            value = value[[names[token] for token in used]]
        total += float((value**2).sum())
    return expected | {"weight_norm": math.sqrt(total)}


def test_the_same_twice_gives_the_same_bytes(finished, study, tiny):
    """In another folder, in another order of the stages: tables, curves, metrics, checkpoints and datasets."""
    again = study(tiny)
    again.make("datasets", "teachers", "continual", "students", "baselines", "joint")
    again.finish()
    for patterns in (
        ("runs.csv",),
        ("curve.csv",),
        ("*.safetensors",),
        ("metrics/*.json",),
        ("curves/*/*.csv",),
        ("store/plans/*.json",),
    ):
        first, second = bytes_below(finished.results, *patterns), bytes_below(again.results, *patterns)
        assert first.keys() == second.keys() != set()
        assert [path for path in first if first[path] != second[path]] == []


def compare_studies(one, two, stages):
    """Curves and checkpoints of two studies agree to rounding; the names are the same and so are the fingerprints."""
    steps = {}
    for stage in stages:
        assert one.of(stage) == two.of(stage)
        for key in one.of(stage):
            first, second = (rows_of(made.stored(key) / "curve.csv") for made in (one, two))
            assert [row["step"] for row in first] == [row["step"] for row in second], key
            steps[key] = int(first[-1]["step"])
            for left, right in zip(first, second, strict=True):
                assert left.keys() == right.keys()
                for name in left:
                    assert left[name] == right[name] == "" or float(left[name]) == pytest.approx(
                        float(right[name]), rel=1e-5, abs=1e-9
                    )
            tensors = [load_tensors(made.stored(key) / "checkpoint.safetensors", "torch")[0] for made in (one, two)]
            for name, value in tensors[0].items():
                assert value.dtype == torch.float64
                assert torch.allclose(value, tensors[1][name], rtol=1e-8, atol=1e-10), (key, name)
    return steps


def test_seeds_in_one_job_are_those_of_single_jobs(finished, study, tiny):
    tiny["execution"] = {"seeds_per_job": 2}
    together = study(tiny)
    together.make("datasets", *TRAINING)
    compare_studies(finished, together, TRAINING)
    for stage in TRAINING:
        for key in together.of(stage):
            assert json.loads((together.stored(key) / "record.json").read_text())["execution"]["seeds_in_job"] == 2


def early(tiny):
    """Seeds of which most stop early, each at its own step."""
    tiny["seeds"] = [0, 1, 2]
    tiny["training"] |= {"early_stop": 2, "steps": 30, "steps_scarce": 30}
    tiny["evaluation"] = {"every": 1, "threshold": 0.12, "hold": 3}
    for stage in ("teachers", "baselines", "students"):
        tiny[stage]["operators"] = ["add"]
    tiny["continual"]["steps"] = 30
    return tiny


def test_seeds_in_one_job_stop_each_at_its_own_step(study, tiny):
    apart = study(early(tiny))
    tiny["execution"] = {"seeds_per_job": 3}
    together = study(tiny)
    for made in (apart, together):
        made.make("datasets", *TRAINING)
    steps = compare_studies(apart, together, TRAINING)
    differing = 0
    for stage in TRAINING:
        cells = {}
        for key in apart.of(stage):
            cells.setdefault(apart.entries[key]["cell"], set()).add(steps[key])
        differing += sum(len(found) > 1 for found in cells.values())
    assert differing >= 2  # or this test shows nothing


def test_an_early_stop_cuts_a_curve_and_changes_nothing_before(study, tiny):
    """The stopped run is the beginning of the whole one, goes on over the hold, and grokked at the same step."""
    tiny = early(tiny)
    tiny["students"]["operators"] = tiny["continual"]["operators"] = []
    tiny["joint"]["methods"] = ["supervised"]
    stopping = study(tiny)
    tiny["training"]["early_stop"] = None
    whole = study(tiny)
    for made in (stopping, whole):
        made.make("datasets", "teachers", "baselines", "joint")
        made.finish()
    stopped = 0
    for one, two in zip(*(rows_of(made.results / "runs.csv") for made in (stopping, whole)), strict=True):
        assert one["name"] == two["name"]
        assert (one["status"], one["t_grok"]) == (two["status"], two["t_grok"])
        first, second = (rows_of(made.results / "curves" / one["stage"] / f"{one['name']}.csv") for made in (stopping, whole))
        assert first == second[: len(first)]
        assert two["steps"] == "30"
        if one["steps"] != "30":
            assert int(one["steps"]) >= int(one["t_grok"]) + 3
            stopped += 1
    assert stopped >= 3


def test_the_ungrokked_teacher_stops_once_it_has_memorized(study, tiny):
    tiny = small(tiny, "teachers", "students")
    tiny["training"] |= {"steps": 60, "steps_scarce": 4, "scarce_fraction": 0.4, "batch_size": 32}
    tiny["optim"] |= {"learning_rate": 0.005, "weight_decay": 0.0}
    tiny["model"] |= {"d_model": 64, "d_mlp": 128}
    tiny["students"]["teacher"] = "ungrokked"
    made = study(tiny)
    made.make("datasets", "teachers", "students")
    by_name = {made.entries[key]["name"]: key for key in made.of("teachers")}
    control = rows_of(made.stored(by_name["add-p7-f50-adamw-scratch-until_memorized-s0"]) / "curve.csv")
    whole = rows_of(made.stored(by_name["add-p7-f50-adamw-scratch-s0"]) / "curve.csv")
    assert control == whole[: len(control)]
    assert 1 < len(control) < len(whole)
    assert float(control[-1]["train_acc"]) >= 0.99
    assert all(float(row["train_acc"]) < 0.99 for row in control[:-1])


def test_a_run_that_is_there_is_not_made_again(study, tiny, monkeypatch):
    made = study(small(tiny, "teachers", "students"))
    made.make("datasets", "teachers")
    before = bytes_below(made.results / "store", "*")
    monkeypatch.setattr(train.Trainer, "run", lambda *_: pytest.fail("trained again"))
    made.make("datasets", "teachers")
    assert made.command("train", made.plan, *made.of("teachers")) == 0
    assert bytes_below(made.results / "store", "*") == before


def test_of_a_job_only_what_is_missing_is_trained(study, tiny):
    tiny = small(tiny, "teachers")
    tiny["seeds"], tiny["execution"] = [0, 1, 2], {"seeds_per_job": 3}
    made = study(tiny)
    made.make("datasets")
    first, second, third = made.of("teachers")
    assert made.command("train", made.plan, second) == 0  # the others of its job come along
    assert all((made.stored(key) / "record.json").is_file() for key in (first, second, third))
    shutil.rmtree(made.stored(second))
    before = bytes_below(made.results / "store/teachers", "record.json")
    assert made.command("train", made.plan, first) == 0
    after = bytes_below(made.results / "store/teachers", "record.json")
    assert {path: after[path] for path in before} == before
    assert json.loads((made.stored(second) / "record.json").read_text())["execution"]["seeds_in_job"] == 1


def test_a_job_waits_for_what_all_its_seeds_are_made_from(study, tiny, capsys):
    """A dataset that one seed lacks stops the job with a message that names the stage to run."""
    tiny = small(tiny, "teachers")
    tiny["seeds"], tiny["execution"] = [0, 1], {"seeds_per_job": 2}
    made = study(tiny)
    made.make("datasets")
    lost = next(key for key in made.of("datasets") if made.entries[key]["name"] == "p7-s1")
    shutil.rmtree(made.stored(lost))
    assert made.command("train", made.plan, made.of("teachers")[0]) == 1
    message = capsys.readouterr().err
    assert lost in message
    assert "datasets" in message


def test_a_teacher_below_its_accuracy_may_not_teach(study, tiny, capsys):
    tiny = small(tiny, "teachers", "students", "continual", "joint")
    tiny["teachers"]["min_accuracy"] = 1.0
    made = study(tiny)
    made.make("datasets", "teachers")
    capsys.readouterr()
    for stage in ("students", "continual"):
        assert made.command("train", made.plan, "--stage", stage) == 1
        message = capsys.readouterr().err
        for said in ("add-p7-f50-adamw-scratch-s0", "min_accuracy", "training.steps", "teachers.fraction", "1.0"):
            assert said in message
        assert not list((made.results / "store" / stage).glob("*/record.json"))
    assert made.command("train", made.plan, "--stage", "joint") == 1


def test_a_control_may_teach_whatever_its_accuracy(study, tiny):
    tiny = small(tiny, "teachers", "students")
    tiny["teachers"]["min_accuracy"] = 1.0
    for teacher in ("ungrokked", "random", "oracle"):
        tiny["students"]["teacher"] = teacher
        made = study(tiny)
        made.make("datasets", "teachers", "students")


def test_sources_that_changed_since_the_plan_are_refused(study, tiny, capsys):
    made = study(small(tiny, "teachers"))
    document = json.loads(made.plan.read_text())
    for key in (*made.of("datasets"), *made.of("teachers")):
        document["runs"][key]["sources"] = "0" * 64
    made.plan.write_text(json.dumps(document))
    for arguments in (("dataset", made.plan, "--all"), ("train", made.plan, "--stage", "teachers")):
        assert made.command(*arguments) == 1
        message = capsys.readouterr().err
        assert "sources changed" in message
        assert "again" in message
    assert not list((made.results / "store").glob("*/*/record.json"))


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped", "another", "record", "no record"])
def test_a_damaged_teacher_is_named_and_nothing_is_trained_from_it(study, tiny, capsys, damage):
    tiny = small(tiny, "teachers", "students")
    tiny["seeds"] = [0, 1]
    made = study(tiny)
    made.make("datasets", "teachers")
    capsys.readouterr()
    first, second = made.of("teachers")
    path = made.stored(first) / ("record.json" if "record" in damage else "checkpoint.safetensors")
    content = path.read_bytes()
    path.unlink()
    flipped = content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
    other = (made.stored(second) / path.name).read_bytes()
    written = {"truncated": content[: len(content) // 2], "flipped": flipped, "another": other, "record": other}.get(damage)
    if written is not None:
        path.write_bytes(written)
    student = next(key for key in made.of("students") if made.entries[key]["parents"]["teacher"] == first)
    assert made.command("train", made.plan, student) == 1
    message = capsys.readouterr().err
    assert str(path.relative_to(made.folder)) in message
    assert ("run its stage first" if damage == "no record" else "delete the folder") in message
    assert not (made.stored(student) / "record.json").exists()


@pytest.mark.parametrize("damage", ["missing", "truncated", "flipped"])
def test_a_damaged_dataset_is_named_and_remade_once_its_folder_is_gone(study, tiny, capsys, damage):
    made = study(small(tiny, "teachers"))
    made.make("datasets")
    (teacher,) = made.of("teachers")
    folder = made.stored(made.entries[teacher]["parents"]["p1_dataset"])
    path = folder / "dataset.safetensors"
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content[:50] if damage == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
    assert made.command("train", made.plan, teacher) == 1
    assert str(path.relative_to(made.folder)) in capsys.readouterr().err
    shutil.rmtree(folder)
    made.make("datasets", "teachers")
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["curve.csv", "checkpoint.safetensors"])
def test_publishing_refuses_a_damaged_run_and_leaves_the_old_view(study, tiny, capsys, name):
    made = study(small(tiny, "teachers"))
    made.make("datasets", "teachers")
    assert made.command("publish", made.plan, "teachers") == 0
    before = bytes_below(made.results / "teachers", "*")
    (made.stored(made.of("teachers")[0]) / name).write_text("step\n")
    assert made.command("publish", made.plan, "teachers") == 1
    assert name in capsys.readouterr().err
    assert bytes_below(made.results / "teachers", "*") == before


def test_publishing_removes_what_is_no_longer_part_of_the_study(study, tiny):
    made = study(small(tiny, "teachers") | {"seeds": [0, 1]})
    made.make("datasets", "teachers")
    assert made.command("publish", made.plan, "teachers") == 0
    assert len(list((made.results / "teachers").iterdir())) == 2
    fewer = json.loads(made.plan.read_text())
    dropped = made.of("teachers")[1]
    del fewer["runs"][dropped]
    made.plan.write_text(json.dumps(fewer))
    assert made.command("publish", made.plan, "teachers") == 0
    assert [path.name for path in (made.results / "teachers").iterdir()] == ["add-p7-f50-adamw-scratch-s0"]
    assert [path.name for path in (made.results / "curves/teachers").iterdir()] == ["add-p7-f50-adamw-scratch-s0.csv"]
    assert (made.results / "store/teachers" / dropped / "record.json").is_file()  # the store forgets nothing


def test_publishing_before_training_names_the_stage(study, tiny, capsys):
    made = study(small(tiny, "teachers"))
    assert made.command("publish", made.plan, "teachers") == 1
    assert "run its stage first (teachers)" in capsys.readouterr().err
    assert not (made.results / "teachers").exists()


def test_a_change_of_threshold_retrains_nothing_and_changes_the_table(study, tiny, monkeypatch):
    made = study(small(tiny, "teachers"))
    made.make("datasets", "teachers")
    made.finish()
    assert [row["status"] for row in rows_of(made.results / "runs.csv")] == ["censored"]
    monkeypatch.setattr(train.Trainer, "run", lambda *_: pytest.fail("trained again"))
    tiny["evaluation"] |= {"threshold": 0.0001, "hold": 0}
    shutil.rmtree(made.results / "store/plans")
    again = type(made)(made.folder, tiny)
    again.make("datasets", "teachers")
    again.finish()
    (row,) = rows_of(made.results / "runs.csv")
    assert row["status"] == "grokked"
    assert int(row["t_grok"]) >= 0


@pytest.mark.parametrize("fingerprint", ["0" * 20, "no"])
def test_a_run_that_the_plan_does_not_know_is_refused(study, tiny, capsys, fingerprint):
    made = study(small(tiny, "teachers"))
    assert made.command("train", made.plan, fingerprint) == 1
    assert fingerprint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["train", "PLAN", "--threads", "0"], "--threads: 0 is no whole number from 1"),
        (["train", "PLAN", "--threads", "-1"], "--threads: -1 is no whole number from 1"),
        (["figures", "PLAN", "8"], "N: 8 is no whole number from 1 to 7"),
        (["figures", "PLAN", "two"], "N: two is no whole number from 1 to 7"),
    ],
)
def test_numbers_out_of_bounds_are_refused(options, message, capsys):
    from grokdistill.cli import main

    with pytest.raises(SystemExit):
        main(options)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("device", ["foo", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_locked(study, tiny, capsys, device):
    made = study(small(tiny, "teachers"))
    made.make("datasets")
    assert made.command("train", made.plan, made.of("teachers")[0], "--device", device) == 1
    assert f"error: device {device}: PyTorch {torch.__version__} cannot use it" in capsys.readouterr().err
    assert not (made.results / "store" / "teachers").exists()


def test_training_a_dataset_is_refused(study, tiny, capsys):
    made = study(small(tiny, "teachers"))
    made.make("datasets")
    shutil.rmtree(made.stored(made.of("datasets")[0]))
    assert made.command("train", made.plan, made.of("datasets")[0]) == 1
    assert "dataset" in capsys.readouterr().err


def test_wrong_parameters_end_the_command_line_with_a_message(tmp_path, monkeypatch, capsys):
    from grokdistill.cli import main

    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("seeds: [0]\nprimes: {p1: 9}\njoint: {cells: []}\n")
    assert main(["plan", "params.yaml"]) == 1
    message = capsys.readouterr().err
    assert "primes.p1" in message
    assert "found 9" in message
    assert list(tmp_path.iterdir()) == [tmp_path / "params.yaml"]


def test_dropout_is_drawn_from_the_runs_seed(study, tiny):
    """The same bytes whether a run is trained first or after others, and other masks for another seed."""
    tiny = small(tiny, "teachers", "baselines")
    tiny["model"] |= {"dropout": 0.3}
    first, second = study(tiny), study(tiny)
    first.make("datasets", "baselines")
    torch.manual_seed(123)  # whatever the process did before
    second.make("datasets", "baselines")
    one, two = (bytes_below(made.results / "store/baselines", "*.safetensors") for made in (first, second))
    assert one == two != {}


def test_dropout_of_a_seed_does_not_depend_on_its_job(study, tiny):
    tiny = small(tiny, "baselines")
    tiny["seeds"], tiny["model"]["dropout"] = [0, 1], 0.3
    apart = study(tiny)
    tiny["execution"] = {"seeds_per_job": 2}
    together = study(tiny)
    for made in (apart, together):
        made.make("datasets", "baselines")
    compare_studies(apart, together, ["baselines"])


def test_tf32_is_single_precision_on_a_processor(study, tiny):
    """The switch is a GPU's; it is another recipe all the same."""
    tiny = small(tiny, "baselines")
    curves = []
    for precision in ("float32", "tf32"):
        tiny["training"]["precision"] = precision
        made = study(tiny)
        made.make("datasets", "baselines")
        (run,) = made.of("baselines")
        curves.append((run, (made.stored(run) / "curve.csv").read_bytes()))
    (one, plain), (two, switched) = curves
    assert one != two
    assert plain == switched


def test_a_deeper_model_runs_through_every_stage(study, tiny):
    tiny = small(tiny, *TRAINING)
    tiny["model"] |= {"n_layers": 2, "norm": "before"}
    tiny["training"]["precision"] = "float32"
    made = study(tiny)
    made.make("datasets", *TRAINING)
    made.finish()
    assert len(rows_of(made.results / "runs.csv")) == 7


def test_a_larger_second_modulus_runs_through_every_stage(study, tiny):
    tiny = small(tiny, *TRAINING)
    tiny["primes"] = {"p1": 5, "p2": 7}
    made = study(tiny)
    made.make("datasets", *TRAINING)
    made.finish()
    (student,) = made.of("students")
    record = json.loads((made.stored(student) / "record.json").read_text())
    training = [divmod(number, 7) for number in generate(7, 0).order[: math.floor(0.4 * 49)].tolist()]
    assert record["facts"]["covered_share"] == pytest.approx(sum(a < 5 and b < 5 for a, b in training) / len(training))
