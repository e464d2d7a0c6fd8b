"""Jobs side by side: each in a thread of its own, and on a GPU on streams of its own.

A model of this size leaves most of a large GPU idle. Several jobs at a time fill it, with the bits that each makes alone: no
job's results depend on what runs beside it.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from grokdistill.jobs import Stopped
from grokdistill.replay import WARM_UP, Replayed
from grokdistill.resume import Stop
from grokdistill.train import Trainer


@dataclass(frozen=True)
class Streams:
    """A thread's streams on a GPU, both no other thread's: one to run on, one to capture on."""

    run: torch.cuda.Stream
    capture: torch.cuda.Stream


class Lanes:
    """How many jobs run at a time, and what they share.

    Attributes:
        stop: whether the process was told to stop.
        on: how many jobs are on each device.
    """

    MOST = 32  # at a time: PyTorch has as many streams of a kind, then it gives out the first again

    def __init__(self, count: int = 1) -> None:
        if count > self.MOST:
            raise ValueError(f"{count} jobs at a time are more than {self.MOST}")
        self.count = count
        self.stop = Stop()
        self.on: Counter[torch.device] = Counter()
        self.counting, self.capturing = threading.Lock(), threading.Lock()
        self.own = threading.local()

    def run(self, jobs: list[Callable[[], None]], ready: Callable[[int], bool]) -> None:
        """Run jobs in this order, `count` at a time, each as soon as it is ready (or nothing runs that it could wait for).

        After an exception no further job begins; those under way end, and then it is raised.

        Raises:
            Stopped: also where jobs had not begun when the process was told to stop.
        """
        if self.count == 1:
            for job in jobs:
                self.stop.check()
                job()
            return
        todo, running, errors = list(range(len(jobs))), set[int](), list[BaseException]()
        changed = threading.Condition()

        def take() -> int | None:
            """The next job, waited for; None where there is none left."""
            with changed:
                while todo and not errors and self.stop.told is None:
                    place = next((place for place in todo if ready(place)), None if running else todo[0])
                    if place is not None:
                        todo.remove(place)
                        running.add(place)
                        return place
                    changed.wait(1.0)
            return None

        def work() -> None:
            place = None
            try:
                while (place := take()) is not None:
                    jobs[place]()
                    with changed:
                        running.remove(place)
                        changed.notify_all()
            except BaseException as error:  # also a stop, which the main thread is to end with
                with changed:
                    running.discard(place)
                    errors.append(error)
                    left = len(running)
                    changed.notify_all()
                if not isinstance(error, Stopped) and (left or error is not errors[0]):  # which the main thread tells
                    print(
                        f"error: {str(error) or repr(error)}; no further job begins, {left} go on to their end", file=sys.stderr
                    )

        with self.stop:
            threads = [threading.Thread(target=work, daemon=True) for _ in range(min(self.count, len(jobs)))]
            for thread in threads:
                thread.start()
            try:
                for thread in threads:
                    thread.join()
            except KeyboardInterrupt:  # the second one: nobody waits for threads that are inside PyTorch
                sys.stderr.flush()
                os._exit(128 + signal.SIGINT)
        if errors:
            raise next((error for error in errors if not isinstance(error, Stopped)), errors[0])
        if todo:
            self.stop.check()

    @contextmanager
    def lane(self, device: torch.device) -> Iterator[None]:
        """A job's place on its device, in the thread that runs it."""
        with self.counting:
            self.on[device] += 1
        try:
            if device.type == "cuda":
                torch.cuda.set_device(device)
            with torch.cuda.stream(self._streams(device).run) if self._beside_others(device) else nullcontext():
                yield
        finally:
            with self.counting:
                self.on[device] -= 1

    def sharing(self, device: torch.device) -> int:
        """By how many jobs a device's seconds are to be divided; each has processors of its own."""
        return self.on[device] if device.type == "cuda" else 1

    @contextmanager
    def adapted(self, trainer: Trainer) -> Iterator[None]:
        """Let a trainer capture its updates while other jobs run, and let go of its graphs at the end."""
        if self._beside_others(trainer.device) and isinstance(trainer.step, Replayed):
            trainer.step = BesideOthers(trainer, self._streams(trainer.device).capture, self.capturing)
        try:
            yield
        finally:
            if isinstance(trainer.step, Replayed):
                with self.capturing:
                    trainer.step.graphs.clear()

    def _beside_others(self, device: torch.device) -> bool:
        return self.count > 1 and device.type == "cuda"

    def _streams(self, device: torch.device) -> Streams:
        known = self.own.__dict__.setdefault("streams", {})
        if device not in known:
            # The two priorities' pools are apart, so that no capture is on a stream that another thread runs on.
            known[device] = Streams(torch.cuda.Stream(device), torch.cuda.Stream(device, priority=-1))
        return known[device]


class BesideOthers(Replayed):
    """A trainer's update, captured on a given stream, one capture at a time, whatever other threads do meanwhile.

    cuBLAS keeps one workspace per stream and handle, and the backward passes of all threads share a handle: graphs captured on
    one stream would share a workspace, and spoil each other's products where they are replayed at the same time.
    """

    def __init__(self, trainer: Trainer, stream: torch.cuda.Stream, capturing: threading.Lock) -> None:
        super().__init__(trainer.update, trainer.untouched)
        self.stream, self.capturing = stream, capturing

    def capture(self, fixed: list[Tensor]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        """As in `Replayed`; the thread's own stream serves the runs before the capture."""
        with self.capturing, _no_collection():
            if not self.graphs:
                with self.untouched():
                    for _ in range(WARM_UP):
                        self.function(*fixed)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                result = self.function(*fixed)
        return graph, fixed, result


@contextmanager
def _no_collection() -> Iterator[None]:
    """No collection of garbage meanwhile: a dead graph that is freed during a capture spoils it (pytorch issue 161037)."""
    was = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
