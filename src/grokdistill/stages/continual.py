"""Stage `continual`: a grokked p1 model trained further on p2, with and without distillation (paper §5, fig. 6)."""

from __future__ import annotations

from grokdistill.data import train_size
from grokdistill.distill import teach
from grokdistill.stages.setup import Material, engine, tokens
from grokdistill.train import Experiment, Taught


def experiment(material: Material) -> Experiment:
    """The teacher's weights on a fraction of p2; the KL, if any, holds it to what it said before."""
    config, teacher = material.config, material.teacher
    queries = engine(config, teacher.shape, config.p1, config.p2)
    query = queries.query("modulus", config.p2)
    index = [dataset.training(config.fraction) for dataset in material.p2]
    inside = [dataset.inside(config.fraction) for dataset in material.p2]
    same = [dataset.same_answer(config.op, config.p1) for dataset in material.p2]
    weights = material.stacked(teacher.weights)

    taught, kl_batches = None, None
    if config.method == "distilled":
        on_p1 = config.kl_inputs == "p1_pairs"
        modulus = config.p1 if config.modulus_token == "old" else config.p2
        asked = queries.query(config.position, modulus)
        # The teacher is this very model before training, so both see the same tokens.
        rows = material.rows(material.p1, asked) if on_p1 else material.rows(material.p2, asked, index)
        targets = teach(queries, weights, rows, config.p1, config.temperature_reading, config.temperature)
        taught = Taught(rows, targets, same_rows=not on_p1 and asked == query)
        kl_batches = material.streams(rows.a.shape[1], "kl batches") if on_p1 else None

    return Experiment(
        config=config,
        engine=queries,
        weights=weights,
        labelled=material.labelled(material.p2, query, index),
        taught=taught,
        batches=material.streams(train_size(config.p2, config.fraction)),
        kl_batches=kl_batches,
        exams=[
            material.exam(
                material.p2,
                query,
                {
                    "train_acc": inside,
                    "test_acc": [~mask for mask in inside],
                    "same_acc": [~mask & equal for mask, equal in zip(inside, same, strict=True)],
                    "different_acc": [~mask & ~equal for mask, equal in zip(inside, same, strict=True)],
                },
                "train_acc",
            ),
            material.exam(material.p1, queries.query("modulus", config.p1), _subsets_of_p1(material)),
        ],
        judged=("test_acc",),
        primes={"own": config.p2, "teacher": config.p1},
        tokens=tokens(config.op, config.p1, config.p2),
    )


def _subsets_of_p1(material: Material) -> dict[str, list]:
    """All of p1's pairs: those whose answer p2 shares or not, and those that p2's pairs cover or not."""
    config = material.config
    masks = {"p1_acc": [], "p1_same_acc": [], "p1_different_acc": [], "p1_covered_acc": [], "p1_uncovered_acc": []}
    for dataset in material.p1:
        same, covered = dataset.same_answer(config.op, config.p2), dataset.covered(config.p2)
        for name, mask in zip(masks, (same | ~same, same, ~same, covered, ~covered), strict=True):
            masks[name].append(mask)
    return masks
