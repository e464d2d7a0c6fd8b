"""Stopped and gone on with: the same bits as without a stop, and nothing taken from a state that is not whole."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from test_train import CASES, CPU, build

from grokdistill import jobs, resume
from grokdistill.files import DamagedFile, load_tensors, save_tensors, sha256
from grokdistill.jobs import Stopped
from grokdistill.resume import Past, StateKeeper
from grokdistill.store import sealed
from grokdistill.train import Trainer

LONG = {"steps": 23, "eval_every": 5, "precision": "float32"}


class At:
    """Keeps states at one step and stops there."""

    def __init__(self, step):
        self.step, self.count = step, 0

    def due(self):
        self.count += 1
        return self.count == self.step

    def keep(self, states):
        self.states = states
        raise Stopped("here", 15)


def equal(one, two):
    assert list(one.curve) == list(two.curve)
    for name, values in one.curve.items():
        assert json.dumps(values) == json.dumps(two.curve[name]), name
    assert one.weights.keys() == two.weights.keys()
    assert all(torch.equal(value, two.weights[name]) for name, value in one.weights.items())
    assert (one.diverged, one.facts) == (two.diverged, two.facts)


@pytest.mark.parametrize("stop", [1, 7, 18])
@pytest.mark.parametrize("case", ["teacher", "student with Adam", "baseline of two layers", "joint, distilled", "continual"])
def test_a_training_goes_on_bit_for_bit(case, stop, tmp_path):
    """Inside an interval and after the first update; through a file; with dropout where the model has it."""
    fields = CASES[case] | LONG | ({"dropout": 0.2} if "layers" in case else {})
    (whole,) = Trainer(build(fields)[2], CPU).run()
    keeper = At(stop)
    with pytest.raises(Stopped):
        Trainer(build(fields)[2], CPU).run(keeper=keeper)
    resume.save(tmp_path / "state", "abc", keeper.states[0], Past(1.5, ("one", "another")))
    state, past = resume.load(tmp_path / "state", "abc")
    assert past == Past(1.5, ("one", "another"))
    assert state.step > 0
    again = Trainer(build(fields)[2], CPU)
    again.resume([state])
    (outcome,) = again.run()
    equal(outcome, whole)


def test_batches_large_enough_to_fold_go_on_bit_for_bit():
    """The path of the paper's batches."""
    fields = CASES["baseline"] | LONG | {"p2": 11, "numbers": 11, "n_heads": 1, "batch_size": 64}
    experiment = build(fields)[2]
    assert experiment.engine.folds(experiment.labelled.rows)
    (whole,) = Trainer(experiment, CPU).run()
    keeper = At(9)
    with pytest.raises(Stopped):
        Trainer(build(fields)[2], CPU).run(keeper=keeper)
    again = Trainer(build(fields)[2], CPU)
    again.resume(keeper.states)
    equal(again.run()[0], whole)


@pytest.fixture
def kept(tmp_path):
    keeper = At(7)
    with pytest.raises(Stopped):
        Trainer(build(CASES["student"] | LONG)[2], CPU).run(keeper=keeper)
    path = tmp_path / "state.safetensors"
    resume.save(path, "abc", keeper.states[0], Past(1.0, ("one",)))
    return path


def test_a_state_that_is_not_whole_is_refused(kept):
    """A flipped bit, in each byte of the header and in many others; any cut; another run's."""
    whole = kept.read_bytes()
    state, past = resume.load(kept, "abc")
    with pytest.raises(DamagedFile, match="not the state of run abd"):
        resume.load(kept, "abd")
    rng, header = random.Random(0), 8 + int.from_bytes(whole[:8], "little")
    bits = [(place, 0) for place in range(header)]
    bits += [(rng.randrange(header, len(whole)), rng.randrange(8)) for _ in range(60)]
    for place, bit in bits:
        kept.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
        try:
            found, after = resume.load(kept, "abc")
        except DamagedFile:
            continue
        # 1E-05 for 1e-05, or another last digit of the same float
        assert place < header
        assert (found.step, found.losses, found.history, after) == (state.step, state.losses, state.history, past)
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        kept.write_bytes(whole[:length])
        with pytest.raises(DamagedFile):
            resume.load(kept, "abc")
    assert resume.load(kept.with_name("none"), "abc") is None


def alone(tiny, **training):
    """One teacher alone, long enough to be stopped."""
    tiny["seeds"] = [0]
    tiny["training"] |= {"steps": 400, "precision": "float32"} | training
    tiny["execution"] = {"keep_seconds": 0.0}
    for stage in ("baselines", "students", "joint", "continual"):
        tiny[stage]["operators"] = []
    tiny["teachers"]["operators"] = ["add"]
    return tiny


def started(made, repository):
    """The stage's training in a process of its own."""
    command = [sys.executable, "-m", "grokdistill", "train", str(made.plan), "--stage", "teachers", "--threads", "1"]
    environment = os.environ | {"PYTHONPATH": str(repository / "src")}
    return subprocess.Popen(command, cwd=made.folder, env=environment, stderr=subprocess.PIPE, text=True)


