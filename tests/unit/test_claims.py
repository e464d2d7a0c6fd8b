"""The claims of the paper as data, and the engine that judges them (the paper's §3 to A.1)."""

import re
from io import StringIO
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from grokdistill.claims import COLUMNS, Claim, ClaimsError, evaluate, format_table, load_claims, needed

PAPER = Path(__file__).parents[2] / "data" / "paper" / "claims.yaml"
CLAIMS = load_claims(PAPER)
MAIN, OTHER = (113, 107), (107, 113)
RUNS = [
    *("stage", "name", "variant", "op", "p1", "p2", "p1_fraction", "fraction", "optimizer", "method", "loss", "teacher"),
    *("alpha", "temperature", "position", "seed", "steps", "status", "t_mem", "t_grok", "gap", "sharpness"),
    *("final_train_acc", "final_test_acc", "final_p1_acc", "norm_start", "norm_grok", "norm_end", "fingerprint"),
]
METHOD = {"teachers": "scratch", "baselines": "scratch", "students": "distilled"}
grid = np.arange(0.0, 30_001.0, 500.0)


class Table:
    """Synthetic runs and curves; what it returns has been through CSV, as in the workflow."""

    def __init__(self):
        self.rows, self.lines = {}, {}

    def add(self, seed=0, **cell):
        """A grokked run of a cell, or the one that is there."""
        stage = cell["stage"]
        fields = {"variant": "", "op": "add", "p1": 113, "p2": 107, "optimizer": "adamw", "loss": "stablemax"} | cell
        fields |= {"seed": seed, "method": cell.get("method", METHOD.get(stage))}
        if stage == "teachers":
            fields["p2"] = None
        elif stage == "students":
            fields.setdefault("position", "operator")
        fields["name"] = "-".join(f"{key}_{value}" for key, value in sorted(fields.items()))
        return self.rows.setdefault(fields["name"], dict.fromkeys(RUNS) | grokked(2_000) | fields)

    def frame(self, keep=lambda row: True):
        text = StringIO()
        pd.DataFrame([row for row in self.rows.values() if keep(row)], columns=RUNS).to_csv(text, index=False)
        text.seek(0)
        return pd.read_csv(text)

    def line(self, row, column):
        """A curve's values at grid, to be changed in place."""
        return self.lines.setdefault(row["name"], {}).setdefault(column, np.full(len(grid), 0.5))

    def curves(self, stage, name):
        assert self.rows[name]["stage"] == stage
        if name not in self.lines:
            raise FileNotFoundError(name)
        return pd.DataFrame({"step": grid} | self.lines[name])


def grokked(step, **more):
    """Fields of a run that grokked at `step`."""
    fields = {"steps": 30_000, "status": "grokked", "t_mem": 1_000, "t_grok": step, "gap": step - 1_000, "final_test_acc": 0.99}
    return fields | {"final_p1_acc": 0.99, "norm_start": 40.0, "norm_end": 60.0} | more


def censored(steps=30_000, **more):
    """Fields of a run that never grokked."""
    return grokked(0, steps=steps, status="censored", t_grok=None, gap=None, final_test_acc=0.02) | more


def one_claim(where, predicate, **more):
    """A claim of one part, `part`; `more` are the part's further fields."""
    part = {"where": where, "predicate": predicate} | more
    return Claim.model_validate({"id": "mine", "section": "1", "statement": "It holds.", "parts": {"part": part}})


def judge(claim, table, **options):
    """The one row of a claim."""
    return evaluate([claim], table.frame(), table.curves, **{"main_pair": MAIN} | options).iloc[0]


# --- Every claim of the paper, on tables made for it ------------------------------------------------------------------


def cells(part):
    """A part's cells, expanded here once more so that the engine is not its own witness."""
    where = dict(part.where)
    pair = OTHER if where.pop("pair", "main") == "other" else MAIN
    lists = [value if isinstance(value, list) else [value] for value in where.values()]
    return [dict(zip(where, values)) | {"p1": pair[0], "p2": pair[1]} for values in product(*lists)]


def number(predicate, good):
    """A number within the predicate's bounds, or outside."""
    low, high = predicate.at_least if predicate.above is None else predicate.above, predicate.at_most
    if low is not None and high is not None:
        return (low + high) / 2 if good else high * 1.5
    bound = low if high is None else high
    step = max(0.02, abs(bound) / 4) if abs(bound) != 0.95 else 0.02
    return bound + step if good == (high is None) else bound - step


def shape(table, row, predicate, good):
    """A curve with, or without, what the predicate looks for."""
    values, end = table.line(row, predicate.column), predicate.end or grid[-1]
    if predicate.kind == "fall":
        values[:] = np.linspace(40, 80, len(grid))
        values[-10:] = values[-10:] if good else 40
    elif predicate.kind == "level":
        values[(grid >= predicate.start) & (grid <= end)] = number(predicate, good)
    elif predicate.kind == "reach" and predicate.falling:
        values[:] = np.where(grid <= number(predicate, True) / 2, 1.0, 0.0) if good else 1.0
    elif predicate.kind == "reach":
        values[grid >= number(predicate, True)] = 1.0 if good else 0.5
    else:
        values[grid >= 28_000] = 1.0 if good else 0.5
        values[(grid >= predicate.start) & (grid < 28_000)] = 0.5


