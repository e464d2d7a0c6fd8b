"""Write dvc.yaml from the library: `python workflow/scripts/write_dvc_yaml.py` (a test fails where the two differ).

DVC owns the boundaries between stages. Its first stage writes the manifests, which say what every stage is made from; each
further stage depends on its own manifest and on the views that it reads, so DVC runs a stage exactly when Snakemake has
something to make in it. Inside a stage, Snakemake decides. All outputs persist: DVC deletes none before a stage runs, and
Snakemake replaces exactly what is not as its stamp says.
"""

from pathlib import Path

import yaml

from grokdistill.config import STAGES
from grokdistill.params import Params, read, validate
from grokdistill.runs import enumerate_runs
from grokdistill.targets import READ, Target, enumerate_targets

ROOT = Path(__file__).resolve().parents[2]
HEAD = """\
# Written by workflow/scripts/write_dvc_yaml.py; change it there. `dvc repro` runs the same jobs as `snakemake`.
"""
# What a stage reads: the views of other stages, then files of the results.
READS = {
    "datasets": (),
    "teachers": ("datasets",),
    "baselines": ("datasets",),
    "students": ("datasets", "teachers"),
    "joint": ("datasets", "teachers", "students"),
    "continual": ("datasets", "teachers"),
    "tables": STAGES[1:],
    **READ,
}


def document(params: Params) -> dict:
    """The content of dvc.yaml."""
    results = params.paths.results
    groups: dict[str, list[Target]] = {}
    for target in enumerate_targets(enumerate_runs(params)).values():
        groups.setdefault(target.group, []).append(target)
    view = {stage: params.paths.datasets if stage == "datasets" else f"{results}/{stage}" for stage in STAGES}
    curves = [f"{results}/curves/{stage}" for stage in STAGES[1:]]
    manifests = {name: f"{results}/plan/{name}.txt" for name in groups}

    def made(path: str) -> dict:
        return {path: {"persist": True} if path in view.values() else {"cache": False, "persist": True}}

    def stage(command: str, **more: list) -> dict:
        return {"cmd": f"snakemake --cores 1 --resources gpu=1 -- {command}"} | more

    stages = {
        "plan": stage(
            "plan",
            deps=["src/grokdistill", params.paths.claims],
            params=[name for name in Params.model_fields if name not in ("paths", "execution")],
            outs=[made(path) for path in manifests.values()],
        )
    }
    for name, targets in groups.items():
        paths = [path for target in targets for path in (*target.outputs, target.stamp)]
        measured = [path for path in paths if path.startswith(f"{results}/metrics/")]
        read = [view.get(other, f"{results}/{other}") for other in READS[name]]
        stages[name] = stage(
            name,
            deps=[manifests[name], *read],
            **({"metrics": [made(path) for path in measured]} if measured else {}),
            outs=[made(path) for path in paths if path not in measured],
        )
    plots = [{path: {"x": "step", "y": "test_acc", "x_label": "optimizer updates"}} for path in curves]
    plots += [path for target in groups["figures"] for path in target.outputs if path.endswith(".png")]
    return {"stages": stages, "plots": plots}


def text() -> str:
    """dvc.yaml as text."""
    params = validate(read([ROOT / "params.yaml"]))
    return HEAD + yaml.safe_dump(document(params), sort_keys=False, width=120)


if __name__ == "__main__":
    (ROOT / "dvc.yaml").write_text(text(), encoding="utf-8")
