"""When a run grokked: the rule by hand, and against a brute-force reading of its definition."""

import numpy as np
import pytest

from grokdistill.measures import first_reached, grokking_time


def curve(text, every=100):
    """Steps and accuracies from a drawing: '#' at the threshold or above, '.' below."""
    return [every * i for i in range(len(text))], [0.95 if mark == "#" else 0.94 for mark in text]


@pytest.mark.parametrize(
    ("text", "hold", "expected"),
    [
        ("......", 500, None),  # never
        ("..######", 500, 200),  # exactly long enough
        ("..#####", 500, None),  # crossed, but the run ends before the hold does
        ("..#####.######", 500, 800),  # a dip starts it anew
        ("..#.#.#.#.#.#.", 500, None),
        ("..#", 0, 200),  # without a hold, the first crossing counts, even the last evaluation
        ("..#...", 0, 200),
        (".....#", 500, None),
        ("######", 500, 0),  # from the start
        ("#.....", 0, 0),
        ("..#######......", 500, 200),  # held, and lost afterwards
        ("...##", 100, 300),
        ("...#.", 100, None),
    ],
)
def test_by_hand(text, hold, expected):
    steps, accuracy = curve(text)
    assert grokking_time(steps, accuracy, threshold=0.95, hold=hold) == expected


def test_defaults_are_the_documented_ones():
    steps, accuracy = curve("..######")
    assert grokking_time(steps, accuracy) == 200
    assert grokking_time(steps, [value - 0.001 for value in accuracy]) is None
    assert grokking_time(steps[:-1], accuracy[:-1]) is None


def test_the_step_is_a_whole_number_from_any_sequence():
    steps, accuracy = curve("..######")
    for found in (grokking_time(np.array(steps), np.array(accuracy)), grokking_time(tuple(steps), tuple(accuracy))):
        assert found == 200
        assert isinstance(found, int)


def test_a_missing_accuracy_is_not_above_the_threshold():
    steps, accuracy = curve("..########")
    accuracy[4] = float("nan")
    assert grokking_time(steps, accuracy, hold=500) is None
    assert grokking_time(steps, accuracy, hold=300) == 500


def test_against_the_definition_read_literally():
    """First step s whose evaluations in s..s+hold are all at or above the threshold, with s+hold within the run."""
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(600):
        length, every = int(rng.integers(1, 30)), int(rng.choice([1, 50, 100]))
        hold, threshold = every * int(rng.integers(0, 6)), float(rng.uniform(0.1, 0.9))
        steps = [every * i for i in range(length)]
        accuracy = np.clip(rng.normal(threshold, 0.4, length) + rng.uniform(-0.5, 0.8), 0, 1).tolist()
        expected = None
        for start in steps:
            window = [value for step, value in zip(steps, accuracy, strict=True) if start <= step <= start + hold]
            if start + hold <= steps[-1] and min(window) >= threshold:
                expected = start
                break
        assert grokking_time(steps, accuracy, threshold, hold) == expected
        outcomes.add(expected)
    assert None in outcomes
    assert len(outcomes) > 5


def test_first_reached():
    assert first_reached([0, 50, 100, 150], [0.1, 0.99, 0.5, 1.0], 0.99) == 50
    assert first_reached([0, 50], [0.1, 0.989], 0.99) is None
    assert first_reached([0, 50], [1.0, 0.0], 0.99) == 0
    assert isinstance(first_reached(np.array([0, 50]), np.array([0.0, 1.0]), 0.99), int)
