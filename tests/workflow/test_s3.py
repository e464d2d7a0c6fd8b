"""Results shared through a bucket of a real S3 server: whole, interrupted on the way there or back, and damaged there."""

from __future__ import annotations

import hashlib
import http.client
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from conftest import Clone

from grokdistill.config import STAGES

boto3 = pytest.importorskip("boto3", reason="needs boto3, to look into a bucket")
pytest.importorskip("dvc_s3", reason="needs dvc-s3, to push to it")
pytest.importorskip("moto.server", reason="needs moto[server], to serve it")

RUNS = {"datasets": 2, "teachers": 1} | dict.fromkeys(STAGES[2:], 2)
CHECKPOINT = "results/students/add-p11-p7-f20-adamw-distilled-s0/checkpoint.safetensors"
RECORD = "results/joint/add-p11-p7-f35-f20-adamw-distilled-s0/record.json"
USER = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
BUCKET = "results"

# On a port that is free, for as long as the test that started it lives.
SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


class Remote:
    """What lies in the bucket below a study's prefix, seen without DVC."""

    def __init__(self, port: int, prefix: str) -> None:
        self.port, self.prefix = port, prefix
        identity = dict(zip(("aws_access_key_id", "aws_secret_access_key", "region_name"), USER.values()))
        self.client = boto3.client("s3", endpoint_url=self.endpoint, **identity)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def read(self, path: str) -> bytes:
        return self.client.get_object(Bucket=BUCKET, Key=f"{self.prefix}/{path}")["Body"].read()

    def write(self, path: str, content: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=f"{self.prefix}/{path}", Body=content)

    def delete(self, path: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=f"{self.prefix}/{path}")

    def objects(self) -> dict[str, str]:
        """Objects by name, with the hash of their bytes."""
        listed = self.client.list_objects_v2(Bucket=BUCKET, Prefix=f"{self.prefix}/").get("Contents", [])
        paths = [entry["Key"].removeprefix(f"{self.prefix}/") for entry in listed]
        return {"".join(path.split("/")[-2:]): hashlib.md5(self.read(path)).hexdigest() for path in paths}


class Gate(ThreadingHTTPServer):
    """Between DVC and the S3 server: lets so many objects through whole, then none.

    The one after them arrives by half, on its way to a clone; on its way to the bucket it never arrives, since S3 takes an
    object whole or not at all. Both then wait, as on a line that is dead.
    """

    def __init__(self, remote: Remote, method: str, passing: int) -> None:
        super().__init__(("127.0.0.1", 0), Relay)
        self.remote, self.method, self.left = remote, method, passing
        self.counting, self.reached, self.closing = threading.Lock(), threading.Event(), threading.Event()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def stops(self, method: str, path: str) -> bool:
        """Count an object that wants through; whether it may not."""
        if method != self.method or "/files/md5/" not in path:
            return False
        with self.counting:
            self.left -= 1
            return self.left < 0

    def dead(self) -> None:
        """The line from the half on."""
        self.reached.set()
        self.closing.wait()


class Relay(BaseHTTPRequestHandler):
    """One connection through the gate."""

    protocol_version = "HTTP/1.1"
    server: Gate
    OWN: ClassVar = ("connection", "expect", "transfer-encoding", "content-length", "date", "server")

    def relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        stops = self.server.stops(self.command, self.path)
        if stops and self.command == "PUT":
            self.close_connection = True
            return self.server.dead()
        behind = http.client.HTTPConnection("127.0.0.1", self.server.remote.port)
        behind.request(self.command, self.path, body, {k: v for k, v in self.headers.items() if k.lower() not in self.OWN})
        answer = behind.getresponse()
        content = answer.read()
        behind.close()
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in self.OWN:
                self.send_header(key, value)
        self.send_header("Content-Length", answer.getheader("Content-Length") or str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if stops else content)
        if stops:
            self.wfile.flush()
            self.close_connection = True
            self.server.dead()
        return None

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = relay

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def gate(remote: Remote, method: str, passing: int) -> Iterator[Gate]:
    with Gate(remote, method, passing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.closing.set()
        server.shutdown()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The S3 server's port; the server is a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        number = int(server.stdout.readline())
        Remote(number, "").client.create_bucket(Bucket=BUCKET)
        yield number
        server.kill()


@pytest.fixture
def remote(port: int, tmp_path: Path) -> Remote:
    """An empty part of the bucket."""
    return Remote(port, tmp_path.name)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, finished: Clone) -> Clone:
    """A finished study, recorded in DVC and committed."""
    root = shutil.copytree(finished.root, tmp_path_factory.mktemp("s3") / "recorded", symlinks=True)
    clone = Clone(root, finished.environment | USER | {"PYTHONPATH": str(root / "src")})
    clone.results("record")
    clone.commit("recorded")
    return clone


