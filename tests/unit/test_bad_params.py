"""Hundreds of mutated params.yaml: each is refused with a message that names the key, or is a study."""

import copy
import math
import random

import pytest
import yaml

from grokdistill.params import ParamsError, read, validate
from grokdistill.runs import enumerate_runs

VALUES = [
    *("x", "", "1e-3", "0x1F", "yes", "$(touch here)", "../up", "a/b; rm -rf c", True, False, None, [], {}, [[]], {"x": 1}),
    *(-1, 0, 1, 2, 4, 9973, 10**9, 10**30, -(10**30), 0.0, -0.5, 0.5, 1.0, 1e308, math.inf, -math.inf, math.nan),
    *([0.25, 0.25], [0.2, 0.2000001], ["add", "add"], ["add", "mul"], [1, 1], [True], ["adamw", 3], [None]),
]
RAW = {
    "anchors": "seeds: &s [0]\nprimes: {p1: 113, p2: 107}\nstudents: {fractions: &f [0.2]}\nbaselines: {fractions: *f}\n",
    "yes and no": "seeds: [no]\n",
    "octal": "primes: {p1: 0161, p2: 107}\n",
    "sexagesimal": "training: {steps: 4:10}\n",
    "a key given twice": "seeds: [0]\nseeds: [1]\n",
    "a key given twice below": "students: {alpha: 0.5, alpha: 0.6}\n",
    "a laugh": "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)),
    "itself": "seeds: &s [*s]\n",
    "an object": "seeds: !!python/object/apply:os.system ['touch here']\n",
    "a tag": "seeds: !!set {0}\n",
    "a date": "seeds: [2020-01-01]\n",
    "a merge": "model: &m {numbers: 128}\noptim: {<<: *m}\n",
    "two documents": "seeds: [0]\n---\nseeds: [1]\n",
    "a list": "- seeds\n",
    "a text": "seeds\n",
    "a key that is no text": "1: 2\n",
    "a key that is a list": "? [a, b]\n: 1\n",
    "not YAML": "seeds: [0\n",
    "a tab": "seeds:\n\t- 0\n",
    "bytes": b"seeds: [0]\n\xff\xfe\n",
    "a null byte": b"seeds: [0]\n\x00\n",
    "deep": "seeds: " + "[" * 3000 + "]" * 3000 + "\n",
    "large": "seeds: [0]\n#" + "x" * 2_000_000 + "\n",
    "nothing": "",
    "comments": "# nothing\n",
}

# What YAML 1.1 makes a study of: 0161 is 113, 4:10 is 250, a set is its members.
READ = {"anchors", "octal", "sexagesimal", "a tag", "nothing", "comments"}


def tried(paths, *words):
    """The study that files ask for, or None where it is refused as it should be."""
    try:
        return enumerate_runs(validate(read(paths)))
    except ParamsError as error:
        text = str(error)
        assert any(word in text for word in words), (text, words)
        assert len(text) < 4000
        return None


def leaves(node, place=()):
    """Every place in parsed YAML below the top."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*place, key)
        yield from leaves(value, (*place, key))


def mutants(raw, count):
    """Documents that differ from `raw` in one place, and the names of that place."""
    rng, places = random.Random(7), list(leaves(raw))
    for _ in range(count):
        document, place = copy.deepcopy(raw), rng.choice(places)
        around = document
        for key in place[:-1]:
            around = around[key]
        kind = rng.choice(["value"] * 6 + ["missing", "extra", "double"])
        if kind == "value":
            around[place[-1]] = rng.choice(VALUES)
        elif kind == "missing":
            del around[place[-1]]
        elif kind == "extra" and isinstance(around, dict):
            around[f"{place[-1]}x"] = rng.choice(VALUES)
        elif isinstance(around, list):
            around.append(around[place[-1]])
        yield document, [str(part) for part in place if not isinstance(part, int)]


def test_mutated_values(full, tmp_path):
    """600 documents with one place changed, of which many are refused and some are studies."""
    path, accepted, refused = tmp_path / "params.yaml", 0, 0
    for document, names in mutants(full, 600):
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        if tried([path], *names):
            accepted += 1
        else:
            refused += 1
    assert refused > 300
    assert accepted > 50


def test_mutated_text(repository, tmp_path):
    """200 files with one line cut, doubled, shifted or garbled."""
    lines = (repository / "params.yaml").read_text().splitlines(keepends=True)
    path, rng, outcomes = tmp_path / "params.yaml", random.Random(11), []
    for _ in range(200):
        changed, at = list(lines), rng.randrange(len(lines))
        kind = rng.randrange(4)
        if kind == 0:
            changed[at] = changed[at][: rng.randrange(len(changed[at]) + 1)]
        elif kind == 1:
            changed.insert(at, changed[at])
        elif kind == 2:
            changed[at] = " " * rng.randrange(1, 4) + changed[at]
        else:
            place = rng.randrange(max(1, len(changed[at]) - 1))
            changed[at] = changed[at][:place] + rng.choice("{}[]:,#&*!|>'\"%@`-0\t") + changed[at][place + 1 :]
        path.write_text("".join(changed))
        outcomes.append(tried([path], "params.yaml", "variants") is None)
    assert 100 < sum(outcomes) < 200


@pytest.mark.parametrize("name", RAW)
def test_yaml_of_all_kinds(name, repository, tmp_path, monkeypatch):
    """Laid over params.yaml, as a file of one's own is."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "params.yaml"
    content = RAW[name]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    study = tried([repository / "params.yaml", path], "params.yaml")
    assert (study is not None) == (name in READ)
    assert list(tmp_path.iterdir()) == [path]  # nothing was executed


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"primes": {"p1": 113, "p2": 113}}, ("primes", "113")),
        ({"primes": {"p1": 2, "p2": 107}}, ("primes", "2")),
        ({"primes": {"p1": 113, "p2": 111}}, ("primes.p2", "111")),
        ({"paths": {"claims": "/etc/passwd.yaml"}}, ("paths.claims",)),
        ({"paths": {"claims": "../claims.yaml"}}, ("paths.claims",)),
        ({"paths": {"results": "results; rm -rf x"}}, ("paths.results",)),
        ({"execution": {"keep_seconds": -1}}, ("execution.keep_seconds", "-1")),
        ({"training": {"batch_size": 0}}, ("training.batch_size", "0")),
    ],
)
def test_what_is_refused_by_name(full, changes, words):
    for section, values in changes.items():
        full[section] = full.get(section, {}) | values
    with pytest.raises(ParamsError) as raised:
        enumerate_runs(validate(full))
    assert all(word in str(raised.value) for word in words)
