"""States of runs in training, kept beside where the result will be, so that a stop costs seconds and changes nothing.

A state is keyed by its run's fingerprint, so a changed configuration or source never goes on from it, and carries a digest of
everything in it, so that a damaged one is noticed. It is deleted once its run is complete.
"""

from __future__ import annotations

import hashlib
import json
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from grokdistill.files import DamagedFile, load_tensors, save_tensors
from grokdistill.jobs import Stopped
from grokdistill.train import State

if TYPE_CHECKING:
    from torch import Tensor

STATE = "state.safetensors"
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Past:
    """What lies behind a state: seconds of training, and the devices it was on, in order."""

    seconds: float = 0.0
    devices: tuple[str, ...] = ()

    def on(self, device: str) -> tuple[str, ...]:
        """The devices of a training that goes on there."""
        return self.devices if self.devices[-1:] == (device,) else (*self.devices, device)


def save(path: Path, fingerprint: str, state: State, past: Past) -> None:
    """Keep a state and what lies behind it."""
    about = {
        "fingerprint": fingerprint,
        "step": state.step,
        "seconds": past.seconds,
        "devices": list(past.devices),
        "losses": state.losses,
        "history": json.dumps(state.history),  # as text, which keeps the order of columns
    }
    save_tensors(path, state.tensors, about | {"digest": _digest(about, state.tensors)}, "torch")


def load(path: Path, fingerprint: str) -> tuple[State, Past] | None:
    """A run's state and what lies behind it; None where there is none.

    Raises:
        DamagedFile: where there is one that is not whole, or another run's.
    """
    if not path.is_file():
        return None
    tensors, about = load_tensors(path, "torch")
    digest = about.pop("digest", None)
    try:
        whole = digest == _digest(about, tensors) and about["fingerprint"] == fingerprint
        state = State(about["step"], tensors, about["losses"], json.loads(about["history"]))
        past = Past(about["seconds"], tuple(about["devices"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        whole = False
    if not whole:
        raise DamagedFile(f"{path}: not the state of run {fingerprint} as it was kept")
    return state, past


def _digest(about: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    total = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        total.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        total.update(tensors[name].contiguous().numpy().data)
    return total.hexdigest()


class Stop:
    """Whether the process was told to stop: `told` is the signal's number. Only the main thread hears signals."""

    def __init__(self) -> None:
        self.told: int | None = None
        self.handlers: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self.handlers = {number: signal.signal(number, self.tell) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self.handlers.items():
                signal.signal(number, handler)

    def check(self) -> None:
        """Stop where nothing is under way that has to be kept.

        Raises:
            Stopped: where the process was told to stop.
        """
        if self.told is not None:
            raise Stopped(f"stopped by {signal.Signals(self.told).name} before all jobs had begun", self.told)

    def tell(self, number: int, _: FrameType | None) -> None:
        """A signal has come: stop after the current update; a second one does not wait for it."""
        if self.told is not None:
            signal.signal(number, self.handlers[number])
            signal.raise_signal(number)
        self.told = number


class StateKeeper:
    """Keeps a job's states every so often, and at once when the process is told to stop, which then stops.

    Args:
        runs: file and fingerprint of each run.
        past: what lies behind them.
        device: the name of what they train on.
        every: seconds between two states: at most this much work is lost.
        stop: whether to stop.
        sharing: how many jobs are on the device, this one among them.
    """

    def __init__(
        self, runs: list[tuple[Path, str]], past: Past, device: str, every: float, stop: Stop, sharing: Callable[[], int]
    ) -> None:
        self.runs, self.every, self.stop, self.sharing = runs, every, stop, sharing
        self.devices = past.on(device)
        self.ended: set[int] = set()
        self.spent, self.seen = past.seconds, time.monotonic()
        self.last = self.seen

    def seconds(self) -> float:
        """Seconds of training so far, before a stop and since; of a device that several jobs share, this job's share."""
        now = time.monotonic()
        self.spent += (now - self.seen) / self.sharing()
        self.seen = now
        return self.spent

    def due(self) -> bool:
        """Whether it is time."""
        self.seconds()  # so that each is divided by as many jobs as there were then
        return self.stop.told is not None or time.monotonic() - self.last >= self.every

    def keep(self, states: list[State]) -> None:
        """Keep the states of the runs that have not ended."""
        for place, ((path, fingerprint), state) in enumerate(zip(self.runs, states, strict=True)):
            if place not in self.ended:
                save(path, fingerprint, state, Past(self.seconds(), self.devices))
        self.last = time.monotonic()
        if self.stop.told is not None:
            name = signal.Signals(self.stop.told).name
            text = f"stopped by {name} at step {states[0].step:,}, and kept where it stands: the same command goes on there"
            raise Stopped(text, self.stop.told)
