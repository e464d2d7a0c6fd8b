"""Files that are there whole or not at all, and the store that holds them."""

import hashlib
import json
import stat

import numpy as np
import pytest
import torch

from grokdistill.files import DamagedFile, load_tensors, save_tensors, sha256, to_json, write, write_if_changed, write_with
from grokdistill.store import Store


def names(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_write_makes_folders_and_leaves_nothing_beside_the_file(tmp_path):
    write(tmp_path / "a/b/text", "größer")
    write(tmp_path / "a/b/bytes", b"\0\1")
    assert (tmp_path / "a/b/text").read_text(encoding="utf-8") == "größer"
    assert (tmp_path / "a/b/bytes").read_bytes() == b"\0\1"
    assert names(tmp_path) == ["bytes", "text"]
    assert stat.S_IMODE((tmp_path / "a/b/text").stat().st_mode) == 0o644


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_writer_that_fails_leaves_nothing_behind_and_the_old_file_as_it_was(tmp_path, error):
    def writer(partial):
        partial.write_text("half of i")
        raise error("power cut")

    with pytest.raises(error):
        write_with(tmp_path / "new", writer)
    assert names(tmp_path) == []
    write(tmp_path / "old", "whole")
    with pytest.raises(error):
        write_with(tmp_path / "old", writer)
    assert names(tmp_path) == ["old"]
    assert (tmp_path / "old").read_text() == "whole"


def test_the_file_appears_only_once_it_is_whole(tmp_path):
    def writer(partial):
        assert partial.parent == tmp_path  # on the same file system, so that moving it is one step
        assert not (tmp_path / "file").exists()
        partial.write_text("first half, ")
        assert not (tmp_path / "file").exists()
        with partial.open("a") as file:
            file.write("second half")

    write_with(tmp_path / "file", writer)
    assert (tmp_path / "file").read_text() == "first half, second half"


def test_write_if_changed_keeps_the_timestamp_of_equal_content(tmp_path):
    path = tmp_path / "file"
    write_if_changed(path, "one")
    inode = path.stat().st_ino
    write_if_changed(path, "one")
    assert path.stat().st_ino == inode
    write_if_changed(path, "two")
    assert path.read_text() == "two"


def test_json_is_stable_and_has_no_invalid_numbers():
    assert to_json({"b": 1, "a": [0.5, None]}) == to_json(dict(reversed({"b": 1, "a": [0.5, None]}.items())))
    assert json.loads(to_json({"b": 1, "a": {"c": 0.1}})) == {"a": {"c": 0.1}, "b": 1}
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            to_json({"a": value})


def test_sha256(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("backend", ["torch", "numpy"])
def test_tensors_and_header_survive(tmp_path, backend):
    rng = np.random.default_rng(0)
    tensors = {"w": rng.normal(size=(3, 4)), "n": np.arange(5, dtype=np.int32), "empty": np.empty((0, 2), np.float32)}
    if backend == "torch":
        tensors = {name: torch.from_numpy(value) for name, value in tensors.items()}
    save_tensors(tmp_path / "x.safetensors", tensors, {"shape": {"d_model": 3}, "text": "ü"}, backend)
    found, header = load_tensors(tmp_path / "x.safetensors", backend)
    assert header == {"shape": {"d_model": 3}, "text": "ü"}
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].dtype == value.dtype
        assert np.array_equal(np.asarray(found[name]), np.asarray(value))
    assert names(tmp_path) == ["x.safetensors"]


def test_the_same_tensors_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        save_tensors(tmp_path / name, {"b": torch.ones(3), "a": torch.zeros(2)}, {"z": 1, "y": 2}, "torch")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "header", "text", "folder"])
def test_tensors_that_cannot_be_read_are_named(tmp_path, damage):
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"w": torch.arange(100.0)}, {}, "torch")
    content = path.read_bytes()
    if damage in ("missing", "folder"):
        path.unlink()
    if damage == "folder":
        path.mkdir()
    changed = {"empty": b"", "truncated": content[:-7], "header": b"\xff" * 8 + content[8:], "text": b"not tensors at all"}
    if damage in changed:
        path.write_bytes(changed[damage])
    with pytest.raises(DamagedFile, match=r"x\.safetensors"):
        load_tensors(path, "torch")


