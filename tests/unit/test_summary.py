"""From a curve to a row of the table and to metrics, on curves made by hand."""

import pandas as pd
import pytest

from grokdistill.params import Evaluation
from grokdistill.summary import COLUMNS, _cell_metrics, cell_of, measure, over_seeds, table

EVALUATION = Evaluation(every=100, threshold=0.9, hold=200, memorized=0.99)
DOCUMENTED = [
    *("stage", "name", "variant", "op", "p1", "p2", "p1_fraction", "fraction", "optimizer", "method", "loss", "teacher"),
    *("alpha", "temperature", "position", "seed", "steps", "status", "t_mem", "t_grok", "gap", "sharpness"),
    *("final_train_acc", "final_test_acc", "final_p1_acc", "norm_start", "norm_grok", "norm_end", "fingerprint"),
]


def curve(train, test, **more):
    steps = [100 * i for i in range(len(train))]
    norms = [50.0 - i for i in range(len(train))]
    return pd.DataFrame({"step": steps, "train_acc": train, "test_acc": test, "weight_norm": norms} | more)


def test_the_columns_are_the_documented_ones():
    assert list(COLUMNS) == DOCUMENTED


def test_a_grokked_run():
    """Memorized at 200, above the threshold from 500 on: a gap of 300 steps, three fifths of t_grok."""
    run = measure(
        curve([0, 0.5, 0.99, 1, 1, 1, 1, 1, 0.98], [0, 0, 0.1, 0.95, 0.5, 0.9, 0.95, 0.99, 0.97]), "students", EVALUATION, None
    )
    assert run["status"] == "grokked"
    assert (run["t_mem"], run["t_grok"], run["gap"], run["steps"]) == (200, 500, 300, 800)
    assert run["sharpness"] == pytest.approx(0.6)
    assert (run["final_train_acc"], run["final_test_acc"], run["final_p1_acc"]) == (0.98, 0.97, None)
    assert (run["norm_start"], run["norm_grok"], run["norm_end"]) == (50.0, 45.0, 42.0)


def test_a_censored_run_has_no_time_of_grokking():
    run = measure(curve([0, 0.5, 1, 1], [0, 0.2, 0.3, 0.95]), "baselines", EVALUATION, None)
    assert (run["status"], run["t_mem"], run["steps"]) == ("censored", 200, 300)
    assert [run[name] for name in ("t_grok", "gap", "sharpness", "norm_grok")] == [None] * 4
    assert run["norm_end"] == 47.0


def test_a_diverged_run_has_no_time_of_grokking_either():
    run = measure(curve([1, 1, 1, 1], [0.95, 0.95, 0.95, 0.95]), "baselines", EVALUATION, 400)
    assert run["status"] == "diverged"
    assert run["t_grok"] is None


def test_a_run_that_never_memorized_has_no_gap():
    run = measure(curve([0, 0.9, 0.9, 0.9, 0.9], [0, 0.95, 0.95, 0.95, 0.95]), "students", EVALUATION, None)
    assert (run["status"], run["t_mem"], run["t_grok"], run["gap"], run["sharpness"]) == ("grokked", None, 100, None, None)


def test_a_joint_run_groks_once_both_primes_do():
    train = [0, 1, 1, 1, 1, 1, 1]
    later = measure(
        curve(train, [0, 1, 1, 1, 1, 1, 1], p1_acc=[0, 0, 0, 1, 1, 1, 1], p1_train_acc=train), "joint", EVALUATION, None
    )
    assert later["t_grok"] == 300
    assert later["final_p1_acc"] == 1
    never = measure(
        curve(train, [0, 1, 1, 1, 1, 1, 1], p1_acc=[0, 1, 0, 1, 0, 1, 0], p1_train_acc=train), "joint", EVALUATION, None
    )
    assert never["status"] == "censored"
    continual = measure(curve(train, [0, 1, 1, 1, 1, 1, 1], p1_acc=[1, 0, 0, 0, 0, 0, 0]), "continual", EVALUATION, None)
    assert (continual["t_grok"], continual["final_p1_acc"]) == (100, 0)


