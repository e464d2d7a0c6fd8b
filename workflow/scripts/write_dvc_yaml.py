"""Write dvc.yaml from the library: `python workflow/scripts/write_dvc_yaml.py` (a test fails where the two differ).

DVC owns the boundaries between stages. Its first stage writes the manifests, the lists of fingerprints that say what every
stage consists of; each further stage depends on its own manifest and on what it reads, so DVC reruns a stage exactly when
one of its runs has changed. Inside a stage, Snakemake decides.
"""

from pathlib import Path

import yaml

from grokdistill import sources
from grokdistill.config import STAGES
from grokdistill.params import Params, read, validate
from grokdistill.plan import manifest

ROOT = Path(__file__).resolve().parents[2]
HEAD = """\
# Written by workflow/scripts/write_dvc_yaml.py; change it there. `dvc repro` runs the same jobs as `snakemake`.
"""
# The stages whose views a stage reads.
READS = {
    "datasets": (),
    "teachers": ("datasets",),
    "baselines": ("datasets",),
    "students": ("datasets", "teachers"),
    "joint": ("datasets", "teachers", "students"),
    "continual": ("datasets", "teachers"),
}


def code(module: str) -> list[str]:
    """Source files that a module and its imports consist of."""
    return [f"src/grokdistill/{name}" for name in sources.files(f"grokdistill.{module}")]


def document(params: Params) -> dict:
    """The content of dvc.yaml."""
    results, training = params.paths.results, STAGES[1:]
    view = {stage: f"{results}/{stage}" for stage in training} | {"datasets": params.paths.datasets}
    manifests = {stage: manifest(Path(results), stage).as_posix() for stage in STAGES}
    curves = [f"{results}/curves/{stage}" for stage in training]

    def stage(target: str, deps: list[str], **more: list) -> dict:
        return {"cmd": f"snakemake --cores 1 --resources gpu=1 -- {target}", "deps": deps} | more

    def in_git(*paths: str) -> list[dict]:
        return [{path: {"cache": False}} for path in paths]

    stages = {
        "plan": {
            "cmd": "snakemake --cores 1 -- plan",
            "deps": ["src/grokdistill"],
            "params": [name for name in Params.model_fields if name not in ("paths", "execution", "figures", "claims")],
            "outs": [{path: {"cache": False, "persist": True}} for path in manifests.values()],
        }
    }
    for name in STAGES:
        deps = [manifests[name], *(view[other] for other in READS[name]), *code("publish")]
        own = {"params": [name, "evaluation"], "metrics": in_git(f"{results}/metrics/{name}.json")} if name in training else {}
        outs = [view[name], *(in_git(f"{results}/curves/{name}") if name in training else [])]
        stages[name] = stage(name, deps, **own, outs=outs)
    stages["tables"] = stage(
        "tables",
        [*(manifests[name] for name in training), *(view[name] for name in training), *code("publish")],
        params=["evaluation"],
        outs=in_git(f"{results}/runs.csv", f"{results}/costs.csv"),
    )
    drawn = [f"{results}/figures/figure-{number}" for number in range(1, 8)]
    stages["figures"] = stage(
        "figures",
        [f"{results}/runs.csv", *curves, *code("figures")],
        params=["figures", "primes"],
        outs=[*in_git(*(f"{name}.png" for name in drawn)), *(f"{name}.pdf" for name in drawn)],
    )
    stages["claims"] = stage(
        "claims",
        [f"{results}/runs.csv", *curves, "data/paper/claims.yaml", *code("claims")],
        params=["claims", "primes"],
        outs=in_git(f"{results}/claims.csv"),
    )
    plots = [{path: {"x": "step", "y": "test_acc", "x_label": "optimizer updates"}} for path in curves]
    plots += [f"{name}.png" for name in drawn]
    return {"stages": stages, "plots": plots}


def text() -> str:
    """dvc.yaml as text."""
    params = validate(read([ROOT / "params.yaml"]))
    return HEAD + yaml.safe_dump(document(params), sort_keys=False, width=120)


if __name__ == "__main__":
    (ROOT / "dvc.yaml").write_text(text(), encoding="utf-8")
