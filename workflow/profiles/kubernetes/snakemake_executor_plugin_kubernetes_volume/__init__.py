"""Snakemake's Kubernetes executor for a workflow whose files lie on a volume that every pod mounts.

This is snakemake-executor-plugin-kubernetes (0.5.1) with its options, as `--kubernetes-volume-...`, and with what a profile
cannot change in it. Snakemake finds it where this file's parent folder is on PYTHONPATH.
"""

import shlex
from dataclasses import replace
from pathlib import Path

import snakemake_executor_plugin_kubernetes as kubernetes
from snakemake_executor_plugin_kubernetes import ExecutorSettings  # noqa: F401 (Snakemake looks for it here)
from snakemake_interface_common.exceptions import WorkflowError

# Of an executor that "implies" that no files are shared, Snakemake 9 ignores --shared-fs-usage. And no pod has to fetch storage
# plugins from a package index: they are in the image.
common_settings = replace(kubernetes.common_settings, implies_no_shared_fs=False, auto_deploy_default_storage_provider=False)


class Executor(kubernetes.Executor):
    """Jobs in pods, on the files of the folder in which Snakemake was started."""

    def __post_init__(self) -> None:
        volumes = self.workflow.executor_settings.persistent_volumes
        if not any(Path.cwd().is_relative_to(volume.path) for volume in volumes):
            raise WorkflowError(
                f"{Path.cwd()} is on no volume that the pods mount: "
                "give --kubernetes-volume-persistent-volumes CLAIM:PATH, with the path where the volume is mounted here."
            )
        super().__post_init__()
        # The log of a failed pod is asked for as its "previous" one, which a pod that is never restarted does not have: the
        # server's refusal would end Snakemake, with all other jobs, where it should try again.
        read = self.kubeapi.read_namespaced_pod_log
        self.kubeapi.read_namespaced_pod_log = lambda **request: read(**request | {"previous": False})

    def additional_general_args(self) -> str:
        """A pod starts in an empty folder and unpacks the sources there; what it reads and writes lies here."""
        return f"--directory {shlex.quote(str(Path.cwd()))}"