def arrange(table, part, cell, seed, good):
    """One seed of one cell, made to meet the part's predicate or not."""
    predicate, row = part.predicate, table.add(seed, **cell)
    if predicate.kind == "grokked":
        outcome = grokked(2_000) if good == (predicate.at_most is None) else censored()
        row |= {key: outcome[key] for key in ("status", "t_grok", "gap")}
    elif predicate.kind == "paired":
        versus = table.add(seed, **cell | predicate.versus)
        if predicate.compare == "gain":
            versus[predicate.column] = 0.5
            row[predicate.column] = 0.5 + number(predicate, good)
        elif good:
            versus["t_grok"] = 2.5 * row["t_grok"]
        else:
            versus |= grokked(1_000)
            row |= {"t_grok": 2_900} if row["status"] == "grokked" else {}
    elif predicate.kind == "value":
        if predicate.column == "t_grok" and not good and predicate.at_least is None:
            row |= censored()
        else:
            row[predicate.column] = number(predicate, good) * (row[predicate.over] if predicate.over else 1)
    else:
        shape(table, row, predicate, good)


def study(claim, good=lambda cell: True, seeds=3):
    table = Table()
    for part in claim.parts.values():
        for cell, seed in product(cells(part), range(seeds)):
            arrange(table, part, cell, seed, good(cell))
    return table


each_claim = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)


@each_claim
def test_can_be_reproduced(claim):
    row = judge(claim, study(claim))
    assert (row["verdict"], row["n"]) == ("reproduced", 3), row["measured"]
    assert all(name in row["measured"] and name in row["expected"] for name in claim.parts)
    assert row["interval"].count(";") == len(claim.parts) - 1
    assert "(does not" not in row["measured"]


@each_claim
def test_can_be_not_reproduced(claim):
    row = judge(claim, study(claim, good=lambda cell: False))
    assert (row["verdict"], row["n"]) == ("not reproduced", 3), row["measured"]
    assert row["measured"].count("(does not hold)") == len(claim.parts)
    assert not any(word in row["measured"] + row["interval"] for word in ("inf", "nan"))


@each_claim
def test_can_be_partly_reproduced(claim):
    row = judge(claim, study(claim, good=lambda cell: cell["op"] == "add"))
    assert row["verdict"] == "partly", row["measured"]
    assert row["measured"].count("(does not hold: ") == len(claim.parts)


@each_claim
def test_is_not_run_without_runs(claim):
    row = judge(claim, Table())
    assert (row["verdict"], row["n"], row["interval"]) == ("not run", 0, "")
    assert row["measured"].startswith("needs ")


@each_claim
def test_is_not_run_with_one_operator(claim):
    table = study(claim)
    frame = table.frame(lambda row: row["op"] == "add")
    row = evaluate([claim], frame, table.curves, main_pair=MAIN).iloc[0]
    assert (row["verdict"], row["n"]) == ("not run", 0)
    assert "needs " in row["measured"] and "sub" in row["measured"] and "add" not in row["measured"]


@each_claim
def test_is_not_run_below_min_n(claim):
    """One run that is absent, from any part, is enough."""
    table, n = study(claim, seeds=claim.min_n), claim.min_n - 1
    for part in claim.parts.values():
        name = table.add(n, **cells(part)[-1])["name"]
        frame = table.frame(lambda row, name=name: row["name"] != name)
        row = evaluate([claim], frame, table.curves, main_pair=MAIN).iloc[0]
        assert (row["verdict"], row["n"]) == ("not run", n)
        assert f"has {n}" in row["measured"] if n else "needs " in row["measured"]
        # What the others say is told, and is no verdict.
        assert ("so far reproduced; " in row["measured"]) == (n > 0)
        assert row["interval"] == ""


@each_claim
def test_min_n_can_be_overridden(claim):
    table = study(claim, seeds=1)
    row = judge(claim, table)
    assert row["verdict"] == ("not run" if claim.min_n > 1 else "reproduced")
    assert ("; so far reproduced; " in row["measured"]) == (claim.min_n > 1)
    row = judge(claim, table, min_n=1)
    assert (row["verdict"], row["n"]) == ("reproduced", 1)
    assert judge(claim, study(claim), min_n=4)["verdict"] == "not run"


@each_claim
def test_runs_cut_short_decide_nothing(claim):
    table = study(claim)
    for row in table.rows.values():
        row |= censored(steps=400)
    result = judge(claim, table)
    assert result["verdict"] == "not run"
    assert "steps, has 400" in result["measured"]


