"""Variants beside their defaults, on rows made by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from grokdistill import readings

CELL = {"stage": "students", "p1": 113, "p2": 107, "op": "add", "optimizer": "adamw", "p1_fraction": None, "fraction": 0.2}


def row(variant: str, seed: int, accuracy: float, steps: int = 30_000, **more: object) -> dict:
    grokked = accuracy > 0.95
    outcome = {"status": "grokked" if grokked else "censored", "t_grok": 1000 + seed if grokked else None}
    measured = {"final_test_acc": accuracy, "final_p1_acc": None, "steps": steps}
    name = f"{variant}-s{seed}"
    return CELL | {"method": "distilled", "variant": variant, "seed": seed, "name": name} | outcome | measured | more


def curve(stage: str, name: str) -> pd.DataFrame:
    """A curve whose last `same_acc` is a percent per seed above 99."""
    seed = int(name.rpartition("-s")[2])
    return pd.DataFrame({"step": [0, 10], "test_acc": [0.0, 0.5], "same_acc": [0.0, (seed - 99) / 100]})


RUNS = pd.DataFrame(
    [
        *(row("", seed, 0.99) for seed in (100, 101)),
        row("", 100, 0.99, fraction=0.25),  # a cell without a variant is not compared
        row("alpha=0.5,steps=3000", 100, 0.5, 3000),
        *(row("alpha=0.5,steps=9000", seed, accuracy, 9000) for seed, accuracy in ((100, 0.6), (101, 0.97), (102, 0.98))),
        row("steps=3000", 100, 0.8, 3000),  # the default, shorter
        row("alpha=0.5,position=modulus", 100, 0.1),
    ]
)


def test_a_row_per_reading_and_length_of_the_cells_that_vary():
    found = readings.table(RUNS, curve).set_index(["reading", "steps"])
    assert list(found.index) == [
        ("default", 30_000), ("alpha=0.5", 3000), ("alpha=0.5", 9000), ("default", 3000),
        ("alpha=0.5,position=modulus", 30_000),
    ]  # fmt: skip
    assert found["n"].tolist() == [2, 1, 3, 1, 1]
    assert found["grokked"].tolist() == [2, 0, 2, 0, 0]
    assert found["t_grok"].tolist() == [1101, pd.NA, 1102, pd.NA, pd.NA]
    assert found["test_acc"].tolist() == pytest.approx([0.99, 0.5, 0.97, 0.8, 0.1])
    assert found.loc[("alpha=0.5", 9000), ["test_acc_min", "test_acc_max"]].tolist() == pytest.approx([0.6, 0.98])
    assert set(found["fraction"]) == {0.2}
    assert found["same_acc"].tolist() == pytest.approx([0.015, 0.01, 0.02, 0.01, 0.01])  # the median over seeds
    assert found["p1_covered_acc"].isna().all()


def test_a_run_that_stopped_early_is_listed_with_its_own_reading():
    early = pd.DataFrame([row("", 0, 0.99, 900), row("", 1, 0.99, 1200), row("alpha=0.5", 0, 0.2)])
    found = readings.table(early, curve)
    assert found["n"].tolist() == [2, 1]
    assert found["steps"].tolist() == [1200, 30_000]


def test_a_study_without_variants_has_an_empty_table_and_a_picture_that_says_so(tmp_path):
    frame = readings.table(RUNS[RUNS["variant"] == ""], curve)
    assert frame.empty
    assert list(frame)[10:14] == ["n", "grokked", "t_grok", "test_acc"]
    readings.draw(frame, tmp_path / "readings.png", 100)
    readings.draw_curves(RUNS[RUNS["variant"] == ""], curve, tmp_path / "curves.png", 100)
    assert (tmp_path / "readings.png").stat().st_size > 1000


def test_curves_of_the_default_and_of_the_best_readings(tmp_path):
    many = [row(f"alpha=0.{rank}", 100, rank / 10) for rank in range(1, 10)]
    runs = pd.DataFrame([row("", 100, 0.05), *many])
    curves = {name: pd.DataFrame({"step": [0, 9], "test_acc": [0, rank]}) for rank, name in enumerate(runs["name"])}
    figure = readings.draw_curves(runs, lambda stage, name: curves[name], tmp_path / "curves.png", 50)
    drawn = {line.get_label(): line for line in figure.axes[0].lines}
    assert set(drawn) == {"default", *(f"alpha=0.{rank}" for rank in range(4, 10))}
    assert drawn["alpha=0.9"].get_ydata().tolist() == [0, 9]
    assert [name for name, line in drawn.items() if line.get_linestyle() == "--"] == ["default"]
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == [*(f"alpha=0.{rank}" for rank in range(9, 3, -1)), "default"]


def test_f_m_is_judged_by_the_prime_it_knows_less_well(tmp_path):
    cell = {"stage": "joint", "p1_fraction": 0.35}
    runs = pd.DataFrame(
        [
            row("", 100, 0.9, **cell | {"final_p1_acc": 0.5}),
            row("alpha=0.5", 100, 0.7, **cell | {"final_p1_acc": 0.6}),
            row("alpha=0.7", 100, 0.99, **cell | {"final_p1_acc": 0.1}),
        ]
    )
    both = pd.DataFrame({"step": [0, 9], "test_acc": [0.0, 0.8], "p1_acc": [0.0, 0.3]})
    figure = readings.draw_curves(runs, lambda stage, name: both, tmp_path / "curves.png", 50)
    assert all(line.get_ydata().tolist() == [0.0, 0.3] for line in figure.axes[0].lines)
    title = "".join(figure.axes[0].get_title(loc=side) for side in ("left", "center"))
    assert title.startswith("joint: ") and title.endswith("35%+20%")
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["alpha=0.5", "default", "alpha=0.7"]


def test_the_picture_ranks_readings_and_judges_f_m_by_the_prime_it_knows_less_well():
    variants = {"": 0.7, "alpha=0.5": 0.9, "alpha=0.9": 0.8}
    joint = [row(name, 0, p2, stage="joint", p1_fraction=0.35, final_p1_acc=0.75) for name, p2 in variants.items()]
    accuracy, seeds = readings._block(readings.table(pd.DataFrame(joint), curve))
    assert list(accuracy.index) == [f"{name}, 30,000 steps" for name in ("alpha=0.5", "alpha=0.9", "default")]
    assert accuracy.iloc[:, 0].tolist() == pytest.approx([0.75, 0.75, 0.7])
    students = pd.DataFrame([row(name, 0, p2) for name, p2 in variants.items()])
    accuracy, seeds = readings._block(readings.table(students, curve))
    assert accuracy.iloc[:, 0].tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert seeds.iloc[:, 0].tolist() == ["0.90  0/1", "0.80  0/1", "0.70  0/1"]


def test_the_picture_is_the_same_bytes_for_the_same_table(tmp_path):
    frame = readings.table(RUNS, curve)
    for name in ("one", "two"):
        readings.draw(frame, tmp_path / name / "readings.png", 100)
    first, second = ((tmp_path / name / "readings.png").read_bytes() for name in ("one", "two"))
    assert first == second
    assert first.startswith(b"\x89PNG")