def result(made):
    """What a training leaves, without what it cost."""
    (key,) = made.of("teachers")
    record = json.loads((made.stored(key) / "record.json").read_text())
    record.pop("execution")
    record.pop("sha256")
    return record, (made.stored(key) / "curve.csv").read_bytes(), (made.stored(key) / "checkpoint.safetensors").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_job_killed_again_and_again_ends_as_if_nothing_had_been(study, tiny, repository, number):
    raw = alone(tiny)
    undisturbed, made = study(raw), study(raw)
    undisturbed.make("datasets")
    made.make("datasets")
    assert started(undisturbed, repository).wait() == 0
    (key,) = made.of("teachers")
    state, steps, told = made.stored(key) / "state.safetensors", [0], ""
    for _ in range(3):
        job = started(made, repository)
        deadline = time.monotonic() + 60
        while True:
            assert time.monotonic() < deadline
            assert job.poll() is None, job.stderr.read()
            try:
                step = load_tensors(state, "torch")[1]["step"]
            except DamagedFile:
                step = 0
            if step > steps[-1] + 20:
                break
        job.send_signal(number)
        told = job.communicate()[1]
        assert job.returncode == (143 if number == signal.SIGTERM else -number)
        steps.append(load_tensors(state, "torch")[1]["step"])
        assert not (made.stored(key) / "record.json").exists()
    assert steps == sorted(set(steps))
    if number == signal.SIGTERM:
        assert f"stopped by SIGTERM at step {steps[-1]:,}" in told
    job = started(made, repository)
    assert f"goes on at step {steps[-1]:,}" in job.communicate()[1]
    assert job.returncode == 0
    for one, two in zip(result(made), result(undisturbed), strict=True):
        assert one == two
    assert not state.exists()


def stopped_on(device, made, monkeypatch):
    """Train teachers on a processor of this name until their first state is kept."""
    keep = StateKeeper.keep

    def kept_and_stopped(self, states):
        self.stop.told = signal.SIGTERM
        keep(self, states)

    with monkeypatch.context() as here:
        here.setattr(StateKeeper, "keep", kept_and_stopped)
        here.setattr(jobs, "_processor", lambda: device)
        assert made.command("train", made.plan, "--stage", "teachers") == 128 + signal.SIGTERM


def test_a_run_that_went_on_elsewhere_names_every_device(study, tiny, monkeypatch):
    made = study(alone(tiny, steps=20))
    made.make("datasets")
    (key,) = made.of("teachers")
    for _ in range(2):
        stopped_on("this", made, monkeypatch)
    monkeypatch.setattr(jobs, "_processor", lambda: "that")
    made.make("teachers")
    assert json.loads((made.stored(key) / "record.json").read_text())["execution"]["device"] == "this, then that"


def test_seeds_that_were_on_different_devices_are_told_apart(study, tiny, monkeypatch):
    """Stopped at the same step, one state comes from elsewhere."""
    raw = seeds_together(tiny)
    raw["training"]["steps"], raw["execution"]["keep_seconds"] = 20, 0.0
    made = study(raw)
    made.make("datasets")
    stopped_on("this", made, monkeypatch)
    monkeypatch.setattr(jobs, "_processor", lambda: "this")
    first, second, third = made.of("teachers")
    path = made.stored(second) / "state.safetensors"
    resume.save(path, second, resume.load(path, second)[0], Past(1.0, ("that",)))
    made.make("teachers")
    records = [json.loads((made.stored(key) / "record.json").read_text()) for key in (first, second, third)]
    assert [record["execution"]["device"] for record in records] == ["this", "that, then this", "this"]


def test_a_damaged_state_is_told_and_the_run_starts_over(study, tiny, capfd):
    raw = alone(tiny, steps=20)
    undisturbed, made = study(raw), study(raw)
    undisturbed.make("datasets", "teachers")
    made.make("datasets")
    (key,) = made.of("teachers")
    made.stored(key).mkdir(parents=True)
    (made.stored(key) / "state.safetensors").write_bytes(b"nothing of the kind")
    (made.stored(key) / ".curve.csv.abc.partial").write_bytes(b"half")
    capfd.readouterr()
    made.make("teachers")
    assert "starts over" in capfd.readouterr().err
    assert result(made) == result(undisturbed)
    assert {path.name for path in made.stored(key).iterdir()} == {"record.json", "curve.csv", "checkpoint.safetensors"}


