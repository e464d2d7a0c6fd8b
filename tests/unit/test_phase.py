"""The phase diagram, on runs made up from known thresholds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import binom

from grokdistill import phase
from grokdistill.intervals import wilson

FRACTIONS = np.array([0.10, 0.20, 0.25, 0.30, 0.35])
PAIR = (113, 107)


def runs(grokked: dict[float, int], n: int, **more: object) -> pd.DataFrame:
    """`n` seeds per fraction, of which so many grokked."""
    cell = {"stage": "students", "variant": "", "p1": 113, "p2": 107, "op": "add", "optimizer": "adamw", "method": "distilled"}
    rows = [
        cell | {"fraction": fraction, "seed": seed, "status": "grokked" if seed < hits else "censored"} | more
        for fraction, hits in grokked.items()
        for seed in range(n)
    ]
    return pd.DataFrame(rows)


def test_the_threshold_lies_between_the_last_that_fails_and_the_first_that_groks():
    estimate, low, high = phase.threshold(FRACTIONS, np.array([0, 0, 0, 5, 5]), np.full(5, 5))
    assert estimate == pytest.approx(0.275, abs=1e-3)
    assert 0.24 < low < 0.26 and 0.29 < high < 0.31


def test_what_lies_beyond_the_fractions_stays_open():
    assert phase.threshold(FRACTIONS, np.zeros(5), np.full(5, 5)) == (np.inf, np.inf, np.inf)
    assert phase.threshold(FRACTIONS, np.full(5, 5), np.full(5, 5)) == (-np.inf, -np.inf, -np.inf)
    estimate, low, high = phase.threshold(FRACTIONS, np.array([0, 0, 0, 0, 1]), np.ones(5))  # one seed says less
    assert 0.30 < estimate < 0.35 and low < 0.30 and high == np.inf


def test_fewer_seeds_give_a_wider_interval():
    one, five = (phase.threshold(FRACTIONS, np.array([0, 0, 0, n, n]), np.full(5, n)) for n in (1, 5))
    assert one[1] < five[1] < five[2] < one[2]


def test_the_interval_covers_a_known_threshold_about_as_often_as_it_says():
    """Every outcome of five seeds at three fractions, weighed by its chance: no draws."""
    truth, rate, fractions = 0.24, 60.0, np.array([0.20, 0.25, 0.30])
    chances = expit(rate * (fractions - truth))
    covered = 0.0
    for hits in np.ndindex(6, 6, 6):
        _, low, high = phase.threshold(fractions, np.array(hits), np.full(3, 5))
        covered += (low <= truth <= high) * binom.pmf(hits, 5, chances).prod()
    assert 0.9 < covered <= 1


def test_the_table_takes_default_runs_of_the_main_pair():
    distilled = runs({0.20: 1, 0.25: 5, 0.30: 5}, 5)
    scratch = runs({0.25: 0, 0.30: 5}, 5, stage="baselines", method="scratch")
    other = [
        runs({0.20: 5}, 5, variant="alpha=0.5"), runs({0.20: 5}, 5, p2=97), runs({0.35: 5}, 5, stage="continual"),
        runs({0.20: 5}, 5, optimizer="adam"),  # one fraction makes no curve
    ]  # fmt: skip
    found = phase.table(pd.concat([distilled, scratch, *other]), PAIR).set_index("method")
    assert found["runs"].to_dict() == {"distilled": 15, "scratch": 10}
    assert found["grokked"].to_dict() == {"distilled": 11, "scratch": 5}
    assert 0.20 < found.loc["distilled", "threshold"] < 0.25 < found.loc["scratch", "threshold"] < 0.30


@pytest.mark.parametrize("frame", [runs({0.20: 1, 0.25: 5}, 5), runs({0.20: 1}, 1), runs({0.20: 1}, 1).iloc[:0]])
def test_the_picture_is_the_same_bytes_for_the_same_runs(frame, tmp_path):
    for name in ("one", "two"):
        phase.draw(frame, PAIR, tmp_path / name, 80)
    for kind in ("png", "pdf"):
        first, second = ((tmp_path / name / f"phase.{kind}").read_bytes() for name in ("one", "two"))
        assert first == second


def test_the_picture_shows_shares_with_their_intervals_and_thresholds_below(tmp_path):
    scratch = runs({0.25: 0, 0.30: 5}, 5, stage="baselines", method="scratch")
    figure = phase.draw(pd.concat([scratch, runs({0.20: 1, 0.25: 5}, 5)]), PAIR, tmp_path, 50)
    ax = figure.axes[0]
    assert ax.get_title(loc="left") == "add, AdamW"
    for place, (shares, method) in enumerate((([0.0, 1.0], "scratch"), ([0.2, 1.0], "distilled"))):
        drawn = ax.containers[place]
        assert drawn.get_label() == method
        assert drawn.lines[0].get_ydata().tolist() == shares
        ends = [segment[:, 1] for segment in drawn.lines[2][0].get_segments()]
        expected = [wilson(int(5 * share), 5) for share in shares]
        assert np.allclose(ends, expected)
    below = [line for line in ax.lines if max(line.get_ydata()) < 0]
    assert len({line.get_ydata()[0] for line in below}) == 2  # a height per method
    (left, right), ends = ax.get_xlim(), np.concatenate([line.get_xdata() for line in below])
    assert left < ends.min() < 0.2  # an open side reaches beyond what was run, and ends inside the picture
    assert ends.max() < right
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["scratch, n = 5", "distilled, n = 5"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["20%", "25%", "30%"]
    assert np.allclose(ax.get_xticks(), [0.2, 0.25, 0.3])
    assert "bars below" in figure.get_supxlabel()


def test_a_threshold_wholly_outside_of_what_was_run_has_its_bar_at_that_edge(tmp_path):
    scratch = runs({0.20: 0, 0.25: 0}, 5, stage="baselines", method="scratch")
    figure = phase.draw(pd.concat([scratch, runs({0.20: 5, 0.25: 5}, 5)]), PAIR, tmp_path, 50)
    ax = figure.axes[0]
    bars = [line.get_xdata() for line in ax.lines if max(line.get_ydata()) < 0 and len(line.get_xdata()) == 2]
    scratch, distilled = sorted(bars, key=max, reverse=True)
    left, right = ax.get_xlim()
    assert left < distilled[0] < 0.2 and distilled[1] - distilled[0] > 0.01
    assert 0.25 < scratch[1] < right and scratch[1] - scratch[0] > 0.01
    arrows = {line.get_marker(): line.get_xdata()[0] for line in ax.lines if line.get_marker() in ("<", ">")}
    assert arrows == {"<": distilled[0], ">": scratch[1]}  # at the open ends


def test_one_fraction_stands_in_the_middle_without_a_threshold(tmp_path):
    scratch = runs({0.20: 0}, 5, stage="baselines", method="scratch")
    figure = phase.draw(pd.concat([scratch, runs({0.20: 5}, 5)]), PAIR, tmp_path, 50)
    (left, right), ax = figure.axes[0].get_xlim(), figure.axes[0]
    for drawn in ax.containers:
        assert 0.4 < (drawn.lines[0].get_xdata()[0] - left) / (right - left) < 0.6
    assert "bars below" not in figure.get_supxlabel()