def test_a_joint_run_has_memorized_once_both_training_sets_are():
    """t_mem and t_grok speak of the same data, or their difference is no gap."""
    run = measure(
        curve(
            [0, 1, 1, 1, 1, 1, 1, 1],
            [0, 0, 0, 0, 1, 1, 1, 1],
            p1_train_acc=[0, 0, 0, 1, 1, 1, 1, 1],
            p1_acc=[0, 0, 0, 0, 1, 1, 1, 1],
        ),
        "joint",
        EVALUATION,
        None,
    )
    assert (run["t_mem"], run["t_grok"], run["gap"]) == (300, 400, 100)


def test_thresholds_are_those_of_the_parameters():
    whole = curve([0, 0.8, 0.995, 1, 1, 1], [0, 0.8, 0.8, 0.85, 0.85, 0.85])
    assert measure(whole, "students", EVALUATION, None)["status"] == "censored"
    looser = Evaluation(every=100, threshold=0.7, hold=400, memorized=0.5)
    run = measure(whole, "students", looser, None)
    assert (run["status"], run["t_mem"], run["t_grok"]) == ("grokked", 100, 100)


def test_metrics_of_a_cell():
    """Censored runs count as longest in the median, and do not enter the norm at t_grok."""

    def row(t_grok, norm):
        return {
            **{"status": "censored" if t_grok is None else "grokked", "t_mem": 100, "t_grok": t_grok, "final_train_acc": 1.0},
            **{"final_test_acc": 0.5, "final_p1_acc": None, "norm_start": 40.0, "norm_grok": norm, "norm_end": float("nan")},
            "steps": 1000,
        }

    found = _cell_metrics([row(500, 30.0), row(None, None), row(900, 50.0)])
    assert found == {
        **{"n": 3, "share_grokked": pytest.approx(2 / 3), "t_mem": 100, "t_grok": 900, "final_train_acc": 1.0},
        **{"final_test_acc": 0.5, "norm_start": 40.0, "norm_grok": 40.0},
    }
    assert "t_grok" not in _cell_metrics([row(500, 30.0), row(None, None), row(None, None)])
    assert _cell_metrics([row(None, None)])["share_grokked"] == 0


def test_whole_numbers_stay_whole_in_the_table():
    frame = table([{"seed": 0, "t_mem": 100, "t_grok": None, "p1": 113}, {"seed": 1, "t_mem": None, "t_grok": 300, "p1": 113}])
    text = frame.to_csv(index=False)
    head, first, second = (line.split(",") for line in text.splitlines())
    assert head == DOCUMENTED
    assert [first[head.index(name)] for name in ("seed", "t_mem", "t_grok", "p1", "p2")] == ["0", "100", "", "113", ""]
    assert second[head.index("t_grok")] == "300"


def test_cells_count_censored_seeds_as_longest():
    seeds = [("a", 0, 100, 1.0), ("a", 1, None, 0.4), ("a", 12, 300, 1.0), ("b", 0, None, 0.2), ("b", 1, 500, 0.9)]
    rows = [
        {
            "stage": "students",
            "name": f"add-{cell}-s{seed}",
            "cell": cell,
            "seed": seed,
            "steps": 1000,
            "status": "grokked" if time else "censored",
        }
        | {"t_grok": time, "final_test_acc": accuracy, "final_p1_acc": None}
        for cell, seed, time, accuracy in seeds
    ]
    found = over_seeds(pd.DataFrame(rows), ["stage", "cell"])
    assert found["cell"].tolist() == ["a", "b"]
    assert found["n"].tolist() == [3, 2]
    assert found["grokked"].tolist() == [2, 1]
    assert found["t_grok"].tolist() == [300, pd.NA]
    assert found["test_acc"].tolist() == pytest.approx([1.0, 0.55])


def test_a_cell_is_a_name_without_its_seed():
    names = pd.Series(["add-p113-f35-adamw-scratch-s12", "sub-p7-p5-f40-adam-distilled-steps_9-s0"])
    assert cell_of(names).tolist() == ["add-p113-f35-adamw-scratch", "sub-p7-p5-f40-adam-distilled-steps_9"]
