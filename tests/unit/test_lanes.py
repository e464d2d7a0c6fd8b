"""Jobs side by side: the bits of jobs one after the other, in the right order, with stops and mistakes told."""

import gc
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest
import torch
from test_train import CASES, build

from grokdistill.files import locked
from grokdistill.jobs import Stopped
from grokdistill.lanes import Lanes
from grokdistill.progress import Reporter
from grokdistill.resume import Past, StateKeeper, Stop
from grokdistill.train import Progress, Trainer

STAGES = ("teachers", "baselines", "students", "joint", "continual")


def results(made, stage):
    """What each run of a stage left, without what it cost."""
    found = {}
    for key in made.of(stage):
        record = json.loads((made.stored(key) / "record.json").read_text())
        assert record.pop("sha256")
        record.pop("execution")
        found[key] = record, *((made.stored(key) / name).read_bytes() for name in ("curve.csv", "checkpoint.safetensors"))
    return found


def started(made, repository, *arguments):
    """A training in a process of its own."""
    command = [sys.executable, "-m", "grokdistill", "train", str(made.plan), *arguments]
    environment = os.environ | {"PYTHONPATH": str(repository / "src")}
    return subprocess.Popen(command, cwd=made.folder, env=environment, stderr=subprocess.PIPE, text=True)


def test_the_whole_study_in_one_call_has_the_bits_of_one_job_after_the_other(study, tiny, finished):
    """Named in the wrong order, so that each waits for what it learns from."""
    made = study(tiny)
    made.make("datasets")
    keys = [key for stage in reversed(STAGES) for key in made.of(stage)]
    assert made.command("train", made.plan, *keys, "--jobs", "4", "--device", "cpu", "--threads", "1") == 0
    for stage in STAGES:
        assert results(made, stage) == results(finished, stage)


def test_as_many_as_asked_for_are_under_way_at_a_time():
    most, meeting, under_way, seen = 3, threading.Barrier(3), [], []

    def job():
        under_way.append(1)
        meeting.wait(60)  # passes for three at a time alone
        seen.append(len(under_way))
        under_way.pop()

    Lanes(most).run([job] * 9, lambda place: True)
    assert len(seen) == 9
    assert max(seen) <= most


def test_a_job_begins_when_it_is_ready():
    done, begun = set(), []

    def job(place):
        begun.append(place)
        time.sleep(0.01)
        done.add(place)

    after = {0: {3}, 1: set(), 2: {0, 1}, 3: set()}
    Lanes(2).run([lambda place=place: job(place) for place in after], lambda place: after[place] <= done)
    assert set(begun[:2]) == {1, 3}
    assert begun[2:] == [0, 2]


def test_one_that_nothing_can_make_ready_is_run_to_say_why(study, tiny, capfd):
    made = study(tiny)
    made.make("datasets")
    assert made.command("train", made.plan, "--stage", "students", "--jobs", "2") == 1
    assert "the run is not in the store; run its stage first (teachers)" in capfd.readouterr().err


def test_after_a_mistake_no_further_job_begins(capfd):
    failed, begun = threading.Event(), []

    def wrong():
        failed.set()
        raise ValueError("the mistake")

    def long():
        begun.append("long")
        failed.wait(60)
        time.sleep(0.05)
        begun.append("its end")

    with pytest.raises(ValueError, match="the mistake"):
        Lanes(2).run([long, wrong, lambda: begun.append("another")], lambda place: True)
    assert begun == ["long", "its end"]
    assert capfd.readouterr().err == "error: the mistake; no further job begins, 1 go on to their end\n"


def test_every_mistake_is_told_and_none_hides_behind_a_stop(capfd):
    lanes, meeting = Lanes(3), threading.Barrier(3)

    def fails(error):
        meeting.wait(60)
        if not isinstance(error, Stopped):
            time.sleep(0.2)  # so that the stop comes first
        raise error

    errors = [Stopped("stopped, and kept", 15), OSError("the disk is full"), MemoryError()]
    with pytest.raises((OSError, MemoryError)) as raised:
        lanes.run([lambda error=error: fails(error) for error in errors], lambda place: True)
    told = capfd.readouterr().err + str(raised.value)
    assert "the disk is full" in told
    assert raised.type is MemoryError or "MemoryError()" in told


def test_a_mistake_in_what_is_asked_before_a_job_is_raised():
    def ready(place):
        raise PermissionError("not readable")

    with pytest.raises(PermissionError, match="not readable"):
        Lanes(2).run([lambda: None] * 3, ready)


@pytest.mark.parametrize("count", [1, 2])
def test_a_stop_that_no_job_notices_is_no_success(count):
    lanes, begun = Lanes(count), []

    def job():
        begun.append(1)
        lanes.stop.told = signal.SIGTERM

    with pytest.raises(Stopped, match="stopped by SIGTERM before all jobs had begun") as stopped:
        lanes.run([job] * 5, lambda place: True)
    assert stopped.value.status == 128 + signal.SIGTERM
    assert len(begun) <= count


def test_a_wait_for_another_process_can_be_stopped(study, tiny, repository):
    made = study(tiny)
    made.make("datasets")
    keys = made.of("teachers")[:2]
    with ExitStack() as held:
        for key in keys:
            held.enter_context(locked(made.results / "store" / "locks" / key, "not free"))
        job = started(made, repository, *keys, "--jobs", "2")
        for line in job.stderr:
            if "waiting for it" in line:
                break
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 128 + signal.SIGTERM
    assert not any((made.stored(key) / "state.safetensors").exists() for key in keys)


