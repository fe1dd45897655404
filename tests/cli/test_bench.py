"""Tests that the benchmarks start and that bench/README.md lists them. They are run by hand."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.conftest import ROOT

SCRIPTS = sorted(path.name for path in (ROOT / "bench").glob("*.py") if "__main__" in path.read_text())


@pytest.mark.parametrize("script", SCRIPTS)
def test_it_starts_and_the_readme_tells_of_it(script: str) -> None:
    done = subprocess.run([sys.executable, ROOT / "bench" / script, "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ")
    assert f"`{script}" in (ROOT / "bench/README.md").read_text()
