"""The Kubernetes profile with the real executor and the real S3 plugin, against a small API server and moto's S3.

The server keeps to what a cluster's refuses or lacks, and runs each job's container as a process: with the volume at its path,
in an empty folder, with nothing in its environment but what an image has and what the specification gives it.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
import yaml
from conftest import Clone, make_clone
from moto.server import ThreadedMotoServer

IMAGE = "registry.example.org/grokdistill:1"
PREFIX = "s3://bucket/grokdistill"
KEYS = {f"SNAKEMAKE_STORAGE_S3_{name}_KEY": secrets.token_hex(16) for name in ("ACCESS", "SECRET")}
DIRECT = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}  # servers of these tests are never behind a proxy
STEPS = 1500  # long enough to be preempted in


def refusal(job: dict[str, Any], known: dict[str, dict[str, str]]) -> str | None:
    """Why an API server would not take this job, or its kubelet not start it (kubernetes/pkg/apis/core/validation)."""
    pod = job["spec"]["template"]["spec"]
    if len(job["metadata"]["name"]) > 63 or not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"]):
        return "metadata.name: must be a DNS label"
    volumes = [volume["name"] for volume in pod["volumes"]]
    for container in pod["containers"]:
        resources, mounts = container["resources"], container["volumeMounts"]
        limits = resources.get("limits", {})
        for name, quantity in resources["requests"].items():
            if "/" in name and name not in limits:
                return f"limits.{name}: Limit must be set for non overcommitable resources"
            if "/" in name and limits[name] != quantity:
                return f"requests.{name}: must be equal to {name} limit"
        if len({mount["mountPath"] for mount in mounts}) < len(mounts):
            return "volumeMounts: mountPath must be unique"
        if not {mount["name"] for mount in mounts} <= set(volumes) or len(set(volumes)) < len(volumes):
            return "volumeMounts: not found, or volumes of one name"
        for variable in container["env"]:
            reference = variable["valueFrom"]["secretKeyRef"]
            if reference["key"] not in known.get(reference["name"], {}):
                return f"env.{variable['name']}: no such secret"
    return None


@dataclass
class Fate:
    """When a container is killed (never, where it is None), and whether its pod is still there afterwards."""

    when: Callable[[], bool] | None = None
    pod_is_left: bool = True


@dataclass
class Job:
    """A job that was taken, its container, and what becomes of that."""

    specification: dict[str, Any]
    environment: dict[str, str]  # of its container
    container: subprocess.Popen[bytes]
    fate: Fate
    folder: Path
    gone: bool = False  # deleted

    @property
    def exit_code(self) -> int | None:
        code = self.container.poll()
        return code if code is None else code % 256 if code >= 0 else 128 - code


@dataclass
class Cluster:
    """What the executor uses of a Kubernetes API server."""

    folder: Path  # for what lies in a pod
    fates: list[Fate]  # of the next jobs; all others run undisturbed
    on_job: Callable[[dict[str, Any]], None] = lambda job: None
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    jobs: dict[str, Job] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    used: set[tuple[str, str, str]] = field(default_factory=set)  # of the rights that a role gives: group, resource, verb

    def create(self, kind: str, body: dict[str, Any]) -> tuple[int, Any]:
        name = body["metadata"]["name"]
        if kind == "secrets":
            self.secrets[name] = {key: base64.b64decode(value).decode() for key, value in body["data"].items()}
            return 201, body
        reason = refusal(body, self.secrets)
        if reason:
            self.refused.append(reason)
            return 422, status(reason)
        self.on_job(body)
        (container,) = body["spec"]["template"]["spec"]["containers"]
        folder = self.folder / name
        folder.mkdir()
        environment = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder)} | DIRECT
        for variable in container["env"]:
            reference = variable["valueFrom"]["secretKeyRef"]
            environment[variable["name"]] = self.secrets[reference["name"]][reference["key"]]
        with (folder / ".log").open("wb") as log:
            process = subprocess.Popen(
                container["command"] + container["args"], cwd=folder, env=environment, start_new_session=True,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        fate = self.fates.pop(0) if self.fates else Fate()
        self.jobs[name] = Job(body, environment, process, fate, folder)
        if fate.when:
            threading.Thread(target=self.kill, args=[self.jobs[name]], daemon=True).start()
        return 201, body

    @staticmethod
    def kill(job: Job) -> None:
        while job.container.poll() is None:
            if job.fate.when():
                os.killpg(job.container.pid, signal.SIGKILL)
                job.container.wait()
            time.sleep(0.01)

    def read(self, kind: str, name: str, rest: list[str], query: dict[str, str]) -> tuple[int, Any]:
        if kind == "jobs":
            code = self.jobs[name].exit_code
            told = {"active": 1} if code is None else {"failed": 1} if code else {"succeeded": 1}
            return 200, {"metadata": {"name": name}, "status": told}
        if rest == ["log"]:
            if query.get("previous", "false").lower() != "false":  # what kubelet says of a container that was never restarted
                return 400, status(f'previous terminated container "snakemake" in pod "{name}" not found')
            return 200, (self.jobs[name].folder / ".log").read_text()
        name = query["labelSelector"].removeprefix("job-name=")
        job = self.jobs[name]
        if job.gone or (job.exit_code and not job.fate.pod_is_left):
            return 200, {"items": []}
        state = {"running": {}} if job.exit_code is None else {"terminated": {"exitCode": job.exit_code}}
        about = {"name": "snakemake", "image": IMAGE, "imageID": "", "ready": False, "restartCount": 0, "state": state}
        return 200, {"items": [{"metadata": {"name": name}, "status": {"containerStatuses": [about]}}]}

    def delete(self, kind: str, name: str) -> tuple[int, Any]:
        if kind == "secrets":
            del self.secrets[name]
        else:
            self.jobs[name].gone = True
        return 200, status("deleted")


def status(message: str) -> dict[str, Any]:
    return {"kind": "Status", "message": message}


@contextmanager
def serving(cluster: Cluster) -> Iterator[str]:
    """The cluster's address, as long as it is there."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            url = urlsplit(self.path)
            # /api/v1/namespaces/NAMESPACE/KIND[/NAME[/PART]], or /apis/batch/v1/namespaces/...
            before, after = url.path.strip("/").split("/namespaces/")
            _, kind, *rest = after.split("/")
            verb = {"POST": "create", "DELETE": "delete", "GET": "get" if rest else "list"}[self.command]
            group = before.split("/")[1] if before.startswith("apis/") else ""
            cluster.used.add((group, "/".join([kind, *rest[1:]]), verb))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.command == "POST":
                code, reply = cluster.create(kind, json.loads(body))
            elif self.command == "DELETE":
                code, reply = cluster.delete(kind, rest[0])
            else:
                query = {key: values[0] for key, values in parse_qs(url.query).items()}
                code, reply = cluster.read(kind, rest[0] if rest else "", rest[1:], query)
            text = isinstance(reply, str)
            data = (reply if text else json.dumps(reply)).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if text else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        for job in cluster.jobs.values():
            if job.container.poll() is None:
                os.killpg(job.container.pid, signal.SIGKILL)