@each_claim
def test_other_readings_and_pairs_change_nothing(claim):
    """Variants, and pairs that the claim does not ask about, are not counted with the claim's runs."""
    table = study(claim)
    for row in list(table.rows.values()):
        twin = dict(row) | censored(norm_end=1.0, final_p1_acc=0.0)
        if row["variant"] == "":
            twin |= {"variant": "alpha=0.5", "name": row["name"] + "-variant", "loss": "other"}
        table.rows[twin["name"] + "'"] = twin | {"name": twin["name"] + "'", "variant": "alpha=0.5", "loss": "other"}
        if row["position"] == "modulus" or row["variant"]:
            del table.rows[twin["name"] + "'"]
    assert judge(claim, table)["verdict"] == "reproduced"


@each_claim
def test_what_a_claim_needs(claim):
    """Exactly the runs that it is judged by, known before any is trained."""
    table = study(claim)
    own = set(table.rows)
    for row in list(table.rows.values()):
        if row["variant"] == "" and row["position"] != "modulus":
            name = row["name"] + "'"
            table.rows[name] = dict(row) | {"name": name, "variant": "alpha=0.5", "loss": "other"}
    frame = table.frame()
    planned = frame.assign(variant=frame["variant"].fillna(""), status="", t_grok=np.nan)
    assert set(frame["name"][needed(claim, planned, MAIN)]) == own


def test_the_paper_is_covered():
    """The figures that make claims, and the claims that the project promises (its list, one per line of the paper)."""
    assert {claim.figure for claim in CLAIMS} >= {"2a", "2b", "3", "4a", "4b", "5a", "5b", "6a", "6b", "7"}
    assert len({claim.statement for claim in CLAIMS}) == len(CLAIMS) >= 25
    assert all(part.steps for claim in CLAIMS for part in claim.parts.values())


# --- Numbers ----------------------------------------------------------------------------------------------------------


STUDENTS = {"stage": "students", "op": "add", "fraction": 0.25}
TEACHERS = {"stage": "teachers", "op": "add", "fraction": 0.35}
SOONER = {"kind": "paired", "column": "t_grok", "compare": "speedup", "versus": {"stage": "baselines", "method": "scratch"}}


def teachers(*outcomes, **cell):
    table = Table()
    for seed, outcome in enumerate(outcomes):
        table.add(seed, **TEACHERS | cell).update(outcome)
    return table


def pairs(*outcomes):
    """Students and baselines with given outcomes; baselines are listed by falling seed."""
    table = Table()
    for seed, (student, _) in enumerate(outcomes):
        table.add(seed, **STUDENTS).update(student)
    for seed in reversed(range(len(outcomes))):
        table.add(seed, **STUDENTS | {"stage": "baselines", "method": "scratch"}).update(outcomes[seed][1])
    return table


def test_share_and_its_interval():
    claim = one_claim(TEACHERS | {"op": ["add", "sub"]}, {"kind": "grokked", "at_least": 0.8})
    table = teachers(*[grokked(2_000)] * 4, censored())
    for seed in range(5):
        table.add(seed, **TEACHERS | {"op": "sub"}).update(censored() if seed < 2 else grokked(9_000))
    row = judge(claim, table)
    assert row["verdict"] == "partly"
    assert row["measured"] == "part: 7/10 grok (does not hold: sub 3/5 grok)"
    assert row["interval"] == "0.40 to 0.89"
    assert row["n"] == 5


def test_none_grokked_is_none():
    claim = one_claim(TEACHERS, {"kind": "grokked", "at_most": 0})
    assert judge(claim, teachers(*[censored()] * 3))["verdict"] == "reproduced"
    assert judge(claim, teachers(*[censored()] * 4, grokked(9_000)))["verdict"] == "not reproduced"


def test_grokked_too_late_did_not():
    table = teachers(*[grokked(20_000)] * 3)
    assert judge(one_claim(TEACHERS, {"kind": "grokked", "at_most": 0}, steps=15_000), table)["verdict"] == "reproduced"
    assert judge(one_claim(TEACHERS, {"kind": "grokked", "at_most": 0}), table)["verdict"] == "not reproduced"
    row = judge(one_claim(TEACHERS, {"kind": "value", "column": "t_grok", "at_most": 25_000}, steps=15_000), table)
    assert row["measured"] == "part: > 15000 (censored) (does not hold)"


def test_a_short_run_tells_when_it_grokked_but_not_how_it_ends():
    table = teachers(*[grokked(2_000, steps=3_000)] * 3)
    assert judge(one_claim(TEACHERS, {"kind": "grokked", "at_least": 1}, steps=15_000), table)["verdict"] == "reproduced"
    accuracy = {"kind": "value", "column": "final_test_acc", "at_least": 0.5}
    row = judge(one_claim(TEACHERS, accuracy, steps=15_000), table)
    assert (row["verdict"], row["measured"], row["n"]) == ("not run", "needs add 35% 15000 steps, has 3000 (teachers)", 0)