@pytest.fixture
def study(recorded: Clone, remote: Remote, tmp_path: Path) -> Clone:
    """A copy of it with a remote, to which nothing has been pushed."""
    root = shutil.copytree(recorded.root, tmp_path / "study", symlinks=True)
    clone = Clone(root, recorded.environment | {"PYTHONPATH": str(root / "src")})
    clone.run("dvc", "remote", "add", "--default", "shared", f"s3://{BUCKET}/{remote.prefix}")
    clone.commit("a remote")
    reach(clone, remote)
    return clone


def reach(clone: Clone, server: Remote | Gate) -> None:
    """Say where the S3 server is; in git is the bucket alone."""
    clone.run("dvc", "remote", "modify", "--local", "shared", "endpointurl", server.endpoint)


def elsewhere(study: Clone, remote: Remote, root: Path) -> Clone:
    """A fresh clone of the study with git: neither store nor cache."""
    study.run("git", "clone", "--quiet", str(study.root), str(root))
    clone = Clone(root, study.environment | {"PYTHONPATH": str(root / "src")})
    reach(clone, remote)
    return clone


def where(oid: str) -> str:
    """Where an object lies on a remote."""
    return f"files/md5/{oid[:2]}/{oid[2:]}"


def cached(clone: Clone) -> dict[str, str]:
    """Objects of DVC's cache by name, with the hash of their bytes; what is under a passing name is none."""
    paths = (clone.root / ".dvc/cache").glob("files/md5/??/[0-9a-f]*")
    return {path.parent.name + path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in paths}


def whole(objects: dict[str, str]) -> bool:
    """Whether every object is what its name says."""
    return all(name.removesuffix(".dir") == digest for name, digest in objects.items())


def published(clone: Clone) -> dict[Path, bytes]:
    """Every result that people and DVC see."""
    below = [path for folder in ("data", "results") for path in (clone.root / folder).rglob("*") if path.is_file()]
    paths = [path.relative_to(clone.root) for path in below]
    local = [Path("results/store"), Path("results/logs")]
    return {
        path: (clone.root / path).read_bytes()
        for path in paths
        if path.name != ".snakemake_timestamp" and not any(path.is_relative_to(folder) for folder in local)
    }


def stored(clone: Clone) -> dict[Path, bytes]:
    """Every file of every run in the store."""
    store = clone.root / "results/store"
    return {
        path.relative_to(store): path.read_bytes() for stage in STAGES for path in (store / stage).rglob("*") if path.is_file()
    }


