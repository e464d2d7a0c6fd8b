"""The first page: what it says is what the tables say, and it is sound HTML."""

import base64
import re
from html import unescape
from html.parser import HTMLParser

import pandas as pd
import pytest

from grokdistill import overview
from grokdistill.claims import Claim

PAIR = (113, 107)
VOID = {"meta", "img", "br"}


def claim(name, fraction):
    where = {"stage": "students", "fraction": fraction}
    part = {"where": where, "predicate": {"kind": "grokked", "at_least": 0.8}}
    return Claim.model_validate({"id": name, "section": "4", "statement": f"{name} <holds> & stays.", "parts": {"groks": part}})


CLAIMS = [claim(name, fraction) for name, fraction in (("a", 0.3), ("b", 0.25), ("c", 0.2), ("d", 0.1), ("e", 0.35))]
RUNS = pd.DataFrame(
    {
        "stage": "students", "name": f"add-f{100 * fraction:.0f}-s{seed}", "variant": variant, "p1": 113, "p2": 107,
        "fraction": fraction, "seed": seed, "status": "grokked" if seed else "censored", "t_grok": 1200 if seed else None,
        "final_test_acc": 0.98, "steps": 15000,
    }
    for fraction in (0.3, 0.25, 0.2, 0.1) for seed in (0, 1) for variant in ("", "alpha=0.5")
)  # fmt: skip


def verdicts(*given):
    rows = [
        {"claim": each.id, "figure": "", "statement": each.statement, "expected": "share >= 0.8", "measured": f"groks: {n}/2",
         "interval": "", "n": n, "verdict": verdict}
        for each, (verdict, n) in zip(CLAIMS, given, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


MIXED = verdicts(("reproduced", 2), ("partly", 9), ("not reproduced", 1), ("not reproduced", 2), ("not run", 0))


class Sound(HTMLParser):
    """Fails where tags do not match."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page(table):
    text = overview.page(table, CLAIMS, RUNS, PAIR, b"picture")
    parser = Sound()
    parser.feed(text)
    assert parser.open == []
    return text


def test_every_claim_with_its_verdict_and_its_runs():
    rows = re.findall("<tr><td>(?=[a-e] &lt;).*?</table></details>.*?</tr>|<tr><td>e &lt;.*?</tr>", page(MIXED), re.DOTALL)
    assert len(rows) == len(CLAIMS)
    for text, row, fraction in zip(rows, MIXED.to_dict("records"), (0.3, 0.25, 0.2, 0.1, 0.35), strict=True):
        assert row["statement"] in unescape(text)
        assert f">{row['verdict']}</span>" in text and row["measured"] in text and f'data-name="n">{row["n"]}<' in text
        linked = re.findall('href="(.*?)"', text)
        own = RUNS[(RUNS["fraction"] == fraction) & (RUNS["variant"] == "")]
        assert linked == [f"curves/students/{name}.csv" for name in own["name"]]
        told = re.findall("</a></td><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>", text)
        expected = [("grokked", "1200", "0.980", "15000"), ("censored", "", "0.980", "15000")]
        assert told == [expected[status != "grokked"] for status in own["status"]]


def test_the_head_says_what_was_run():
    text = page(MIXED)
    assert f"<h1>5 claims of the paper, judged by {len(RUNS)} training runs</h1>" in text
    assert "arXiv 2511.04760" in text
    assert "<p>p1 = 113, p2 = 107, 2 seeds." in text


def test_nothing_of_the_paper_becomes_markup():
    assert "<holds>" not in page(MIXED)


def test_what_contradicts_the_paper_comes_first_and_by_seeds():
    found = re.findall("<article.*?<p>(.) &lt;", page(MIXED))
    assert found == ["d", "c", "b"]


def test_of_findings_with_as_many_seeds_those_with_most_runs_come_first():
    table = verdicts(*[("not reproduced", 2)] * 4, ("not run", 0))
    fewer = RUNS[(RUNS["fraction"] != 0.3) | (RUNS["seed"] == 0)]  # the first claim's
    found = re.findall("<article.*?<p>(.) &lt;", overview.page(table, CLAIMS, fewer, PAIR, b"picture"))
    assert found == ["b", "c", "d"]


def test_at_most_three_findings_and_none_where_all_holds():
    text = page(verdicts(*[("not reproduced", n) for n in (1, 2, 3, 4, 5)]))
    assert re.findall("<article.*?<p>(.) &lt;", text) == ["e", "d", "c"]
    assert "<p>2 more in the table of every claim.</p>" in text
    assert "more in the table" not in page(MIXED)
    assert "Not as the paper says" not in page(verdicts(*[("reproduced", 3)] * 5))


def test_the_bar_counts_verdicts():
    bar = re.search('<div class="bar">(.*?)</div><p', page(MIXED))[1]
    assert re.findall(r"flex:(\d+)", bar) == ["1", "1", "2", "1"]


def test_the_picture_travels_inside():
    assert f"base64,{base64.b64encode(b'picture').decode()}" in page(MIXED)


@pytest.mark.parametrize("name", ["src", "href"])
def test_it_needs_no_other_place(name):
    assert not re.search(f'{name}="https?:', page(MIXED))