@pytest.mark.parametrize(
    ("outcomes", "measured", "verdict"),
    [
        ([grokked(3_000), grokked(4_000), censored(15_000)], "part: 4000", "reproduced"),
        ([grokked(3_000), censored(15_000), censored(15_000)], "part: > 15000 (censored) (does not hold)", "not reproduced"),
        ([grokked(3_000)] * 2 + [censored(15_000)] * 2, "part: > 9000 (censored) (does not hold)", "not reproduced"),
        ([grokked(3_000), grokked(8_000), grokked(9_000)], "part: 8000 (does not hold)", "not reproduced"),
    ],
)
def test_median_with_censored_runs(outcomes, measured, verdict):
    claim = one_claim(TEACHERS, {"kind": "value", "column": "t_grok", "at_most": 6_000})
    row = judge(claim, teachers(*outcomes))
    assert (row["measured"], row["verdict"]) == (measured, verdict)


def test_interval_of_a_median_is_its_seeds_range():
    claim = one_claim(TEACHERS, {"kind": "value", "column": "t_grok", "at_most": 6_000})
    assert judge(claim, teachers(grokked(4_000), grokked(3_000), censored()))["interval"] == "3000 to > 30000 (censored)"
    claim = one_claim(TEACHERS, {"kind": "value", "column": "norm_end", "over": "norm_start", "above": 1})
    row = judge(claim, teachers(*[grokked(2_000, norm_start=40, norm_end=end) for end in (30, 50, 80)]))
    assert (row["measured"], row["interval"]) == ("part: 1.25", "0.75 to 2")


def test_interval_of_many_seeds_leaves_out_the_outermost():
    claim = one_claim(TEACHERS, {"kind": "value", "column": "t_grok", "at_most": 6_000})
    row = judge(claim, teachers(*(grokked(1000 * seed) for seed in range(1, 9)), censored()))
    assert (row["measured"], row["interval"]) == ("part: 5000", "2000 to 8000")


def test_gap_of_censored_runs():
    """A plateau that never ended is as long as it was seen; a run that generalized before it memorized has none."""
    claim = one_claim(TEACHERS, {"kind": "value", "column": "gap", "at_most": 500})
    row = judge(claim, teachers(*[censored(15_000, t_mem=1_500)] * 3))
    assert (row["verdict"], row["measured"]) == ("not reproduced", "part: > 13500 (censored) (does not hold)")
    row = judge(claim, teachers(*[grokked(2_000, t_mem=None, gap=None, steps=15_000)] * 3))
    assert (row["verdict"], row["measured"]) == ("reproduced", "part: < -13000")
    assert judge(claim, teachers(*[censored(15_000, t_mem=None)] * 3))["verdict"] == "not reproduced"


def test_pairs_are_seeds_and_not_positions():
    """Speed-ups are 0.8, 0.8 and 12; the medians of the two sides alone would give 3."""
    outcomes = [(grokked(5_000), grokked(4_000)), (grokked(1_000), grokked(12_000)), (grokked(1_500), grokked(1_200))]
    row = judge(one_claim(STUDENTS, SOONER | {"above": 1}), pairs(*outcomes))
    assert (row["verdict"], row["measured"], row["interval"]) == ("not reproduced", "part: 0.8x (does not hold)", "0.8x to 12x")
    table = pairs((grokked(1_000), grokked(4_000)), (grokked(2_000), grokked(4_000)), (grokked(3_000), grokked(9_000)))
    row = judge(one_claim(STUDENTS, SOONER | {"above": 1}), table)
    assert (row["verdict"], row["measured"], row["interval"]) == ("reproduced", "part: 3x", "2x to 4x")


@pytest.mark.parametrize(
    ("student", "baseline", "measured", "verdict"),
    [
        (grokked(3_000), censored(15_000), "part: > 5x", "reproduced"),
        (censored(15_000), grokked(3_000), "part: < 0.2x (does not hold)", "not reproduced"),
        (censored(15_000), censored(15_000), "part: unknown (does not hold)", "not reproduced"),
        (grokked(3_000), grokked(3_000), "part: 1x (does not hold)", "not reproduced"),
    ],
)
def test_a_censored_side_gives_a_bound(student, baseline, measured, verdict):
    row = judge(one_claim(STUDENTS, SOONER | {"above": 1}), pairs(*[(student, baseline)] * 3))
    assert (row["measured"], row["verdict"]) == (measured, verdict)


def test_pairs_need_both_runs_of_a_seed():
    table = pairs(*[(grokked(1_000), grokked(3_000))] * 3)
    claim = one_claim(STUDENTS, SOONER | {"above": 1})
    shifted = table.frame()
    shifted.loc[shifted["stage"] == "baselines", "seed"] += 1
    row = evaluate([claim], shifted, table.curves, main_pair=MAIN, min_n=2).iloc[0]
    assert (row["verdict"], row["n"], row["measured"]) == ("reproduced", 2, "part: 3x")
    row = evaluate([claim], shifted, table.curves, main_pair=MAIN).iloc[0]
    assert (row["verdict"], row["n"]) == ("not run", 2)
    assert row["measured"] == "needs add 25% 3 paired seeds, has 2 (students); so far reproduced; part: 3x"
    lone = table.frame(lambda row: row["stage"] == "students")
    row = evaluate([claim], lone, table.curves, main_pair=MAIN).iloc[0]
    assert (row["verdict"], row["measured"]) == ("not run", "needs add 25% versus baselines scratch (students)")