class TestStore:
    """A run's files by fingerprint."""

    @pytest.fixture
    def store(self, tmp_path):
        store = Store(tmp_path / "store")
        write(store.folder("teachers", "f00") / "curve.csv", "step\n0\n")
        store.commit("teachers", "f00", {"stage": "teachers"}, ("curve.csv",))
        return store

    def test_a_run_is_complete_once_its_record_is_there(self, tmp_path):
        store = Store(tmp_path / "store")
        write(store.folder("teachers", "f00") / "curve.csv", "step\n0\n")
        assert not store.complete("teachers", "f00")
        store.commit("teachers", "f00", {"stage": "teachers"}, ("curve.csv",))
        assert store.complete("teachers", "f00")
        assert not store.complete("students", "f00")
        assert not store.complete("teachers", "f01")

    def test_the_record_carries_the_hashes(self, store):
        record = store.record("teachers", "f00")
        assert record["stage"] == "teachers"
        assert record["outputs"] == {"curve.csv": hashlib.sha256(b"step\n0\n").hexdigest()}
        assert store.file("teachers", "f00", "curve.csv").read_text() == "step\n0\n"

    def test_a_run_whose_file_was_not_written_is_not_complete(self, store):
        with pytest.raises(FileNotFoundError):
            store.commit("teachers", "f02", {}, ("curve.csv",))
        assert not store.complete("teachers", "f02")

    @pytest.mark.parametrize("content", [None, "", "{", "[]", "null", '"text"', "{}", '{"fingerprint": "f01"}', "\xff\xfe"])
    def test_a_record_that_is_missing_or_damaged_is_named(self, store, content):
        path = store.folder("teachers", "f00") / "record.json"
        path.unlink()
        if content is not None:
            path.write_bytes(content.encode("latin-1"))
        with pytest.raises(DamagedFile) as caught:
            store.record("teachers", "f00")
        assert str(path) in str(caught.value)
        if content is None:
            assert "run its stage first" in str(caught.value)
        else:
            assert str(path.parent) in str(caught.value)
            assert "delete" in str(caught.value)

    def test_a_record_with_one_bit_flipped_is_never_taken_for_another(self, store):
        """Unless what it says is the same, such as other white space."""
        path = store.folder("teachers", "f00") / "record.json"
        whole, record = path.read_bytes(), store.record("teachers", "f00")
        refused = 0
        for place in range(len(whole)):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            try:
                assert store.record("teachers", "f00") == record
            except DamagedFile as error:
                refused += 1
                assert str(path) in str(error) and "delete" in str(error)
        assert refused > 0.9 * len(whole)

    def test_a_record_without_hashes_is_damaged(self, store):
        path = store.folder("teachers", "f00") / "record.json"
        path.write_text('{"fingerprint": "f00"}')
        with pytest.raises(DamagedFile, match="f00"):
            store.file("teachers", "f00", "curve.csv")

    @pytest.mark.parametrize("content", [None, b"", b"step\n0", b"step\n1\n", b"step\n0\n "])
    def test_a_file_that_is_not_what_was_recorded_is_named(self, store, content):
        path = store.folder("teachers", "f00") / "curve.csv"
        path.unlink()
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(DamagedFile) as caught:
            store.file("teachers", "f00", "curve.csv")
        assert str(path) in str(caught.value)
        assert "delete" in str(caught.value)

    def test_a_file_that_was_never_recorded_is_refused(self, store):
        write(store.folder("teachers", "f00") / "extra.csv", "")
        with pytest.raises(DamagedFile, match=r"extra\.csv"):
            store.file("teachers", "f00", "extra.csv")
