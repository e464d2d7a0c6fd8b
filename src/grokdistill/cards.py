"""Which GPU a job takes: one that no other job on this machine has, as long as there are enough.

Snakemake counts `gpu` and says to no job which one it got (snakemake issue 281), so that all would take the first.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from grokdistill.files import hold

if TYPE_CHECKING:
    import torch


def visible() -> list[str]:
    """The cards that this process may use, as CUDA_VISIBLE_DEVICES names them; where it says nothing, all, by number.

    As CUDA does, a list is read up to its first name that is none (-1, or Slurm's NoDevFiles).
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        import torch

        return [str(number) for number in range(torch.cuda.device_count())]
    return list(takewhile(re.compile(r"\d+|(GPU|MIG)-[\w./-]+").fullmatch, map(str.strip, listed.split(","))))


@contextmanager
def taken(cards: list[str]) -> Iterator[int]:
    """Take a card, until the block or the process ends, however it ends; yields its place in the list.

    Where there are more jobs than cards, the further jobs spread evenly.
    """
    folder = Path(tempfile.gettempdir()) / f"grokdistill-cards-{getattr(os, 'getuid', int)()}"
    seats = ((place, f"{card.replace('/', '_')}.{seat}") for seat in count() for place, card in enumerate(cards))
    for place, name in seats:
        lock = hold(folder / name)
        if lock:
            with lock:
                yield place
            return


@contextmanager
def device(asked: str | None) -> Iterator[torch.device]:
    """The device to train on: what was asked for, or else a card of this job's own, or else the CPU."""
    import torch

    cards = [] if asked else visible()
    if not cards:
        chosen = torch.device(asked or "cpu")
        yield torch.device("cuda", torch.cuda.current_device()) if chosen == torch.device("cuda") else chosen
        return
    with taken(cards) as place:
        usable = torch.cuda.is_available()
        without = "" if usable else f", which PyTorch {torch.__version__} cannot use: on the CPU"
        print(f"GPU {cards[place]} (of {','.join(cards)}){without}", flush=True)
        yield torch.device("cuda", place) if usable else torch.device("cpu")