def test_gain_is_own_minus_versus():
    gain = {"kind": "paired", "column": "final_test_acc", "compare": "gain", "versus": {"optimizer": "adam"}, "above": 0}
    table = Table()
    for seed, (adamw, adam) in enumerate([(0.9, 0.7), (0.8, 0.7), (0.6, 0.7)]):
        table.add(seed, **STUDENTS)["final_test_acc"] = adamw
        table.add(seed, **STUDENTS | {"optimizer": "adam"})["final_test_acc"] = adam
    row = judge(one_claim(STUDENTS | {"optimizer": "adamw"}, gain), table)
    assert (row["verdict"], row["measured"], row["interval"]) == ("reproduced", "part: 0.1", "-0.1 to 0.2")


def test_diverged_runs_did_not_grok_and_are_named():
    lost = censored(status="diverged", final_test_acc=None, norm_end=None, steps=700)
    table = teachers(grokked(2_000), grokked(2_000), lost)
    name = next(row["name"] for row in table.rows.values() if row["status"] == "diverged")
    row = judge(one_claim(TEACHERS, {"kind": "grokked", "at_least": 0.8}, steps=15_000), table)
    assert (row["verdict"], row["measured"]) == ("not reproduced", f"part: 2/3 grok (does not hold) (diverged: {name})")
    for bound in ({"at_least": 0}, {"at_most": 1}):
        claim = one_claim(TEACHERS, {"kind": "value", "column": "final_test_acc"} | bound)
        row = judge(claim, teachers(grokked(2_000), lost, lost))
        assert row["verdict"] == "not reproduced"
        assert row["measured"].startswith("part: unknown (does not hold) (diverged: ")
    assert judge(one_claim(TEACHERS, {"kind": "value", "column": "t_grok", "at_most": 6_000}), table)["measured"].startswith(
        "part: 2000 (diverged: "
    )
    row = judge(one_claim(STUDENTS, SOONER | {"above": 1}), pairs(*[(grokked(3_000), lost | {"steps": 15_000})] * 3))
    assert (row["verdict"], row["measured"].count("stage_baselines")) == ("reproduced", 3)
    claim = one_claim(TEACHERS, {"kind": "level", "column": "test_acc", "at_least": 0})
    assert judge(claim, teachers(lost, lost, lost))["measured"].startswith(
        "part: unknown (does not hold)"
    )  # whatever its curve says


# --- Which runs -------------------------------------------------------------------------------------------------------


def test_missing_cells_are_told_apart():
    where = {"stage": "baselines", "op": ["add", "sub"], "optimizer": ["adam", "adamw"], "fraction": 0.3}
    table = Table()
    for seed, op, optimizer in product(range(3), ["add", "sub"], ["adam", "adamw"]):
        if op == "add" or (optimizer == "adam" and seed == 0):
            table.add(seed, **where | {"op": op, "optimizer": optimizer})
    row = judge(one_claim(where, {"kind": "grokked", "at_least": 1}), table)
    assert row["measured"] == "needs sub adam 3 seeds, has 1 (baselines); needs sub adamw (baselines)"
    table = Table()
    assert judge(one_claim(where, {"kind": "grokked", "at_least": 1}), table)["measured"] == (
        "needs add/sub adam/adamw 30% (baselines)"
    )


def test_only_default_readings_unless_asked():
    softmax = teachers(*[grokked(9_000)] * 3, loss="softmax", variant="loss=softmax,steps=30000")
    predicate = {"kind": "grokked", "at_least": 1}
    assert judge(one_claim(TEACHERS | {"loss": "softmax"}, predicate), softmax)["verdict"] == "not run"
    asked = TEACHERS | {"loss": "softmax", "variant": "loss=softmax,steps=30000"}
    assert judge(one_claim(asked, predicate), softmax)["verdict"] == "reproduced"
    for seed in range(3):  # a sweep beside it is another matter
        softmax.add(seed, **asked | {"variant": "learning_rate=0.01,loss=softmax,steps=30000"})
    assert judge(one_claim(asked, predicate), softmax)["verdict"] == "reproduced"
    row = judge(one_claim(asked, predicate), teachers(*[grokked(9_000)] * 3))
    assert (row["verdict"], row["measured"]) == ("not run", "needs add 35% loss=softmax,steps=30000 (teachers)")


