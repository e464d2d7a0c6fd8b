"""One prime, labels only: what teachers and baselines share, and students start from."""

from __future__ import annotations

from grokdistill.data import train_size
from grokdistill.model import Shape
from grokdistill.stages.setup import Material, engine, tokens
from grokdistill.train import Experiment


def one_prime(material: Material, datasets: list, fraction: float, other: int | None, role: str) -> Experiment:
    """A fresh model on a fraction of one prime's pairs (paper §3).

    Args:
        datasets: one per seed, of the prime that is learned.
        fraction: training fraction.
        other: a second modulus, by which test pairs are split into same and different answers; None for teachers.
        role: sets the initial weights of one seed's models apart.
    """
    config = material.config
    prime = datasets[0].prime
    shape = Shape.of(config)
    moduli = (prime,) if other is None else (prime, other)
    queries = engine(config, shape, *moduli)
    query = queries.query("modulus", prime)
    inside = [dataset.inside(fraction) for dataset in datasets]
    masks = {"train_acc": inside, "test_acc": [~mask for mask in inside]}
    primes = {"own": prime}
    if other is not None:
        same = [dataset.same_answer(config.op, other) for dataset in datasets]
        masks["same_acc"] = [~mask & equal for mask, equal in zip(inside, same, strict=True)]
        masks["different_acc"] = [~mask & ~equal for mask, equal in zip(inside, same, strict=True)]
        primes["teacher"] = other
    return Experiment(
        config=config,
        engine=queries,
        weights=material.fresh(shape, role),
        labelled=material.labelled(datasets, query, [dataset.training(fraction) for dataset in datasets]),
        batches=material.streams(train_size(prime, fraction)),
        exams=[material.exam(datasets, query, masks, "train_acc")],
        judged=("test_acc",),
        primes=primes,
        tokens=tokens(config.op, prime),
    )