def kill(clone: Clone, at: Gate, *command: str) -> None:
    """Start a command; kill it and all that it started once the gate has stopped it."""
    process = subprocess.Popen(
        command,
        cwd=clone.root,
        env=clone.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert at.reached.wait(120)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def restored(clone: Clone, study: Clone) -> None:
    """The clone has the study's results, byte for byte, and nothing is left to do; nor was anything trained there."""
    assert not clone.planned()
    assert clone.trained() == RUNS
    assert published(clone) == published(study)
    assert stored(clone) == stored(study)
    assert "up to date" in clone.run("dvc", "status")
    assert clone.run("git", "status", "--porcelain") == ""
    assert not list((clone.root / "results").glob("logs/*/*"))


def test_a_clone_gets_what_another_pushed(study: Clone, remote: Remote, tmp_path: Path):
    study.run("dvc", "push")
    assert remote.objects() == cached(study)
    clone = elsewhere(study, remote, tmp_path / "elsewhere")
    assert sum(clone.trained().values()) == 0
    clone.results("restore")
    restored(clone, study)


def test_a_push_that_was_killed_goes_on(study: Clone, remote: Remote, tmp_path: Path):
    """What arrived arrived whole and counts elsewhere; the same command again brings the rest."""
    with gate(remote, "PUT", passing=15) as line:
        reach(study, line)
        kill(study, line, "dvc", "push")
        wait(lambda: len(remote.objects()) == 15)  # those that were let through may have been on their way
        assert whole(remote.objects())
        clone = elsewhere(study, remote, tmp_path / "elsewhere")
        clone.results("restore", ok=False)
        assert stored(clone).items() < stored(study).items()
        line.left = math.inf
        study.run("dvc", "push")
    assert remote.objects() == cached(study)
    clone.results("restore")
    restored(clone, study)


def test_a_restore_that_was_killed_goes_on(study: Clone, remote: Remote, tmp_path: Path):
    """Killed in the middle of an object: no half of it is taken for a result, and the same command again brings all."""
    study.run("dvc", "push")
    clone = elsewhere(study, remote, tmp_path / "elsewhere")
    with gate(remote, "GET", passing=20) as line:
        reach(clone, line)
        kill(clone, line, "python", "workflow/scripts/results.py", "restore")
        assert cached(clone).items() < cached(study).items()
        clone.planned()  # takes into the store what lies there
        assert stored(clone).items() <= stored(study).items()
        line.left = math.inf
        clone.results("restore")
    restored(clone, study)


def flipped(content: bytes) -> bytes:
    """One bit is another: what a disk may do."""
    return content[:-1] + bytes([content[-1] ^ 1])


def embellished(content: bytes) -> bytes:
    """A record as valid as before, of a better result."""
    record = json.loads(content)
    record["final"]["test_acc"] = 1.0
    return json.dumps(record).encode()


def test_damaged_objects_are_named_and_nothing_of_them_is_kept(study: Clone, remote: Remote, tmp_path: Path):
    """All other runs are restored. What the message says to delete suffices to mend the remote."""
    study.run("dvc", "push")
    damaged = []
    for name, damage in ((CHECKPOINT, flipped), (RECORD, embellished)):
        content = (study.root / name).read_bytes()
        damaged.append(where(hashlib.md5(content).hexdigest()))
        assert remote.read(damaged[-1]) == content
        remote.write(damaged[-1], damage(content))
    clone = elsewhere(study, remote, tmp_path / "elsewhere")
    printed = clone.results("restore", ok=False)
    for name in (CHECKPOINT, RECORD):
        assert f"discarded: {name} is not what DVC recorded" in printed
    assert "Traceback" not in printed
    assert cached(clone).items() < cached(study).items()
    assert stored(clone).items() < stored(study).items()
    assert clone.whole() == RUNS | {"students": 1, "joint": 1}
    to_delete = [line.strip() for line in printed.splitlines() if line.startswith("  files/md5/")]
    assert set(damaged) < set(to_delete)
    for path in to_delete:
        remote.delete(path)
    study.run("dvc", "push")
    assert remote.objects() == cached(study)
    clone.results("restore")
    restored(clone, study)


def test_a_damaged_listing_costs_its_stage_alone(study: Clone, remote: Remote, tmp_path: Path):
    """The object that says what a stage's folder consists of."""
    study.run("dvc", "push")
    content = hashlib.md5((study.root / CHECKPOINT).read_bytes()).hexdigest().encode()
    (oid,) = (oid for oid in cached(study) if oid.endswith(".dir") and content in remote.read(where(oid)))
    remote.write(where(oid), flipped(remote.read(where(oid))))
    clone = elsewhere(study, remote, tmp_path / "elsewhere")
    assert f"object {oid} is corrupted" in clone.results("restore", ok=False)
    assert stored(clone).items() < stored(study).items()
    assert clone.whole() == RUNS | {"students": 0}
    remote.delete(where(oid))
    study.run("dvc", "push")
    clone.results("restore")
    assert stored(clone) == stored(study)