def test_several_runs_of_one_seed_in_a_cell_are_no_verdict():
    table = teachers(*[grokked(9_000)] * 3)
    for seed in range(3):
        table.add(seed, **TEACHERS | {"optimizer": "adam"})
    row = judge(one_claim({"stage": "teachers", "op": "add"}, {"kind": "grokked", "at_least": 1}), table)
    assert row["verdict"] == "not run"
    assert re.fullmatch(
        r"needs add one run of a seed, has .*optimizer_adamw.* and .*optimizer_adam-.* \(teachers\)", row["measured"]
    )


def test_main_and_other_pairs():
    where, predicate = STUDENTS | {"op": ["add", "sub"]}, {"kind": "grokked", "at_least": 1}
    table = Table()
    for seed, op, pair in product(range(3), ["add", "sub"], [MAIN, OTHER, (113, 97)]):
        outcome = censored() if pair == (113, 97) and op == "sub" else grokked(2_000)
        table.add(seed, **where | {"op": op, "p1": pair[0], "p2": pair[1]}).update(outcome)
    other = one_claim(where | {"pair": "other"}, predicate)
    assert judge(one_claim(where, predicate), table)["verdict"] == "reproduced"
    assert judge(other, table)["measured"] == "part: 9/12 grok (does not hold: sub 113-97 0/3 grok)"
    assert judge(one_claim(where, predicate), table, main_pair=(113, 97))["verdict"] == "partly"
    assert judge(other, table, main_pair=(113, 97))["verdict"] == "reproduced"
    lacking = {name: row for name, row in table.rows.items() if (row["p2"], row["op"]) != (113, "sub")}
    table.rows = lacking
    assert judge(other, table)["measured"] == "needs sub 107-113 (students)"
    table.rows = {name: row for name, row in lacking.items() if (row["p1"], row["p2"]) == MAIN}
    assert judge(other, table)["measured"] == "needs another prime pair (students)"


def test_teachers_are_found_by_p1_alone():
    table = teachers(*[grokked(2_000)] * 3)
    claim = one_claim(TEACHERS, {"kind": "grokked", "at_least": 1})
    assert judge(claim, table)["verdict"] == "reproduced"
    assert judge(claim, table, main_pair=(107, 113))["verdict"] == "not run"


def test_fractions_are_told_apart():
    table = Table()
    for seed, p1_fraction, fraction in product(range(3), [0.25, 0.35], [0.25, 0.35]):
        row = table.add(seed, stage="joint", method="supervised", p1_fraction=p1_fraction, fraction=fraction)
        row |= grokked(2_000) if p1_fraction < fraction else censored()
    where = {"stage": "joint", "p1_fraction": 0.25, "fraction": 0.35}
    assert judge(one_claim(where, {"kind": "grokked", "at_least": 1}), table)["verdict"] == "reproduced"
    where = {"stage": "joint", "p1_fraction": 0.35, "fraction": [0.25, 0.35]}
    assert judge(one_claim(where, {"kind": "grokked", "at_most": 0}), table)["verdict"] == "reproduced"


def test_a_fraction_is_a_number_and_not_a_spelling():
    table = teachers(*[grokked(2_000)] * 3, fraction=0.1 + 0.2)
    assert judge(one_claim(TEACHERS | {"fraction": 0.3}, {"kind": "grokked", "at_least": 1}), table)["verdict"] == "reproduced"


def test_among_grokked():
    growth = {"kind": "value", "column": "norm_end", "over": "norm_start", "above": 1}
    claim = one_claim(TEACHERS | {"op": ["add", "sub"]}, growth, among="grokked")
    table = teachers(*[grokked(2_000)] * 3, censored(norm_end=1.0))
    for seed in range(4):
        table.add(seed, **TEACHERS | {"op": "sub"}).update(censored(norm_end=1.0))
    row = judge(claim, table)
    assert (row["verdict"], row["measured"], row["n"]) == ("reproduced", "part: 1.5", 3)
    for row in table.rows.values():
        row |= censored()
    row = judge(claim, table)
    assert (row["verdict"], row["measured"]) == ("not run", "needs 3 grokked runs in a cell")


def test_a_number_that_is_not_there_is_not_a_failure():
    claim = one_claim(TEACHERS, {"kind": "value", "column": "final_p1_acc", "at_least": 0.9})
    row = judge(claim, teachers(*[grokked(2_000, final_p1_acc=None)] * 3))
    assert (row["verdict"], row["measured"]) == ("not run", "needs add 35% final_p1_acc (teachers)")


@pytest.mark.parametrize(("essential", "verdict"), [(False, "partly"), (True, "not reproduced")])
def test_without_an_essential_part_nothing_is_left(essential, verdict):
    parts = {
        "groks": {"where": TEACHERS, "predicate": {"kind": "grokked", "at_least": 1}, "essential": essential},
        "keeps its norm": {"where": TEACHERS, "predicate": {"kind": "value", "column": "norm_end", "above": 1}},
    }
    claim = Claim.model_validate({"id": "mine", "section": "1", "statement": "Both.", "parts": parts})
    row = judge(claim, teachers(*[censored()] * 3))
    assert (row["verdict"], row["measured"]) == (verdict, "groks: 0/3 grok (does not hold); keeps its norm: 60")
    assert judge(claim, teachers(*[grokked(2_000)] * 3))["verdict"] == "reproduced"


