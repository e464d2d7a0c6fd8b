"""Stage `teachers`: models that grok p1 (paper §4)."""

from __future__ import annotations

from grokdistill.stages.scratch import one_prime
from grokdistill.stages.setup import Material
from grokdistill.train import Experiment


def experiment(material: Material) -> Experiment:
    """A fresh model on a fraction of p1, with labels."""
    return one_prime(material, material.p1, material.config.p1_fraction, other=None, role="p1")
