"""Digests of sources, on a throwaway package."""

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from grokdistill import sources

MODULES = {
    "__init__": '"""A package."""\n',
    "top": "from pkg import middle\nfrom pkg.low import f\n\n\ndef run():\n    return middle.g() + f()\n",
    "middle": "import pkg.deep\n\n\ndef g():\n    return pkg.deep.VALUE\n",
    "low": "def f():\n    return 1\n",
    "deep": "VALUE = 2\n",
    "apart": "VALUE = 3\n",
    "sub/__init__": "",
    "sub/leaf": "VALUE = 4\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Writes modules of the package `pkg` and forgets what was read before."""
    caches = (sources._tree, sources.imports, sources.closure, sources.digest)
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    monkeypatch.setattr(sources, "PACKAGE", "pkg")

    def write(**changed):
        for name, text in (MODULES | {name.replace("__slash__", "/"): text for name, text in changed.items()}).items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(dedent(text), encoding="utf-8")
        for cached in caches:
            cached.cache_clear()
        return sources.digest("pkg.top")

    yield write
    for cached in caches:
        cached.cache_clear()


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    return 1  # a comment\n",
        "# a comment\n\n\ndef f():\n\n    return 1\n",
        '"""A docstring."""\n\n\ndef f():\n    """Another."""\n    return 1\n',
        "def f():\n    return (\n        1\n    )\n",
        "def f(): return 1\n",
        "from __future__ import annotations\n",
    ],
)
def test_what_is_not_computed_does_not_count(package, text):
    before = package()
    if "__future__" in text:
        assert package(low=text) != before
    else:
        assert package(low=text) == before


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    return 2\n",
        "def f(x=None):\n    return 1\n",
        "def h():\n    return 1\n",
        "def f():\n    return 1\n\n\nf = f\n",
        "def f():\n    return '1'\n",
        "def f():\n    return 1.0\n",
        "def f():\n    x = 'not a docstring'\n    return 1\n",
        "X = 1\n\n\ndef f():\n    return 1\n",
    ],
)
def test_code_counts(package, text):
    assert package(low=text) != package()


def test_a_string_that_is_a_value_counts(package):
    assert package(low="X = 'one'\n") != package(low="X = 'two'\n")


def test_classes_and_async_functions_lose_their_docstrings_alone(package):
    plain = package(low="class A:\n    x = 1\n\n    async def f(self):\n        return 1\n")
    assert (
        package(low='class A:\n    """Doc."""\n    x = 1\n\n    async def f(self):\n        """Doc."""\n        return 1\n')
        == plain
    )
    assert package(low="class A:\n    x = 2\n\n    async def f(self):\n        return 1\n") != plain
    empty = package(low="class A:\n    pass\n")
    assert package(low='class A:\n    """Doc."""\n') == empty


def test_the_closure_follows_imports_transitively(package):
    package()
    assert sources.closure("pkg.top") == ("pkg.deep", "pkg.low", "pkg.middle", "pkg.top")
    assert list(sources.parts("pkg.top")) == ["deep.py", "low.py", "middle.py", "top.py"]
    assert sources.closure("pkg.middle") == ("pkg.deep", "pkg.middle")


def test_a_change_far_below_counts_and_one_beside_does_not(package):
    before = package()
    assert package(deep="VALUE = 20\n") != before
    assert package(apart="VALUE = 30\n") == before
    assert package() == before


@pytest.mark.parametrize(
    "line",
    [
        "from pkg.apart import VALUE",
        "from pkg import apart",
        "from pkg import low, apart",
        "import pkg.apart",
        "import pkg.apart as other",
        "def later():\n    from pkg.apart import VALUE",
        "try:\n    from pkg.apart import VALUE\nexcept ImportError:\n    pass",
    ],
)
def test_every_form_of_import_is_followed(package, line):
    package(low=f"{line}\n")
    assert "pkg.apart" in sources.closure("pkg.top")


def test_packages_within_the_package(package):
    package(low="from pkg.sub import leaf\n")
    assert {"pkg.sub", "pkg.sub.leaf"} <= set(sources.closure("pkg.top"))


def test_circles_end(package):
    package(deep="import pkg.top\n\nVALUE = 2\n")
    assert "pkg.top" in sources.closure("pkg.deep")


def test_other_packages_are_not_followed(package):
    package(low="import numpy\nimport pkgother.thing\nfrom os import path\n")
    assert sources.closure("pkg.low") == ("pkg.low",)


@pytest.mark.parametrize("test", ["TYPE_CHECKING", "typing.TYPE_CHECKING"])
def test_imports_for_type_checking_do_not_count(package, test):
    header = "import typing\nfrom typing import TYPE_CHECKING\n\n{}\n\ndef f():\n    return 1\n"
    without = package(low=header.format(""))
    assert package(low=header.format(f"if {test}:\n    from pkg.apart import VALUE\n")) == without
    assert "pkg.apart" not in sources.closure("pkg.top")


@pytest.mark.parametrize(
    "block",
    [
        "if not TYPE_CHECKING:\n    from pkg.apart import VALUE\n",
        "if TYPE_CHECKING:\n    pass\nelse:\n    from pkg.apart import VALUE\n",
    ],
)
def test_what_runs_when_types_are_not_checked_counts(package, block):
    package(low=f"from typing import TYPE_CHECKING\n\n{block}")
    assert "pkg.apart" in sources.closure("pkg.top")


def other_pythons():
    """Interpreters beside the running one, of the versions that the project supports."""
    folders = [*map(Path, os.environ.get("PATH", "").split(os.pathsep)), *Path.home().glob(".pyenv/versions/*/bin")]
    found = {}
    for minor in range(11, 16):
        if minor != sys.version_info.minor:
            for path in (folder / f"python3.{minor}" for folder in folders):
                if path.is_file() and subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode == 0:
                    found[minor] = path
    return found


@pytest.mark.skipif(not other_pythons(), reason="no second Python interpreter here")
def test_the_digest_is_the_same_under_every_python(repository):
    """Versions are recorded, never fingerprinted: a store filled under one interpreter is found by another."""
    script = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location('sources', sys.argv[1])\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(module.digest('grokdistill.stages.students'))\n"
    )
    expected = sources.digest("grokdistill.stages.students")
    path = repository / "src/grokdistill/sources.py"
    for minor, python in other_pythons().items():
        done = subprocess.run([python, "-B", "-c", script, path], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected, f"Python 3.{minor}"


def test_stages_depend_on_what_trains_and_not_on_what_reports(repository):
    """A change of tables, figures, claims or the command line retrains nothing; one of the engine does."""
    for stage in ("teachers", "baselines", "students", "joint", "continual"):
        names = {name.removeprefix("grokdistill.") for name in sources.closure(f"grokdistill.stages.{stage}")}
        assert {"train", "engine", "model", "losses", "batches", "probes"} <= names
        assert not names & {
            "summary",
            "publish",
            "figures",
            "claims",
            "style",
            "cli",
            "jobs",
            "plan",
            "runs",
            "params",
            "config",
        }
    assert "grokdistill.distill" not in sources.closure("grokdistill.stages.baselines")
    assert "grokdistill.train" not in sources.closure("grokdistill.stages.datasets")