# --- Curves -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("predicate", "measured"),
    [
        ({"kind": "fall"}, "0.25"),  # from 80 at step 2,000 to 60
        ({"kind": "fall", "end": 2_000}, "0"),
        ({"kind": "level"}, "60"),
        ({"kind": "level", "start": 1_000, "end": 2_000}, "70"),
        ({"kind": "reach", "level": 70}, "1500"),
        ({"kind": "reach", "level": 81}, "> 4000 (censored)"),
        ({"kind": "reach", "level": 60, "falling": True, "start": 1_500}, "3000"),
        ({"kind": "rise", "width": 500}, "15"),  # 55 to 70
        ({"kind": "rise", "width": 1_000}, "25"),  # 55 to 80
        ({"kind": "rise", "width": 1_500, "start": 2_500}, "10"),  # 60 to 70, after 65
    ],
)
def test_what_is_read_off_a_curve(predicate, measured):
    table = teachers(*[grokked(2_000)] * 3)
    curve = pd.DataFrame({"step": np.arange(0, 4_001, 500), "weight_norm": [40, 50, 55, 70, 80, 65, 60, 60, 70.0]})
    claim = one_claim(TEACHERS, predicate | {"column": "weight_norm", "at_least": 0})
    row = evaluate([claim], table.frame(), lambda stage, name: curve, main_pair=MAIN).iloc[0]
    assert row["measured"] == f"part: {measured}"


def test_a_step_not_reached_is_at_most_nothing():
    table = teachers(*[grokked(2_000)] * 3)
    curve = pd.DataFrame({"step": [0, 4_000], "test_acc": [0.0, 0.5]})
    claim = one_claim(TEACHERS, {"kind": "reach", "column": "test_acc", "level": 0.9, "at_most": 10_000})
    row = evaluate([claim], table.frame(), lambda stage, name: curve, main_pair=MAIN).iloc[0]
    assert row["verdict"] == "not reproduced"


@pytest.mark.parametrize(
    ("curve", "lacking"),
    [
        (None, "curves"),
        (pd.DataFrame({"step": [0, 100], "test_acc": [0.1, 0.2]}), "curves of weight_norm from step 50"),
        (pd.DataFrame({"step": [0, 40], "weight_norm": [1.0, 2.0]}), "curves of weight_norm from step 50"),
    ],
)
def test_without_curves_not_run(curve, lacking):
    def curves(stage, name):
        if curve is None:
            raise FileNotFoundError(name)
        return curve

    claim = one_claim(TEACHERS, {"kind": "fall", "column": "weight_norm", "start": 50, "at_most": 0})
    row = evaluate([claim], teachers(*[grokked(2_000)] * 3).frame(), curves, main_pair=MAIN).iloc[0]
    assert (row["verdict"], row["measured"]) == ("not run", f"needs add 35% {lacking} (teachers)")


def test_among_the_grokked_each_is_compared_with_the_run_of_its_seed():
    table = Table()
    for seed, step in enumerate((1_000, 2_000, 3_000, None)):
        table.add(seed, **STUDENTS).update(grokked(step) if step else censored())
        table.add(seed, **STUDENTS | {"stage": "baselines"}).update(grokked(6_000))
    predicate = {
        "kind": "paired",
        "column": "t_grok",
        "compare": "speedup",
        "versus": {"stage": "baselines", "method": "scratch"},
    }
    row = judge(one_claim(STUDENTS | {"method": "distilled"}, predicate | {"above": 1}, among="grokked"), table)
    assert (row["verdict"], row["measured"], row["n"]) == ("reproduced", "part: 3x", 3)


def test_what_is_no_time_is_read_at_the_end_and_said_so():
    late = {"kind": "value", "column": "final_test_acc", "at_least": 0.9}
    row = judge(one_claim(TEACHERS, late, steps=15_000), teachers(*[grokked(20_000)] * 3))
    assert (row["verdict"], row["expected"]) == ("reproduced", "part: median final_test_acc >= 0.9, after 15000 steps or more")
    row = judge(one_claim(TEACHERS, late | {"column": "t_grok"}, steps=15_000), teachers(*[grokked(10_000)] * 3))
    assert row["expected"].endswith(", by step 15000")


# --- Reading and writing ----------------------------------------------------------------------------------------------

GOOD = {
    "section": "3",
    "statement": "It groks.",
    "parts": {"groks": {"where": {"stage": "teachers", "op": "add"}, "predicate": {"kind": "grokked", "at_least": 1}}},
}