def kubeconfig(path: Path, server: str) -> Path:
    """What kubectl and the executor read to find a cluster."""
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
                "clusters": [{"name": "test", "cluster": {"server": server}}],
                "users": [{"name": "test", "user": {"token": "test"}}],
            }
        )
    )
    return path


@dataclass
class Study:
    """The teachers of a tiny study, trained in the cluster."""

    clone: Clone
    cluster: Cluster
    printed: str
    archives: list[bytes]  # of sources, as they were in the bucket when a job was submitted
    left: list[str]  # in the bucket at the end

    @property
    def specifications(self) -> list[dict[str, Any]]:
        return [job.specification for job in self.cluster.jobs.values()]

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [one["spec"]["template"]["spec"]["containers"][0] for one in self.specifications]


def command(clone: Clone) -> list[str]:
    """As docs/scaling.md has it; the claim's volume is "mounted" at the clone."""
    return [
        "snakemake", "--workflow-profile", "workflow/profiles/kubernetes", "--container-image", IMAGE,
        "--default-storage-prefix", PREFIX, "--seconds-between-status-checks", "1",
        "--kubernetes-volume-persistent-volumes", f"claim:{clone.root}",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """Preempted once in training, killed twice at once, then left in peace: as many retries as the profile has."""
    folder = tmp_path_factory.mktemp("kubernetes")
    (folder / "volume").mkdir()
    (folder / "pods").mkdir()
    clone = make_clone(folder / "volume")
    clone.params(training__steps=STEPS, execution={"keep_seconds": 0.2})
    clone.commit("longer")
    archives: list[bytes] = []
    s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    s3.start()
    try:
        host, port = s3.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        bucket = boto3.resource(
            "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
        ).create_bucket(Bucket="bucket")
        bucket.put_object(Key="dvc/something", Body=b"of someone else")

        def look(job: dict[str, Any]) -> None:
            archives.extend(item.get()["Body"].read() for item in bucket.objects.filter(Prefix="grokdistill/"))

        def has_state() -> bool:
            return any((clone.root / "results/store/teachers").glob("*/state.safetensors"))

        killed = Fate(when=lambda: True)
        cluster = Cluster(folder / "pods", [Fate(has_state, pod_is_left=False), killed, killed], look)
        with serving(cluster) as server:
            clone.environment |= KEYS | DIRECT | {
                "KUBECONFIG": str(kubeconfig(folder / "config", server)),
                "SNAKEMAKE_STORAGE_S3_ENDPOINT_URL": endpoint,
                "PYTHONPATH": "workflow/profiles/kubernetes",
            }  # fmt: skip
            printed = clone.run(*command(clone), "--", "teachers")
        yield Study(clone, cluster, printed, archives, [item.key for item in bucket.objects.all()])
    finally:
        s3.stop()


def test_a_training_job_in_the_cluster(study: Study):
    """It is preempted, killed and tried again; the run is in the store, Snakemake ends well, and nothing is left to do."""
    assert study.cluster.refused == []
    assert [job.exit_code for job in study.cluster.jobs.values()] == [137, 137, 137, 0], study.printed
    assert study.clone.trained()["teachers"] == 1
    (log,) = (study.clone.root / "results/logs/teachers").glob("*.log")
    assert re.search(r"goes on at step [\d,]+", log.read_text())
    assert not study.clone.planned("--", "teachers")
    assert all(job.gone for job in study.cluster.jobs.values() if job.fate.pod_is_left)
    assert study.cluster.secrets == {}


def test_what_a_pod_asks_for(study: Study):
    """One GPU, a processor and memory, as requests and limits, on a node that is kept for GPUs; never restarted in place."""
    for one, container in zip(study.specifications, study.containers, strict=True):
        pod = one["spec"]["template"]["spec"]
        assert container["image"] == IMAGE
        same = {"memory": "8000M", "ephemeral-storage": "4000M", "nvidia.com/gpu": "1"}
        assert container["resources"] == {"requests": same | {"cpu": "950m"}, "limits": same | {"cpu": "1000m"}}
        assert [(each["key"], each["effect"]) for each in pod["tolerations"]] == [("nvidia.com/gpu", "NoSchedule")]
        assert (one["spec"]["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
        # It starts in an empty folder; the claim is mounted at the path that it has here.
        assert container["workingDir"] == "/workdir"
        mounted = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {"/workdir": "workdir", str(study.clone.root): "claim"}
        assert pod["volumes"] == [
            {"name": "workdir", "emptyDir": {}},
            {"name": "claim", "persistentVolumeClaim": {"claimName": "claim"}},
        ]


def test_what_a_pod_runs(study: Study):
    """It fetches the sources, then Snakemake runs the one training job with them, on the volume; nothing is installed."""
    (run,) = (study.clone.root / "results/store/teachers").iterdir()
    for attempt, container in enumerate(study.containers, start=1):
        assert (container["command"], container["args"][0]) == (["/bin/sh"], "-c")
        words = shlex.split(container["args"][1])
        assert words.count("&&") == 1
        deploy, train = words[: words.index("&&")], words[words.index("&&") + 1 :]
        checksum = hashlib.sha256(study.archives[attempt - 1]).hexdigest()
        archive = f"{PREFIX}/snakemake-workflow-sources.{checksum}.tar.xz"
        assert deploy[:6] == ["python", "-m", "snakemake", "--deploy-sources", archive, checksum]
        assert train[:5] == ["python", "-m", "snakemake", "--snakefile", "Snakefile"]
        text = " ".join(train)
        for option in (
            f"--target-jobs train_teachers:fingerprint={run.name}",
            "--allowed-rules train_teachers",
            f"--directory {study.clone.root}",
            "--rerun-triggers mtime",
            "--retries 0",  # the main process counts
            f"--attempt {attempt}",
            "--mode remote",
        ):
            assert f" {option} " in f"{text} ", option
        shared = re.search(r"--shared-fs-usage ([a-z -]+?) --", text)[1].split()
        assert sorted(shared) == ["input-output", "persistence"]


def test_sources_travel_through_the_bucket(study: Study):
    """While jobs run it holds an archive of what git tracks, as it is in the folder; in the end only what it held before."""
    assert len(study.archives) == len(study.cluster.jobs)  # one at each submission
    with tarfile.open(fileobj=io.BytesIO(study.archives[0]), mode="r:xz") as archive:
        packed = {member.name: archive.extractfile(member).read() for member in archive.getmembers()}
    tracked = study.clone.run("git", "ls-files").split()
    assert packed == {name: (study.clone.root / name).read_bytes() for name in tracked}
    assert study.left == ["dvc/something"]


def test_secrets_stay_secret(study: Study):
    """A pod has the keys to the bucket in its environment, by reference: no specification, output or file holds them."""
    for job in study.cluster.jobs.values():
        assert {name: job.environment[name] for name in KEYS} == KEYS
    told = json.dumps(study.specifications) + study.printed
    told += "".join(path.read_text(errors="replace") for path in study.clone.root.rglob("*") if path.is_file())
    for value in KEYS.values():
        assert value not in told
        assert base64.b64encode(value.encode()).decode() not in told


def test_the_role_gives_what_is_needed(study: Study):
    """cluster.yaml's role has exactly the rights that were used; its pod has the claim and the keys that Snakemake needs."""
    text = (study.clone.root / "workflow/profiles/kubernetes/cluster.yaml").read_text()
    parts = {part["kind"]: part for part in yaml.safe_load_all(text)}
    given = {
        (group, resource, verb)
        for rule in parts["Role"]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert given == study.cluster.used
    assert parts["Pod"]["spec"]["containers"][0]["image"] == IMAGE


def test_a_folder_that_no_pod_would_see(study: Study):
    """Is refused before anything is submitted."""
    before = len(study.cluster.jobs)
    printed = study.clone.run(*command(study.clone)[:-1], "claim:/elsewhere", "--", "baselines", ok=False)
    assert f"{study.clone.root} is on no volume that the pods mount" in printed
    assert len(study.cluster.jobs) == before
