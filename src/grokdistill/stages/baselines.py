"""Stage `baselines`: p2 from scratch (paper fig. 2a, 3, 4a)."""

from __future__ import annotations

from grokdistill.stages.scratch import one_prime
from grokdistill.stages.setup import Material
from grokdistill.train import Experiment


def experiment(material: Material) -> Experiment:
    """A fresh model on a fraction of p2, with labels; measured also by which answers p1 shares."""
    return one_prime(material, material.p2, material.config.fraction, other=material.config.p1, role="p2")