def changed(path, value):
    """GOOD with one key set; a path is written with slashes."""
    entry = yaml.safe_load(yaml.safe_dump(GOOD))
    *folders, last = path.split("/")
    place = entry
    for folder in folders:
        place = place[folder]
    place[last] = value
    return yaml.safe_dump({"my-claim": entry})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("min_m", 3, r"claim 'my-claim': min_m: Extra inputs"),
        ("min_n", 0, r"claim 'my-claim': min_n: Input should be greater than 0"),
        ("section", 3, r"claim 'my-claim': section: Input should be a valid string"),
        ("parts", {}, r"claim 'my-claim': parts: "),
        ("parts/groks/step", 1, r"claim 'my-claim': parts\.groks\.step: Extra inputs"),
        ("parts/groks/predicate/kind", "groks", r"claim 'my-claim': parts\.groks\.predicate: .*'groks'.*'grokked'"),
        ("parts/groks/predicate/at_lest", 1, r"claim 'my-claim': parts\.groks\.predicate\.grokked\.at_lest: Extra inputs"),
        ("parts/groks/predicate", {"kind": "grokked"}, r"claim 'my-claim': parts\.groks\.predicate\.grokked: .*needs a bound"),
        (
            "parts/groks/predicate",
            {"kind": "value", "column": "t_gork", "above": 0},
            r"claim 'my-claim': parts\.groks\.predicate\.value\.column: .*t_grok",
        ),
        (
            "parts/groks/predicate",
            {"kind": "fall", "column": "norm", "at_most": 0},
            r"claim 'my-claim': parts\.groks\.predicate\.fall\.column: .*weight_norm",
        ),
        (
            "parts/groks/predicate",
            {"kind": "paired", "column": "gap", "compare": "gain", "versus": {"optimiser": "adam"}, "above": 0},
            r"claim 'my-claim': parts\.groks\.predicate: .*unknown column 'optimiser'",
        ),
        ("parts/groks/where/operator", "add", r"claim 'my-claim': parts\.groks\.where: .*unknown column 'operator'"),
        ("parts/groks/where/op", ["add", "plus"], r"claim 'my-claim': parts\.groks\.where: .*'plus' of op; known: add, sub"),
        ("parts/groks/where/op", [], r"claim 'my-claim': parts\.groks\.where\.op"),
        ("parts/groks/where", {"op": "add"}, r"claim 'my-claim': parts\.groks\.where: .*one stage"),
        ("parts/groks/where/stage", ["teachers", "joint"], r"claim 'my-claim': parts\.groks\.where: .*one stage"),
    ],
)
def test_mistakes_name_the_claim_and_the_key(tmp_path, path, value, message):
    file = tmp_path / "claims.yaml"
    file.write_text(changed(path, value))
    with pytest.raises(ClaimsError, match=rf"claims\.yaml:\n  {message}"):
        load_claims(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: {section: '1', section: '2'}", "line 1: repeated key section"),
        ("a: {}\na: {}", "line 1: repeated key a"),
        ("- a", "expected a mapping"),
        ("", "expected a mapping"),
        ("a: [", "claims.yaml"),
    ],
)
def test_files_that_are_no_claims(tmp_path, text, message):
    file = tmp_path / "claims.yaml"
    file.write_text(text)
    with pytest.raises(ClaimsError, match=message):
        load_claims(file)


def test_all_mistakes_are_told_at_once(tmp_path):
    file = tmp_path / "claims.yaml"
    file.write_text(yaml.safe_dump({"one": {**GOOD, "x": 1}, "two": {**GOOD, "y": 1}, "three": GOOD}))
    with pytest.raises(ClaimsError, match=r"(?s)claim 'one': x: .*claim 'two': y: "):
        load_claims(file)


def test_claims_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        CLAIMS[0].min_n = 1


def test_a_table_without_a_column_is_an_error():
    with pytest.raises(ClaimsError, match="lacks norm_end, optimizer"):
        evaluate(CLAIMS, Table().frame().drop(columns=["norm_end", "optimizer"]), Table().curves, main_pair=MAIN)


def test_the_table_of_verdicts():
    table = study(CLAIMS[0])
    before = table.frame()
    runs = before.copy()
    frame = evaluate(CLAIMS, runs, table.curves, main_pair=MAIN)
    pd.testing.assert_frame_equal(runs, before)  # evaluating changes nothing
    assert list(frame.columns) == COLUMNS
    assert list(frame["claim"]) == [claim.id for claim in CLAIMS]
    assert set(frame["verdict"]) == {"reproduced", "not run"}
    shuffled = before.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(evaluate(CLAIMS, shuffled, table.curves, main_pair=MAIN), frame)


@pytest.mark.parametrize("width", [70, 100, 160])
def test_format_table(width):
    table = study(CLAIMS[1])
    frame = evaluate(CLAIMS, table.frame(), table.curves, main_pair=MAIN)
    lines = format_table(frame, width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].split() == ["verdict", "claim", "statement", "measured", "n"]
    starts = [line for line in lines[1:] if not line.startswith(" ")]
    assert len(starts) == len(CLAIMS)
    assert starts[1].startswith("reproduced") and starts[1].endswith("3")
    measured = "".join(line[14 + 24 + 4 :] for line in lines).replace(" ", "")
    assert "StableMaxt_grok" in measured or width == 70
