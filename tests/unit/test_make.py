"""`make grid`, with stand-ins for what it calls."""

import os
import subprocess

import pytest

# Named in turn by `grid_order.py --next`, whatever else python is asked for.
PYTHON = """
case "$*" in
  *--next) [ -e broken ] && exit 1; head -n 1 steps; sed -i 1d steps;;
  *interim*) echo interim >> called;;
esac
"""


@pytest.fixture
def grid(repository, tmp_path):
    """Runs it on given steps; its exit status and what was called."""
    commands = {"python": PYTHON, "snakemake": 'echo "snakemake $*" >> called; [ ! -e failing ]'}
    for name, text in commands.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text(f'PATH="{tmp_path}/bin:$PATH"\n')
    for name in ("requirements.lock", "pyproject.toml", ".venv/.ready"):
        (tmp_path / name).touch()

    def run(steps):
        (tmp_path / "steps").write_text("".join(f"{step}\n" for step in steps))
        done = subprocess.run(["make", "-f", repository / "Makefile", "grid"], cwd=tmp_path, env=os.environ, check=False)
        called = tmp_path / "called"
        return done.returncode, called.read_text().splitlines() if called.exists() else []

    return run


ALL = "snakemake --cores 2 --resources gpu=2"


def test_step_by_step_then_whatever_is_left(grid):
    assert grid(["a b", "c"]) == (0, [f"{ALL} -- a b", "interim", f"{ALL} -- c", "interim", ALL])


def test_nothing_is_trained_where_the_order_cannot_be_told(grid, tmp_path):
    (tmp_path / "broken").touch()
    status, called = grid(["a"])
    assert status and not called


def test_it_stops_at_a_step_that_fails(grid, tmp_path):
    (tmp_path / "failing").touch()
    status, called = grid(["a", "b"])
    assert status
    assert called == [f"{ALL} -- a"]