def test_two_at_once_train_a_run_once(study, tiny, repository):
    made = study(alone(tiny))
    made.make("datasets")
    jobs = [started(made, repository) for _ in range(2)]
    told = [job.communicate()[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert sum("400 steps in" in text for text in told) == 1
    assert sum("another process trains teachers/add-p7-f50-adamw-scratch-s0; waiting for it" in text for text in told) == 1


def seeds_together(tiny):
    raw = alone(tiny, steps=6)
    raw["seeds"], raw["execution"] = [0, 1, 2], {"seeds_per_job": 3}
    return raw


def test_a_job_that_does_not_fit_is_split_once(study, tiny, capfd, monkeypatch):
    raw = seeds_together(tiny)
    expected, made = study(raw), study(raw)
    for one in (expected, made):
        one.make("datasets")
    expected.make("teachers")
    run = Trainer.run

    def tight(self, *arguments):
        if self.seeds > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 5.00 GiB")
        return run(self, *arguments)

    monkeypatch.setattr(Trainer, "run", tight)
    made.make("teachers")
    assert "trained in two halves" in capfd.readouterr().err
    for key in made.of("teachers"):
        one, two = (load_tensors(each.stored(key) / "checkpoint.safetensors", "torch")[0] for each in (made, expected))
        assert all(torch.allclose(one[name], two[name], rtol=1e-5, atol=1e-6) for name in one)


def test_a_job_that_does_not_fit_beside_others_is_left_whole(study, tiny, capfd, monkeypatch):
    """Alone it may fit, and in halves it would have other bits."""
    made = study(seeds_together(tiny))
    made.make("datasets")

    def tight(self, *arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 5.00 GiB")

    monkeypatch.setattr(Trainer, "run", tight)
    assert made.command("train", made.plan, "--stage", "teachers", "--jobs", "2") == 1
    told = capfd.readouterr().err
    assert "Turn down --jobs 2, execution.seeds_per_job" in told
    assert "two halves" not in told


def test_a_job_that_never_fits_says_what_to_turn_down(study, tiny, capfd, monkeypatch):
    made = study(seeds_together(tiny))
    made.make("datasets")

    def never(self, *arguments):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes"
        )

    monkeypatch.setattr(Trainer, "run", never)
    assert made.command("train", made.plan, "--stage", "teachers") == 1
    told = capfd.readouterr().err
    assert all(word in told for word in ("execution.seeds_per_job", "training.batch_size", "batches of 8", "99 bytes"))
    assert "Traceback" not in told


def test_a_seed_that_diverges_is_named_and_the_others_are_kept(study, tiny, capfd, monkeypatch):
    """Where the gradient of one seed stops being finite, the job says so at that step and goes on with the others."""
    raw = seeds_together(tiny)
    raw["execution"]["keep_seconds"] = 0.0
    raw["evaluation"]["every"] = 6  # so that states are kept between the divergence and the next evaluation
    expected, made = study(raw), study(raw)
    for one in (expected, made):
        one.make("datasets")
    expected.make("teachers")
    update, kept = Trainer.update, []
    monkeypatch.setattr(resume, "save", lambda path, fingerprint, state, seconds: kept.append((state.step, fingerprint)))

    def poisoned(self, *arguments):
        if self.at == 3 and self.seeds == 3:
            with torch.no_grad():
                self.weights["unembedding.weight"][1] = float("inf")
        return update(self, *arguments)

    monkeypatch.setattr(Trainer, "update", poisoned)
    made.make("teachers")
    told = capfd.readouterr().err
    assert "seed 1: DIVERGED at step 4" in told
    first, second, third = made.of("teachers")
    assert {step for step, key in kept if key == second} == {1, 2, 3}
    assert {step for step, key in kept if key == first} == {1, 2, 3, 4, 5}
    records = [json.loads((made.stored(key) / "record.json").read_text()) for key in (first, second, third)]
    assert [record["diverged"] for record in records] == [None, 4, None]
    assert "diverged" in (made.stored(second) / "record.json").read_text()
    for key in (first, third):
        one, two = (load_tensors(each.stored(key) / "checkpoint.safetensors", "torch")[0] for each in (made, expected))
        assert all(torch.equal(one[name], two[name]) for name in one)
    for stage in ("datasets", "teachers", "baselines", "students", "joint", "continual"):
        assert made.command("publish", made.plan, stage) == 0
    assert made.command("tables", made.plan) == 0
    rows = (made.results / "runs.csv").read_text().splitlines()
    assert [",diverged," in row for row in rows[1:]] == [False, True, False]


def test_a_full_disk_is_told_and_nothing_half_made_is_kept(study, tiny, capfd, monkeypatch):
    made = study(alone(tiny, steps=6))
    made.make("datasets")

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jobs, "save_tensors", full)
    assert made.command("train", made.plan, "--stage", "teachers") == 1
    told = capfd.readouterr().err
    assert "No space left on device" in told
    assert "Traceback" not in told
    monkeypatch.undo()
    made.make("teachers")


def test_a_checkpoint_of_another_architecture_is_named(study, tiny, capsys):
    """Even where the record vouches for its bytes."""
    made = study(tiny)
    made.make("datasets", "teachers")
    key = made.of("teachers")[0]
    path = made.stored(key) / "checkpoint.safetensors"
    tensors, header = load_tensors(path, "torch")
    tensors["position.weight"] = tensors["position.weight"][:3].clone()
    save_tensors(path, tensors, header, "torch")
    record = json.loads(path.with_name("record.json").read_text())
    record["outputs"][path.name] = sha256(path)
    path.with_name("record.json").write_text(json.dumps(sealed(record)))
    assert made.command("train", made.plan, "--stage", "students") == 1
    told = capsys.readouterr().err
    assert f"{path.relative_to(made.folder)}: not a model of the shape that its header says" in told
