"""The order of examples: what each epoch visits, under the three readings of a short last batch."""

import numpy as np
import pytest

from grokdistill.batches import Batches, batches_per_epoch, generator

SIZES = [(10, 4), (12, 4), (7, 7), (9, 10), (1, 5), (23, 1), (100, 33)]


@pytest.mark.parametrize(("examples", "size"), SIZES)
def test_keep_visits_every_example_once_per_epoch(examples, size):
    stream = Batches(examples, size, "keep", seed=0)
    per_epoch = batches_per_epoch(examples, size, "keep")
    step, orders = 0, set()
    for _ in range(4):
        seen, sizes = [], []
        for _ in range(per_epoch):
            batch = stream(step)
            seen += batch.tolist()
            sizes.append(len(batch))
            step += 1
        assert sorted(seen) == list(range(examples))
        whole, rest = divmod(examples, size)
        assert sizes == [size] * whole + ([rest] if rest else [])
        orders.add(tuple(seen))
    assert examples == 1 or len(orders) == 4  # reshuffled every epoch


@pytest.mark.parametrize(("examples", "size"), SIZES)
def test_drop_leaves_the_short_batch_out_unless_it_is_the_only_one(examples, size):
    stream = Batches(examples, size, "drop", seed=0)
    per_epoch = batches_per_epoch(examples, size, "drop")
    assert per_epoch == max(1, examples // size)
    for epoch in range(4):
        seen = [stream(epoch * per_epoch + place).tolist() for place in range(per_epoch)]
        flat = [example for batch in seen for example in batch]
        assert {len(batch) for batch in seen} == {min(size, examples)}
        assert len(set(flat)) == len(flat) == per_epoch * min(size, examples)
        assert set(flat) <= set(range(examples))


def test_drop_leaves_out_other_examples_every_epoch():
    stream = Batches(10, 4, "drop", seed=0)
    left_out = {frozenset(range(10)) - {*stream(2 * epoch).tolist(), *stream(2 * epoch + 1).tolist()} for epoch in range(6)}
    assert len(left_out) > 1


@pytest.mark.parametrize(("examples", "size"), SIZES)
def test_full_batches_run_through_the_epochs_without_a_gap(examples, size):
    """Laid end to end, full batches are one epoch's order after the other."""
    stream = Batches(examples, size, "full", seed=0)
    size = min(size, examples)
    steps = -(-5 * examples // size)
    seen = [stream(step).tolist() for step in range(steps)]
    assert {len(batch) for batch in seen} == {size}
    flat = [example for batch in seen for example in batch]
    for epoch in range(5):
        assert sorted(flat[epoch * examples : (epoch + 1) * examples]) == list(range(examples))


@pytest.mark.parametrize("short", ["keep", "drop", "full"])
def test_a_stream_is_a_function_of_seed_purpose_and_step(short):
    """The same twice, in any order of asking; another seed, purpose or epoch gives another order."""

    def first(**changed):
        stream = Batches(**({"examples": 50, "batch_size": 12, "short": short, "seed": 4, "purpose": "labels"} | changed))
        return [stream(step).tolist() for step in range(12)]

    expected = first()
    assert first() == expected
    stream = Batches(50, 12, short, 4, "labels")
    for step in np.random.default_rng(1).permutation(12).tolist():
        assert stream(step).tolist() == expected[step]
    for other in (first(seed=5), first(purpose="kl")):
        assert all(one != two for one, two in zip(other, expected, strict=True))


def test_two_purposes_are_independent():
    """Of 2,000 places in two streams' orders of the same pool, about one in 100 agrees, as by chance."""
    one, two = Batches(100, 100, "keep", 0, "labels"), Batches(100, 100, "keep", 0, "kl")
    same = sum(int((one(step) == two(step)).sum()) for step in range(20))
    assert 2 <= same <= 45  # Poisson with mean 20: beyond this with probability 1e-6


def test_keys_of_generators_do_not_run_together():
    draws = {
        tuple(generator(*key).integers(0, 2**31, 4).tolist())
        for key in ((1, "a", 2), (1, "a", 3), (2, "a", 2), (1, "b", 2), (1, "a2"), (12, "a"), ("1a", 2), (11, "a", 2))
    }
    assert len(draws) == 8


def test_order_is_uniform_over_positions():
    """Which of 5 examples comes first in 1,000 epochs: chi-squared with 4 degrees of freedom, far from its 1e-6 tail."""
    stream = Batches(5, 5, "keep", 0)
    counts = np.bincount([stream(epoch)[0] for epoch in range(1000)], minlength=5)
    assert ((counts - 200.0) ** 2 / 200.0).sum() < 33.4
