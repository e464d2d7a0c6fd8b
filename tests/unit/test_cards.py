"""Which card a job takes: by what the user or a scheduler lets it see, and by what other processes hold."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from grokdistill import cards


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        ("0,1,2", ["0", "1", "2"]),
        (" 3 , 1", ["3", "1"]),
        ("GPU-8932f937-d72c,MIG-GPU-8932f937/1/2", ["GPU-8932f937-d72c", "MIG-GPU-8932f937/1/2"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["0"]),
        ("NoDevFiles", []),
    ],
)
def test_what_is_visible_is_read_as_cuda_reads_it(monkeypatch: pytest.MonkeyPatch, listed: str, expected: list[str]):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert cards.visible() == expected


def test_without_a_list_all_cards_of_the_machine_are_visible(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert cards.visible() == [str(number) for number in range(torch.cuda.device_count())]


def test_jobs_take_different_cards_and_spread_evenly_beyond_them():
    with ExitStack() as held:
        places = [held.enter_context(cards.taken(["0", "GPU-1", "MIG-GPU-2/1/2"])) for _ in range(7)]
    assert places[:3] == [0, 1, 2]
    assert sorted(Counter(places).values()) == [2, 2, 3]


def test_a_card_is_free_again_after_its_job_ended_or_was_killed():
    with cards.taken(["4", "5"]) as first:
        code = "from grokdistill import cards\nwith cards.taken(['4', '5']) as place: print(place, flush=True); input()"
        environment = os.environ | {"TMPDIR": tempfile.gettempdir()}
        other = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert (first, other.stdout.readline()) == (0, "1\n")
        other.send_signal(signal.SIGKILL)
        other.communicate()
        with cards.taken(["4", "5"]) as next_one:
            assert next_one == 1


def test_a_device_that_was_asked_for_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with cards.device("cuda:1") as chosen, cards.device("cpu") as other:
        assert (chosen, other) == (torch.device("cuda:1"), torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    with cards.device("cuda") as chosen:
        assert chosen == torch.device("cuda:1")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU that PyTorch can use")
def test_a_card_that_pytorch_cannot_use_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    with cards.device(None) as chosen:
        assert chosen == torch.device("cpu")
    assert "GPU 6 (of 6,7), which PyTorch" in capsys.readouterr().out


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_job_gets_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with cards.device(None) as chosen:
        assert torch.zeros(1, device=chosen).device.index == 0
