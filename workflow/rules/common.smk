# Parameters are checked and runs are enumerated here, once, by the library; rule files only declare.
import os
import time

shell.prefix(
    'set -euo pipefail; export PYTHONPATH="%s${{PYTHONPATH:+:$PYTHONPATH}}"; ' % SOURCES
)

from grokdistill import targets
from grokdistill.adopt import adopt
from grokdistill.claims import ClaimsError, load_claims
from grokdistill.config import STAGES
from grokdistill.files import hold
from grokdistill.plan import Plan, write_plan
from grokdistill.runs import enumerate_runs

try:
    PARAMS = validate(config)
    STUDY = enumerate_runs(PARAMS)
    if workflow.is_main_process:
        load_claims(PARAMS.paths.claims)
except (ParamsError, ClaimsError) as error:
    raise WorkflowError(str(error)) from None

# Files lie where their paths say, also where a default storage provider carries the sources to jobs elsewhere.
workflow.modifier.path_modifier.apply_default_storage = lambda path: path

PLAN = write_plan(STUDY)
RESULTS = PARAMS.paths.results
RUNS = {run.fingerprint: run for run in STUDY.runs}

# One Snakemake executes jobs in a folder at a time, and holds this lock meanwhile. Its own locks do not suffice: those of a killed
# run stay, so they are removed here where nobody runs, and every Snakemake that ends takes all others' with it.
RUNNING = Path(".snakemake/running")
if workflow.is_main_process:
    _nobody = hold(RUNNING)
    if _nobody:
        for _stale in Path(".snakemake/locks").glob("*.lock"):
            _stale.unlink()
        _nobody.close()


onstart:
    if workflow.is_main_process:
        for _ in range(20):
            workflow.running = hold(RUNNING)
            if workflow.running:
                break
            time.sleep(0.1)  # whoever only looks, as above, lets go at once
        else:
            raise WorkflowError(
                f"Another snakemake (or dvc repro) is running in {os.getcwd()}. Wait for it to end, or stop it: "
                "finished runs are kept, and those in training go on where they stood."
            )


# What to make is decided here by content, and handed to Snakemake as timestamps: a run is made where the store lacks it, a
# target where its `wanted` file is new. First, what lies in views and not in the store, as after a pull, is taken into it.
if workflow.is_main_process:
    _plan = Plan.load(Path(PLAN))
    _found = adopt(_plan, Path(RESULTS))
    if _found.adopted:
        print(
            f"{len(_found.adopted)} runs adopted from {RESULTS} into its store",
            file=sys.stderr,
        )
    if _found.known:
        print(
            f"{len(_found.known)} runs are known by record and curve alone. Their models are not here; those that a new run is "
            "made from are trained again",
            file=sys.stderr,
        )
    for _line in _found.refused:
        print(f"not adopted, and to be made anew: {_line}", file=sys.stderr)
    for _line in targets.told(targets.mark(_plan)):
        print(_line, file=sys.stderr)


wildcard_constraints:
    fingerprint="[0-9a-f]{20}",
    number="[1-7]",


def done(run):
    """The marker that a run is in the store."""
    return f"{RESULTS}/store/{run.config.stage}/{run.fingerprint}/done"


def made_from(wildcards):
    """Markers of what the runs of a job are made from, and of the run before this one in the job, which trains all.

    A run that is there waits for nothing: neither a seed added beside it nor a dataset that is lost is a reason to look at it again.
    """
    own = RUNS[wildcards.fingerprint]
    if Path(done(own)).exists():
        return []
    runs = STUDY.together[own.fingerprint]
    parents = [parent for run in runs for parent in run.parents.values()]
    ahead = STUDY.ahead.get(own.fingerprint)
    return list(dict.fromkeys(done(other) for other in (*parents, ahead) if other))


def marker(stage):
    """Where a stage's markers lie, by fingerprint."""
    return f"{RESULTS}/store/{stage}/{{fingerprint}}/done"


def markers(*stages):
    """Markers of all runs of these stages."""
    return [done(run) for stage in stages for run in STUDY.of(stage)]


def wanted(name):
    """The file that is newer than a target exactly where the target has to be made."""
    return str(targets.wanted(Path(RESULTS), name))


def made(*names):
    """The files that are new exactly where targets have just been made; what is made from them follows."""
    return [str(targets.made(Path(RESULTS), name)) for name in names]


def stamp(name):
    """What a target was made from, beside it."""
    return f"{RESULTS}/made/{name}.json"


def log_of(stage):
    """Where a training job's progress is kept."""
    return f"{RESULTS}/logs/{stage}/{{fingerprint}}.log"
