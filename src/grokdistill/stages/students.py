"""Stage `students`: p2 distilled from a p1 teacher (paper §4, eq. 3 and 4)."""

from __future__ import annotations

from dataclasses import replace

import torch

from grokdistill.distill import Targets, hard, teach
from grokdistill.engine import Rows
from grokdistill.model import Shape
from grokdistill.stages.scratch import one_prime
from grokdistill.stages.setup import Material, Teacher, engine
from grokdistill.train import Experiment, Taught


def experiment(material: Material) -> Experiment:
    """The baseline's experiment, with the teacher's outputs on the same training pairs added."""
    config = material.config
    base = one_prime(material, material.p2, config.fraction, other=config.p1, role="p2")
    pool = base.labelled.rows
    # At the modulus position the teacher reads its own modulus token, the student its own.
    rows = Rows(pool.a, pool.b, torch.full_like(pool.query, base.engine.query(config.position, config.p2)))
    taught = Taught(rows, targets(material, rows), same_rows=config.position == "modulus")
    return replace(base, taught=taught)


def targets(material: Material, rows: Rows) -> Targets:
    """What the configured teacher, or control, says about the training pairs."""
    config = material.config
    if config.teacher == "oracle":
        answer = (rows.a + rows.b if config.op == "add" else rows.a - rows.b) % config.p1
        return hard(answer, (rows.a < config.p1) & (rows.b < config.p1), config.numbers, material.dtype)
    teacher = material.teacher
    if config.teacher == "random":
        shape = Shape.of(config)
        teacher = Teacher(shape, [])
        weights = material.fresh(shape, "untrained teacher")
    else:
        weights = material.stacked(teacher.weights)
    queries = engine(config, teacher.shape, config.p1)
    read = Rows(rows.a, rows.b, torch.full_like(rows.query, queries.query(config.position, config.p1)))
    return teach(queries, weights, read, config.p1, config.temperature_reading, config.temperature)
