"""The first page of the results: the verdicts at a glance, what came out otherwise than the paper says, and the phase diagram.

One HTML page that needs no other file: it can be read by itself, at any width, and is what the report opens with. Its links to
curves work where it lies, in the results folder.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import pandas as pd

from grokdistill.claims import Claim, ClaimsError, load_claims, needed, read_claims
from grokdistill.files import write

if TYPE_CHECKING:
    from grokdistill.plan import Plan

VERDICTS = {"reproduced": "#0072b2", "partly": "#b07c00", "not reproduced": "#c04a00", "not run": "#757575"}
SURPRISES = 3
INTRODUCTION = """<p><i>When Data Falls Short: Grokking Below the Critical Threshold</i> (arXiv 2511.04760), run again.
A model that has grokked addition or subtraction modulo p1 teaches others modulo p2, which see a fraction of p2's pairs:
<i>distilled</i> ones learn from its outputs, those <i>from scratch</i> (or <i>supervised</i>) from labels alone.
f_M is a larger model of both primes; a <i>continual</i> run goes on from p1's model to p2.
<i>Reproduced</i>: all that a claim says holds; <i>partly</i>: in some cells and not in others; <i>not reproduced</i>: in
none, or not in what the claim is about. What the paper leaves open is read as docs/readings.md says.</p>"""
STYLE = """
.grok {font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 68rem; margin: 0 auto; padding: 0 1rem}
.grok h1 {font-size: 1.5rem; line-height: 1.25; margin: 1rem 0 .5rem; font-weight: 600}
.grok h2 {font-size: 1.2rem; margin: 2rem 0 .5rem; font-weight: 600}
.grok p {margin: .5rem 0} .grok img {max-width: 100%; height: auto}
.grok .bar {display: flex; height: .75rem; border-radius: .25rem; overflow: hidden; margin: .5rem 0}
.grok .key > span {margin-right: 1.25rem; white-space: nowrap}
.grok .verdict {font-weight: 600; white-space: nowrap}
.grok article {border-left: .25rem solid; padding: 0 0 0 .75rem; margin: 1rem 0}
.grok table {border-collapse: collapse; width: 100%; font-size: .875rem}
.grok th, .grok td {text-align: left; vertical-align: top; padding: .4rem .75rem .4rem 0; border-bottom: 1px solid #ddd}
.grok .runs {overflow-x: auto} .grok .runs td, .grok .runs th {white-space: nowrap; padding: .15rem .75rem .15rem 0}
.grok summary {cursor: pointer; color: #00588c; font-size: .875rem} .grok a {color: #00588c}
.grok small {color: #555}
@media (max-width: 40rem) {
  .grok .claims thead {display: none}
  .grok .claims td {display: block; border: 0; padding: .1rem 0}
  .grok .claims tr {display: block; border-bottom: 1px solid #ddd; padding: .6rem 0}
  .grok .claims td[data-name]::before {content: attr(data-name) ": "; color: #555}
}
"""


def page(verdicts: pd.DataFrame, claims: Sequence[Claim], runs: pd.DataFrame, pair: tuple[int, int], picture: bytes) -> str:
    """The page.

    Args:
        verdicts: `claims.csv`, as `read_claims` reads it.
        claims: the claims that it judges, in its order.
        runs: `runs.csv`.
        pair: the main primes p1 and p2.
        picture: the phase diagram as PNG.
    """
    rows = verdicts.to_dict("records")
    by_run = dict(zip((row["claim"] for row in rows), (runs[needed(claim, runs, pair)] for claim in claims), strict=True))
    seeds = runs["seed"].nunique()
    parts = [
        f"<h1>{len(rows)} claims of the paper, judged by {len(runs):,} training runs</h1>",
        INTRODUCTION,
        f"<p>p1 = {pair[0]}, p2 = {pair[1]}, {seeds} seed{'s' * (seeds != 1)}. n is the number of seeds in the smallest cell "
        "that a verdict needs; every number comes from runs that are listed under it.</p>",
        _bar(verdicts["verdict"]),
    ]
    surprising = _surprising(rows, by_run)
    if surprising:
        parts.append("<h2>Not as the paper says</h2>")
        parts += [_finding(row, by_run[row["claim"]]) for row in surprising[:SURPRISES]]
        if more := surprising[SURPRISES:]:
            parts.append(f"<p>{len(more)} more in the table of every claim.</p>")
    parts += [
        "<h2>How much data grokking takes</h2>",
        f'<p><img alt="phase diagram" src="data:image/png;base64,{base64.b64encode(picture).decode()}"></p>',
        "<p>The share of seeds that grok p2 against the share of its pairs that they were shown, from scratch and distilled, "
        "with 95% Wilson intervals; bars below: the critical threshold. The numbers are in phase.csv.</p>",
        "<h2>Every claim</h2>",
        '<table class="claims"><thead><tr><th>the paper</th><th>verdict</th><th>measured</th><th>n</th></tr></thead><tbody>',
        *(_row(row, by_run[row["claim"]]) for row in rows),
        "</tbody></table>",
    ]
    head = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    title = "<title>Grokking below the critical threshold: what reproduces</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", '<div class="grok">', *parts, "</div>", ""])


def _surprising(rows: list[dict[str, str]], by_run: dict[str, pd.DataFrame]) -> list[dict[str, str]]:
    """What contradicts the paper, by most seeds first, then by most runs; what it says only partly comes last."""
    wrong = [row for row in rows if row["verdict"] in ("not reproduced", "partly")]
    return sorted(wrong, key=lambda row: (row["verdict"] == "partly", -row["n"], -len(by_run[row["claim"]])))


def _bar(verdicts: pd.Series) -> str:
    counts = {name: int((verdicts == name).sum()) for name in VERDICTS}
    shown = {name: count for name, count in counts.items() if count}
    bar = "".join(f'<div style="flex:{count};background:{VERDICTS[name]}"></div>' for name, count in shown.items())
    key = " ".join(f"<span>{_verdict(name)}&nbsp;{count}</span>" for name, count in shown.items())
    return f'<div class="bar">{bar}</div><p class="key">{key}</p>'


def _verdict(name: str) -> str:
    return f'<span class="verdict" style="color:{VERDICTS[name]}">{name}</span>'


def _finding(row: dict[str, str], runs: pd.DataFrame) -> str:
    return (
        f'<article style="border-color:{VERDICTS[row["verdict"]]}">'
        f"<p>{_paper(row)} {_verdict(row['verdict'])}, n = {row['n']}</p>"
        f"<p>Expected: {escape(row['expected'])}.<br>Measured: {escape(row['measured'])}.</p>{_runs(runs)}</article>"
    )


def _row(row: dict[str, str], runs: pd.DataFrame) -> str:
    interval = f"<br><small>interval: {escape(row['interval'])}</small>" if row["interval"] else ""
    return (
        f'<tr><td>{_paper(row)}</td><td>{_verdict(row["verdict"])}</td><td data-name="measured">{escape(row["measured"])}'
        f'{interval}{_runs(runs)}</td><td data-name="n">{row["n"]}</td></tr>'
    )


def _paper(row: dict[str, str]) -> str:
    figure = f" <small>(figure {escape(row['figure'])})</small>" if row["figure"] else ""
    return f"{escape(row['statement'])}{figure}"


def _runs(runs: pd.DataFrame) -> str:
    """A claim's runs, folded away, each with what came of it and its curve."""
    if runs.empty:
        return ""
    lines = []
    for run in runs.itertuples():
        grokked = f"{run.t_grok:.0f}" if run.status == "grokked" else ""
        link = f'<a href="curves/{run.stage}/{run.name}.csv">{escape(run.name)}</a>'
        cells = (run.stage, link, run.status, grokked, f"{run.final_test_acc:.3f}", f"{run.steps:.0f}")
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    names = ("stage", "run", "status", "t_grok", "test accuracy", "steps")
    head = "".join(f"<th>{name}</th>" for name in names)
    return (
        f'<details class="runs"><summary>{len(runs)} run{"s" * (len(runs) != 1)}</summary>'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></details>"
    )


def make(plan: Plan) -> None:
    """Write a study's `overview.html` from its verdicts, its table of runs and its phase diagram.

    Raises:
        ClaimsError: where the verdicts are on other claims than there are now.
    """
    from grokdistill.publish import read_runs

    results, verdicts = plan.results, read_claims(plan.results)
    claims, picture = load_claims(plan.params.paths.claims), (results / "figures" / "phase.png").read_bytes()
    if list(verdicts["claim"]) != [claim.id for claim in claims]:
        path = results / "claims.csv"
        raise ClaimsError(f"{path}: judges other claims than {plan.params.paths.claims}; make it anew with `snakemake claims`")
    write(results / "overview.html", page(verdicts, claims, read_runs(results), plan.params.primes.pair, picture))
