"""Jobs: make what is missing of a batch of runs, and put it into the store."""

from __future__ import annotations

import ctypes
import importlib
import math
import platform
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from grokdistill import sources
from grokdistill.data import OPERATORS, Dataset
from grokdistill.files import DamagedFile, load_tensors, locked, save_tensors, write
from grokdistill.plan import Plan, PlannedRun
from grokdistill.progress import Reporter
from grokdistill.store import CHECKPOINT, CURVE, DATASET

if TYPE_CHECKING:
    from grokdistill.lanes import Lanes


class JobError(RuntimeError):
    """A job that cannot go on; the message says why and what to do."""


class Stopped(RuntimeError):
    """A training that was told to stop and has kept its state."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.status = 128 + number  # as shells report it


def make_dataset(plan: Plan, run: PlannedRun) -> None:
    """Generate one dataset and put it into the store."""
    from grokdistill.stages import datasets

    _check_sources(run)
    dataset = datasets.build(run.config)
    arrays = {"a": dataset.a, "b": dataset.b, "order": dataset.order, **dataset.answers}
    small = {name: np.ascontiguousarray(array, dtype=np.int32) for name, array in arrays.items()}
    path = plan.store.folder(run.stage, run.fingerprint) / DATASET
    save_tensors(path, small, {"prime": dataset.prime, "seed": run.config.seed}, "numpy")
    # No seconds and no device: every clone makes the same bytes, so that DVC's hash of the datasets holds in all of them.
    execution = {"versions": {"numpy": np.__version__}}
    plan.store.commit(run.stage, run.fingerprint, _record(run, execution), (DATASET,))


def load_dataset(plan: Plan, fingerprint: str) -> Dataset:
    """A dataset from the store, checked against its record."""
    arrays, header = load_tensors(plan.store.file("datasets", fingerprint, DATASET), "numpy")
    wide = {name: array.astype(np.int64) for name, array in arrays.items()}
    return Dataset(header["prime"], wide["a"], wide["b"], {op: wide[op] for op in OPERATORS}, wide["order"])


def train_all(plan: Plan, batches: list[list[PlannedRun]], device: str | None, threads: int | None, count: int) -> None:
    """Train batches of runs, `count` at a time, each as soon as what it is made from is in the store; else as `train`.

    Raises:
        JobError: also where several at a time would have different results than one after the other.
    """
    from grokdistill.lanes import Lanes

    configs = [run.config for runs in batches for run in runs]
    if count > 1 and any(config.dropout for config in configs):
        raise JobError("dropout draws from one generator of the whole process: train one job at a time (without --jobs)")
    if count > 1 and len(found := {config.precision for config in configs}) > 1:
        raise JobError(f"the precision is the whole process's: train these apart ({', '.join(sorted(found))})")
    lanes = Lanes(count)
    lanes.run(
        [partial(train, plan, runs, device, threads, lanes) for runs in batches],
        lambda place: all(
            plan.store.complete(plan.entries[parent]["stage"], parent)
            for run in batches[place]
            for parent in run.parents.values()
        ),
    )


def train(
    plan: Plan, runs: list[PlannedRun], device: str | None = None, threads: int | None = None, lanes: Lanes | None = None
) -> None:
    """Train runs of one cell as one stacked model and put each into the store.

    Args:
        runs: equal but for their seeds, none of them in the store yet.
        device: "cpu", "cuda:1", ...; by default a GPU of its own (see `cards`) where there is one.
        threads: CPU threads; by default PyTorch's own choice.
        lanes: where other jobs run at the same time.

    Raises:
        JobError: where a teacher may not teach, sources changed since the plan was made, or there is no such device.
        DamagedFile: where something the runs are made from is missing or damaged.
    """
    import torch

    from grokdistill import cards
    from grokdistill.lanes import Lanes

    lanes = lanes or Lanes()
    for run in runs:
        _check_sources(run)
    if device:
        try:
            torch.empty(0, device=device)
        except Exception as error:  # of many kinds, by device and build
            raise JobError(f"device {device}: PyTorch {torch.__version__} cannot use it ({error})") from None
    if threads:
        torch.set_num_threads(threads)
    keep_freed_memory()
    torch.backends.cuda.matmul.allow_tf32 = runs[0].config.precision == "tf32"
    with ExitStack() as held:
        for run in runs:
            name = f"{run.stage}/{run.name}"
            held.enter_context(
                locked(plan.store.root / "locks" / run.fingerprint, f"another process trains {name}", lanes.stop.check)
            )
        lanes.stop.check()
        # Runs that stopped at different steps cannot go on side by side; what is told of them, not after different devices.
        groups: dict[tuple, list[PlannedRun]] = {}
        states = {}
        for run in runs:
            if not plan.store.complete(run.stage, run.fingerprint):
                states[run.fingerprint] = kept = _state(plan, run)
                groups.setdefault((kept[0].step, kept[1].devices) if kept else (), []).append(run)
        chosen = held.enter_context(cards.device(device))
        held.enter_context(lanes.lane(chosen))
        for together in groups.values():
            _train_within_memory(plan, together, [states[run.fingerprint] for run in together], chosen, lanes)


def _state(plan: Plan, run: PlannedRun) -> tuple[Any, Any] | None:
    """Where an earlier training of the run was stopped; a state that is damaged is told and deleted."""
    from grokdistill.resume import STATE, load

    folder = plan.store.folder(run.stage, run.fingerprint)
    for left in folder.glob(".*.partial"):
        left.unlink()
    try:
        return load(folder / STATE, run.fingerprint)
    except DamagedFile as error:
        print(f"warning: {error}; {run.stage}/{run.name} starts over", file=sys.stderr)
        (folder / STATE).unlink()
        return None


def _train_within_memory(
    plan: Plan, runs: list[PlannedRun], states: list[Any], device: Any, lanes: Lanes, split: bool = False
) -> None:
    """Train runs side by side; once, in two halves where they do not fit into memory together.

    Raises:
        JobError: where memory does not suffice even so.
    """
    import torch

    try:
        _train_together(plan, runs, states, device, lanes)
    except (RuntimeError, MemoryError) as error:
        # A processor's allocator says it in a plain RuntimeError.
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "not enough memory" not in str(error):
            raise
        config = runs[0].config
        amounts = f"{len(runs)} seed(s) at a time, batches of {config.batch_size}: {str(error).splitlines()[0]}"
        rest = [place for place, run in enumerate(runs) if not plan.store.complete(run.stage, run.fingerprint)]
        if split or len(rest) < 2 or lanes.count > 1:
            fewer = f"--jobs {lanes.count}, " if lanes.count > 1 else ""
            raise JobError(
                f"{runs[0].stage}/{runs[0].cell} does not fit into the memory of {device} ({amounts}). Turn down "
                f"{fewer}execution.seeds_per_job (changes no result), or training.batch_size (changes them)"
            ) from None
        print(f"warning: {runs[0].cell} does not fit into memory ({amounts}); trained in two halves", file=sys.stderr)
    else:
        return
    middle = len(rest) // 2
    for half in (rest[:middle], rest[middle:]):
        _train_within_memory(plan, [runs[place] for place in half], [states[place] for place in half], device, lanes, True)


def _train_together(plan: Plan, runs: list[PlannedRun], states: list[Any], device: Any, lanes: Lanes) -> None:
    """Train runs of one step side by side, and put each into the store as soon as it ends."""
    import torch

    from grokdistill.resume import STATE, Past, StateKeeper
    from grokdistill.train import Outcome, Trainer

    material = _material(plan, runs, device)
    try:
        experiment = importlib.import_module(f"grokdistill.stages.{runs[0].stage}").experiment(material)
    except ValueError as error:
        raise JobError(f"{runs[0].stage}/{runs[0].cell}: {error}") from None
    trainer = Trainer(experiment, device)
    reporter = Reporter(runs[0].cell, [run.config.seed for run in runs], among=lanes.count)
    past = Past()
    if states[0]:
        trainer.resume([state for state, _ in states])
        past = states[0][1]
        reporter.note(f"goes on at step {trainer.at:,}")
    folders = [plan.store.folder(run.stage, run.fingerprint) for run in runs]
    kept = [(folder / STATE, run.fingerprint) for folder, run in zip(folders, runs, strict=True)]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    keeper = StateKeeper(kept, past, name, plan.params.execution.keep_seconds, lanes.stop, partial(lanes.sharing, device))

    def ended(place: int, outcome: Outcome) -> None:
        run, folder = runs[place], folders[place]
        execution = {
            "seconds": round(keeper.seconds() / len(runs), 3),
            "device": ", then ".join(keeper.devices),
            "threads": None if device.type == "cuda" else torch.get_num_threads(),  # of a processor; a GPU does not ask
            "seeds_in_job": len(runs),
            "memory_mb": peak_memory() if lanes.count == 1 else None,
            "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        }
        header = {"shape": vars(experiment.engine.shape), "config": run.config.model_dump(exclude_none=True)}
        save_tensors(folder / CHECKPOINT, outcome.weights, header, "torch")
        write(folder / CURVE, _csv(outcome.curve))
        final = {name: values[-1] for name, values in outcome.curve.items() if math.isfinite(values[-1])}
        record = _record(run, execution) | {"diverged": outcome.diverged, "facts": outcome.facts, "final": final}
        plan.store.commit(run.stage, run.fingerprint, record, (CHECKPOINT, CURVE))
        (folder / STATE).unlink(missing_ok=True)
        keeper.ended.add(place)
        reporter.ended(run.config.seed, outcome, keeper.seconds())

    with lanes.stop, lanes.adapted(trainer):
        trainer.run(reporter, keeper, ended)


def _material(plan: Plan, runs: list[PlannedRun], device: Any) -> Any:
    """Everything that the runs are made from, read from the store."""
    from grokdistill.stages.setup import Material

    def datasets(role: str) -> list[Dataset] | None:
        return [load_dataset(plan, run.parents[role]) for run in runs] if role in runs[0].parents else None

    return Material(
        configs=[run.config for run in runs],
        p1=datasets("p1_dataset"),
        p2=datasets("p2_dataset"),
        teacher=_teacher(plan, runs, "teacher"),
        p2_teacher=_teacher(plan, runs, "p2_teacher"),
        device=device,
    )


def _teacher(plan: Plan, runs: list[PlannedRun], role: str) -> Any:
    """The frozen models of a role, one per run; a p1 teacher must have grokked unless it is a control."""
    from grokdistill.model import Shape, load
    from grokdistill.stages.setup import Teacher

    if role not in runs[0].parents:
        return None
    weights, shapes = [], []
    for run in runs:
        parent = plan.run(run.parents[role])
        record = plan.store.record(parent.stage, parent.fingerprint)
        if record["diverged"] is not None:
            raise JobError(f"{parent.stage}/{parent.name} diverged at step {record['diverged']}; it cannot teach {run.name}")
        accuracy, needed = record["final"]["test_acc"], plan.params.teachers.min_accuracy
        if parent.stage == "teachers" and not parent.config.until and accuracy < needed:
            raise JobError(
                f"{parent.stage}/{parent.name} has test accuracy {accuracy:.4f}, below teachers.min_accuracy {needed}, so it "
                f"may not teach {run.name}. Train it longer (training.steps), on more data (teachers.fraction), or lower "
                "teachers.min_accuracy."
            )
        path = plan.store.file(parent.stage, parent.fingerprint, CHECKPOINT)
        tensors, header = load_tensors(path, "torch")
        try:
            shape = Shape(**header["shape"])
            load(tensors, shape)
        except (KeyError, TypeError, RuntimeError) as error:
            raise DamagedFile(f"{path}: not a model of the shape that its header says ({str(error).splitlines()[0]})") from None
        weights.append(tensors)
        shapes.append(shape)
    if any(shape != shapes[0] for shape in shapes):
        raise DamagedFile(f"the {role}s of {runs[0].cell} have different shapes: {shapes}")
    return Teacher(shapes[0], weights)


def _check_sources(run: PlannedRun) -> None:
    if sources.digest(f"grokdistill.stages.{run.stage}") != run.sources:
        raise JobError(
            f"{run.stage}/{run.name}: the sources changed after this run was planned; type the command again, so that the "
            "result is recorded under what makes it"
        )


def _record(run: PlannedRun, execution: dict[str, Any]) -> dict[str, Any]:
    return {
        "stage": run.stage,
        "config": run.config.model_dump(exclude_none=True),
        "parents": run.parents,
        "sources": run.sources,
        "parts": sources.parts(f"grokdistill.stages.{run.stage}"),
        "execution": execution,
    }


def _csv(curve: dict[str, list[float]]) -> str:
    """A curve as CSV with six significant digits; empty where a value does not apply."""

    def shown(value: float) -> str:
        return "" if value != value else str(value) if isinstance(value, int) else f"{value:.6g}"

    lines = [",".join(curve), *(",".join(map(shown, row)) for row in zip(*curve.values(), strict=True))]
    return "\n".join(lines) + "\n"


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next one; otherwise every step's large arrays are mapped and faulted in anew."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD


def peak_memory() -> int | None:
    """The most main memory that this process has held so far, in MB (10^6 bytes); None where the system does not say."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
