"""The command line: every step of the workflow by hand, on a GPU machine or on a cluster."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import textwrap
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grokdistill.plan import Plan, PlannedRun
    from grokdistill.runs import Study

SHOWN = 100  # lines of runs that the command show prints; of more it prints cells over seeds
# As in grokdistill.config, which is not imported here so that --help answers at once.
STAGES = ("datasets", "teachers", "baselines", "students", "joint", "continual")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 on success, 1 with a message on a known problem."""
    options = _parser().parse_args(arguments)
    from grokdistill.files import DamagedFile
    from grokdistill.jobs import JobError, Stopped
    from grokdistill.params import ParamsError
    from grokdistill.targets import ChangedMeanwhile

    try:
        options.command(options)
        sys.stdout.flush()
    except (ParamsError, DamagedFile, JobError, ChangedMeanwhile) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.status
    except BrokenPipeError:  # whoever reads has enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except OSError as error:
        print(f"error: {error}; free space or mend it, and type the command again: nothing half-made is kept", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _whole(least: int, most: float = inf) -> Callable[[str], int]:
    """Reads a whole number within bounds."""

    def number(text: str) -> int:
        if text.isdecimal() and least <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(f"{text} is no whole number from {least}" + (f" to {most}" if most < inf else ""))

    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m grokdistill",
        description="Grokking below the critical threshold: plan a study, train its runs, and turn them into results.",
        epilog="Snakemake and DVC call these commands; they work as well by hand: first `plan`, then the others on the plan "
        "it prints. Example: P=$(python -m grokdistill plan params.yaml config/quick.yaml) && "
        "python -m grokdistill dataset $P --all && python -m grokdistill train $P --stage teachers",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, function: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        added.set_defaults(command=function)
        return added

    planning = command("plan", _plan, "check parameters, enumerate the runs, write the plan and print its path")
    planning.add_argument("params", nargs="+", type=Path, help="params.yaml, then files whose keys replace its own")
    planning.add_argument("--list", action="store_true", help="also list every run, with whether it is in the store")

    made = "fingerprints of the runs to make; those beside them in their job come along"
    dataset = command("dataset", _dataset, "generate datasets that are not in the store yet")
    training = command("train", _train, "train runs that are not in the store yet")
    for added in (dataset, training):
        _plan_argument(added)
        added.add_argument("runs", nargs="*", metavar="FINGERPRINT", help=made)
    dataset.add_argument("--all", action="store_true", help="every dataset of the plan")
    training.add_argument("--stage", choices=STAGES[1:], help="every run of a stage")
    training.add_argument("--device", help="cpu, cuda:1, ...; default: a GPU that no other job has, where there is one")
    training.add_argument("--threads", type=_whole(1), help="CPU threads; default: PyTorch's choice")
    text = "this many jobs at a time, each on streams of its own: a large GPU has room for 8; default: one after the other"
    training.add_argument("--jobs", type=_whole(1, 32), default=1, metavar="N", help=text)

    adoption = command("adopt", _adopt, "put finished runs from another results folder, or from restored views, into the store")
    _plan_argument(adoption)
    adoption.add_argument("source", nargs="?", type=Path, help="a results folder; default: the plan's own, as DVC restored it")

    publish = command("publish", _publish, "lay out a stage's runs, curves and metrics from the store")
    _plan_argument(publish)
    publish.add_argument("stage", choices=STAGES)
    _plan_argument(command("tables", _made("tables", _make_tables), "write runs.csv, costs.csv and curves.parquet"))
    figures = command("figures", _figures, "draw figures 1 to 7")
    _plan_argument(figures)
    figures.add_argument("numbers", nargs="*", type=_whole(1, 7), metavar="N", help="only these figures; default: all")
    text = "estimate the critical thresholds, and draw the shares that they follow from"
    _plan_argument(command("phase", _made("phase", _module("phase")), text))
    text = "compare variants with the defaults that they depart from: a table, two pictures"
    _plan_argument(command("readings", _made("readings", _module("readings")), text))
    _plan_argument(command("claims", _made("claims", _module("claims")), "judge the paper's claims"))
    _plan_argument(
        command("overview", _made("overview", _module("overview")), "write the first page: verdicts and phase diagram")
    )
    text = "write what the finished runs of a study say before the others are: records, curves, tables, figures and claims"
    _plan_argument(command("interim", _interim, text))
    _plan_argument(command("manifests", _manifests, "write what each stage is made from, for people and for DVC"))
    _plan_argument(command("check", _check, "say whether every result is what the plan asks for, by its bytes; 1 if not"))

    reasons = command("why", _why, "say why a run or a target would be made, or that it is current")
    reasons.add_argument("names", nargs="+", metavar="NAME", help="a run (stage/name or fingerprint), a target, or all")
    reasons.add_argument(
        "--params", nargs="+", type=Path, default=[Path("params.yaml")], help="as for plan; default: params.yaml"
    )

    show = command("show", _show, "print what came of a study: its runs, its claims, and where the report lies")
    show.add_argument("results", type=Path, nargs="?", default=Path("results"), help="default: %(default)s")

    comparison = command("compare", _compare, "print what changed between two studies: verdicts, then measures, seed by seed")
    side = "a folder that holds runs.csv, or else a commit: by a tag, a branch, HEAD~1, the name of a DVC experiment"
    for name in ("A", "B"):
        comparison.add_argument(name.lower(), metavar=name, help=side)
    comparison.add_argument(
        "--results", type=Path, default=Path("results"), help="the results folder inside a commit; default: %(default)s"
    )
    comparison.add_argument(
        "--out", type=Path, metavar="FOLDER", help="also write compare.csv, verdicts.csv and curves.png there"
    )
    comparison.epilog = (
        "Examples: `compare HEAD~1 HEAD` after an edit that was run and committed; `compare HEAD results` before the commit; "
        "`compare HEAD brave-newt --out changed` for an experiment of DVC; `compare results other/results` for two folders. "
        "Differences are B - A: the median over the seeds that both have and, in parentheses, the smallest to the largest. "
        "A run that did not grok has no t_grok; its pair counts as sooner or later (in B) or unknown. The status is 0 whatever "
        "changed, 1 where A or B is no study."
    )
    command("schema", _schema, "print the JSON schema of params.yaml")
    return parser


def _plan_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("plan", type=Path, help="a plan file, as printed by the command plan")


def _study(params: list[Path]) -> Study:
    """The study that parameter files ask for."""
    from grokdistill.params import read, validate
    from grokdistill.runs import enumerate_runs

    return enumerate_runs(validate(read(params), " + ".join(map(str, params))))


def _plan(options: argparse.Namespace) -> None:
    from grokdistill.plan import write_plan
    from grokdistill.store import Store

    study = _study(options.params)
    path = write_plan(study)
    store = Store(Path(study.params.paths.results) / "store")
    for stage in STAGES:
        runs = study.of(stage)
        done = sum(store.complete(stage, run.fingerprint) for run in runs)
        print(f"{stage:10} {len(runs):6} runs, {done} in the store", file=sys.stderr)
        if options.list:
            for run in runs:
                state = "done" if store.complete(stage, run.fingerprint) else "-"
                print(f"  {run.fingerprint} {state:4} {run.name}", file=sys.stderr)
    print(path)


def _dataset(options: argparse.Namespace) -> None:
    from grokdistill.jobs import make_dataset

    plan, runs = _chosen(options, "datasets" if options.all else None)
    _only(runs, "dataset", ("datasets",))
    for run in runs:
        if not plan.store.complete(run.stage, run.fingerprint):
            make_dataset(plan, run)


def _train(options: argparse.Namespace) -> None:
    plan, runs = _chosen(options, options.stage)
    _only(runs, "train", STAGES[1:])
    batches = dict.fromkeys(run.batch for run in runs)
    missing = [[key for key in batch if not plan.store.complete(plan.entries[key]["stage"], key)] for batch in batches]
    if any(missing):
        from grokdistill.jobs import train_all

        work = [[plan.run(key) for key in keys] for keys in missing if keys]
        train_all(plan, work, options.device, options.threads, options.jobs)


def _adopt(options: argparse.Namespace) -> None:
    from grokdistill.adopt import adopt
    from grokdistill.files import DamagedFile
    from grokdistill.plan import Plan

    plan = Plan.load(options.plan)
    source = options.source or plan.results
    if not source.is_dir():
        raise DamagedFile(f"{source}: not a folder")
    found = adopt(plan, source)
    for run in found.other:
        print(f"left alone: {run.stage}/{run.name} in {source} was made by another recipe; it will be made anew")
    print(
        f"{len(found.adopted)} runs adopted from {source}, {found.there} were in the store, "
        f"{len(found.missing) + len(found.other) + len(found.refused)} are still to be made"
    )
    if found.known:
        print(f"{len(found.known)} of them are known by record and curve alone; their models are not here")
    if found.refused:
        raise DamagedFile("\n  ".join(["refused, and still to be made:", *found.refused]))


def _chosen(options: argparse.Namespace, stage: str | None) -> tuple[Plan, list[PlannedRun]]:
    """The plan and the runs that were named, by fingerprint or by stage."""
    from grokdistill.jobs import JobError
    from grokdistill.plan import Plan

    plan = Plan.load(options.plan)
    try:
        runs = plan.stage(stage) if stage else [plan.run(key) for key in options.runs]
    except KeyError as error:
        raise JobError(f"{options.plan}: {error.args[0]}; `plan --list` shows what there is") from None
    if not runs:
        raise JobError("nothing to do: name fingerprints, or a whole stage (see --help)")
    return plan, runs


def _only(runs: list[PlannedRun], command: str, stages: tuple[str, ...]) -> None:
    """Refuse runs that a command does not make."""
    from grokdistill.jobs import JobError

    for run in runs:
        if run.stage not in stages:
            other = "train" if command == "dataset" else "dataset"
            raise JobError(f"{run.stage}/{run.name} is not for the command {command}; use {other}")


def _publish(options: argparse.Namespace) -> None:
    from grokdistill.plan import Plan
    from grokdistill.publish import publish
    from grokdistill.targets import making

    plan = Plan.load(options.plan)
    with making(plan, options.stage):
        publish(plan, options.stage)


def _made(name: str, make: Callable[[Plan], None]) -> Callable[[argparse.Namespace], None]:
    """The command that makes one target from its plan, and stamps it."""

    def run(options: argparse.Namespace) -> None:
        from grokdistill.plan import Plan
        from grokdistill.targets import making

        plan = Plan.load(options.plan)
        with making(plan, name):
            make(plan)

    return run


def _make_tables(plan: Plan) -> None:
    from grokdistill.publish import tables

    tables(plan)


def _figures(options: argparse.Namespace) -> None:
    from grokdistill.figures import FIGURES

    for number in options.numbers or FIGURES:
        _made(f"figure-{number}", _module("figures", number=number))(options)


def _module(name: str, **more: object) -> Callable[[Plan], None]:
    """What makes a module's target: in the module itself, so that it belongs to the target's recipe."""

    def make(plan: Plan) -> None:
        importlib.import_module(f"grokdistill.{name}").make(plan, **more)

    return make


def _interim(options: argparse.Namespace) -> None:
    from grokdistill.adopt import adopt
    from grokdistill.figures import FIGURES
    from grokdistill.files import DamagedFile
    from grokdistill.jobs import JobError
    from grokdistill.plan import Plan
    from grokdistill.publish import publish_small, tables

    whole = Plan.load(options.plan)
    # A clone may know a run by its record alone, whose place is about to be laid out anew.
    refused = adopt(whole, whole.results, models=False).refused
    if refused:
        raise DamagedFile("\n  ".join(["nothing is written, since these are not what they say:", *refused]))
    plan = whole.so_far()
    done, asked = (sum(entry["stage"] != "datasets" for entry in each.entries.values()) for each in (plan, whole))
    if not done:
        raise JobError(f"no run of this study is in {plan.store.root} yet")
    # Without stamps: when the study is finished, all of it is made anew.
    for stage in STAGES[1:]:
        publish_small(plan, stage)
    tables(plan)
    for number in FIGURES:
        _module("figures", number=number)(plan)
    for name in ("phase", "readings", "claims", "overview"):
        _module(name)(plan)
    print(f"{done} of {asked} runs are finished; {plan.results} shows what they say so far")


def _manifests(options: argparse.Namespace) -> None:
    from grokdistill.plan import Plan
    from grokdistill.targets import write_manifests

    write_manifests(Plan.load(options.plan))


def _check(options: argparse.Namespace) -> None:
    from grokdistill.files import DamagedFile
    from grokdistill.plan import Plan
    from grokdistill.publish import culprit
    from grokdistill.targets import Hashes, why_not_current, why_not_listed

    plan, hashes = Plan.load(options.plan), Hashes()
    wrong = []
    for name, target in plan.targets.items():
        if reason := why_not_current(plan, target, hashes):
            wrong.append(f"{name}: {culprit(plan, name) or reason}")
    if reason := why_not_listed(plan):
        wrong.append(f"plan: {reason}")
    if wrong:
        raise DamagedFile("\n  ".join(["results are not what the parameters, sources and records say:", *wrong]))
    print(f"{len(plan.targets)} results are what the parameters, sources and records say")


def _why(options: argparse.Namespace) -> None:
    from grokdistill.adopt import adopt
    from grokdistill.jobs import JobError
    from grokdistill.plan import Plan, write_plan
    from grokdistill.targets import Hashes
    from grokdistill.why import Unknown, explain, find

    plan, hashes = Plan.load(write_plan(_study(options.params))), Hashes()
    for line in adopt(plan, plan.results).refused:  # as whoever would make it does first
        print(f"not adopted, and to be made anew: {line}", file=sys.stderr)
    for name in options.names:
        try:
            found = find(plan, name)
        except Unknown as error:
            raise JobError(error.args[0]) from None
        for what in found:
            print("\n".join(explain(plan, what, hashes)))


def _show(options: argparse.Namespace) -> None:
    from grokdistill.claims import format_table, read_claims
    from grokdistill.publish import read_runs
    from grokdistill.summary import cell_of, over_seeds

    runs = read_runs(options.results)
    columns = ["stage", "name", "status", "t_mem", "t_grok", "final_test_acc", "final_p1_acc", "norm_start", "norm_end"]
    table = runs[columns].astype({"t_mem": "Int64", "t_grok": "Int64"})
    if len(runs) > SHOWN:
        table = over_seeds(runs.assign(cell=cell_of(runs["name"])), ["stage", "cell"])
    shown = table.head(SHOWN).astype(object)
    print(shown.where(shown.notna(), "").to_string(index=False, float_format="{:.3f}".format))
    if len(runs) > SHOWN:
        print(f"{len(shown)} of {len(table)} cells with {len(runs)} runs; all of them: {options.results / 'runs.csv'}")
    print()
    frame = read_claims(options.results)
    print(format_table(frame[frame["n"] > 0]))
    rest, path = frame[frame["n"] == 0]["claim"], options.results / "claims.csv"
    text = f"not run, since runs that they need are not there ({len(rest)} claims; {path} says which): "
    print("\n" + textwrap.fill(text + ", ".join(rest), 118, break_on_hyphens=False))
    first, report = (options.results / name for name in ("overview.html", "report.html"))
    print(f"\nfirst page: {first}\nfigures:    {options.results / 'figures'}")
    print(f"report:     {report if report.is_file() else 'not made yet (make report)'}")


def _compare(options: argparse.Namespace) -> None:
    from grokdistill.compare import compare, read, report, write_out

    found = compare(*(read(what, options.results, with_curves=bool(options.out)) for what in (options.a, options.b)))
    print(report(found))
    if options.out:
        print(write_out(found, options.out), file=sys.stderr)


def _schema(options: argparse.Namespace) -> None:
    from grokdistill.params import schema

    sys.stdout.write(schema())
