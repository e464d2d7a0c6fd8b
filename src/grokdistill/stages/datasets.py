"""Stage `datasets`: one dataset per prime and split seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grokdistill import data

if TYPE_CHECKING:
    from grokdistill.config import RunConfig


def build(config: RunConfig) -> data.Dataset:
    """The dataset that a configuration asks for."""
    return data.generate(config.p1, config.seed)