def test_more_than_there_are_streams_is_refused(finished, capsys):
    with pytest.raises(ValueError, match="33 jobs at a time are more than 32"):
        Lanes(33)
    with pytest.raises(SystemExit):
        finished.command("train", finished.plan, "--stage", "teachers", "--jobs", "33")
    assert f"33 is no whole number from 1 to {Lanes.MOST}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"dropout": 0.1}, "dropout draws from one generator of the whole process: train one job at a time (without --jobs)"),
        ({"precision": ["float32", "float64"]}, "the precision is the whole process's: train these apart (float32, float64)"),
    ],
)
def test_what_would_not_have_the_same_bits_is_refused(study, tiny, capfd, fields, words):
    tiny["teachers"] |= {"optimizers": ["adamw"], "variants": [{"fields": fields}]}
    made = study(tiny)
    made.make("datasets")
    assert made.command("train", made.plan, "--stage", "teachers", "--jobs", "2") == 1
    assert words in capfd.readouterr().err
    assert made.command("train", made.plan, "--stage", "teachers") == 0


def test_jobs_that_are_stopped_go_on_to_the_same_bits(study, tiny, repository):
    tiny["seeds"] = [0]
    tiny["training"] |= {"steps": 1000, "precision": "float32"}
    undisturbed = study(tiny)
    tiny["execution"] = {"keep_seconds": 0.0}
    made = study(tiny)
    for one in (undisturbed, made):
        one.make("datasets")
    undisturbed.make("teachers")
    keys = made.of("teachers")
    assert len(keys) == 2
    job = started(made, repository, "--stage", "teachers", "--jobs", "2")
    states = [made.stored(key) / "state.safetensors" for key in keys]
    deadline = time.monotonic() + 120
    while not all(path.exists() for path in states):
        assert time.monotonic() < deadline
        assert job.poll() is None, job.stderr.read()
        time.sleep(0.001)
    job.send_signal(signal.SIGTERM)
    told = job.communicate()[1]
    assert job.returncode == 128 + signal.SIGTERM, told
    assert "stopped by SIGTERM at step" in told
    assert all(path.exists() for path in states)
    made.make("teachers")
    assert results(made, "teachers") == results(undisturbed, "teachers")


def test_jobs_share_the_seconds_of_their_device(tmp_path, monkeypatch):
    now, sharing = [100.0], [1]
    monkeypatch.setattr("grokdistill.resume.time.monotonic", lambda: now[0])
    keeper = StateKeeper([(tmp_path / "state", "abc")], Past(7.0), "this", 1000.0, Stop(), lambda: sharing[0])
    now[0] += 8.0
    assert not keeper.due()
    sharing[0] = 4
    now[0] += 8.0
    assert keeper.seconds() == 7.0 + 8.0 + 8.0 / 4


def test_processors_are_not_shared():
    """Each job on a CPU works on its own: its seconds are those of its threads."""
    lanes, cpu, gpu = Lanes(3), torch.device("cpu"), torch.device("cuda", 0)
    with lanes.lane(cpu), lanes.lane(cpu):
        assert (lanes.on[cpu], lanes.sharing(cpu)) == (2, 1)
    lanes.on[gpu] = 3
    assert lanes.sharing(gpu) == 3


def test_the_progress_of_jobs_at_a_time_is_told_in_lines_of_their_own():
    """On a terminal, too, where one job's line rewrites itself."""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def shown(among):
        stream = Terminal()
        report = Reporter("cell", [0], stream, among)
        for step in (1, 2):
            report(Progress(step, 10, 1.0, [0.5], [0.1]))
        return stream.getvalue()

    assert shown(1).count("\r") == 2
    assert (shown(2).count("\r"), shown(2).count("\n")) == (0, 1)


def test_memory_is_told_of_jobs_that_have_their_process_to_themselves(study, tiny):
    made = study(tiny)
    made.make("datasets")
    first, second = made.of("teachers")[:2]
    assert made.command("train", made.plan, first) == 0
    assert made.command("train", made.plan, second, "--jobs", "2") == 0
    memory = [json.loads((made.stored(key) / "record.json").read_text())["execution"]["memory_mb"] for key in (first, second)]
    assert memory[0] > 0
    assert memory[1] is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_updates_beside_others_are_those_of_a_trainer_alone():
    """Four stages at a time, twice: each captured while the others replay, the later ones while dead ones are freed."""
    device, cases = torch.device("cuda", 0), ["teacher", "student", "joint, distilled", "continual"] * 2
    long = {"steps": 400, "eval_every": 20, "precision": "float32"}
    alone = [Trainer(build(CASES[case] | long, device)[2], device).run()[0] for case in cases]
    lanes, meeting, found = Lanes(4), threading.Barrier(4), {}

    def job(place):
        with lanes.lane(device):
            trainer = Trainer(build(CASES[cases[place]] | long, device)[2], device)
            with lanes.adapted(trainer):
                if place < 4:
                    meeting.wait(60)
                found[place] = trainer.run()[0]

    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        lanes.run([lambda place=place: job(place) for place in range(8)], lambda place: True)
    finally:
        gc.set_threshold(*before)
    for place, expected in enumerate(alone):
        assert json.dumps(found[place].curve) == json.dumps(expected.curve), cases[place]
        assert all(torch.equal(value, found[place].weights[name]) for name, value in expected.weights.items()), cases[place]
