"""Tests that `oc-smart` becomes the real OpenCode."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT
from tests.support.pty import Pty

SCRIPT = (
    f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
    "from ocwatchd.cli.commands.run import main\nmain()\n"
)
ECHO = '#!/bin/sh\nprintf "%s|" "$0" "$@"; cat; exit 7\n'


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def run(smart: Path, path: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [str(smart), *arguments],
        env={"PATH": path, "HOME": str(smart.parent.parent)},
        input=b"typed",
        capture_output=True,
        timeout=30,
    )


@pytest.fixture
def smart(tmp_path: Path) -> Path:
    return script(tmp_path / "ours" / "oc-smart", SCRIPT)


def test_arguments_streams_and_exit_code_are_opencodes_own(tmp_path: Path, smart: Path) -> None:
    script(tmp_path / "bin" / "opencode", ECHO)
    done = run(smart, f"{tmp_path / 'bin'}:/usr/bin:/bin", "run", "--json", "two words", "")
    assert done.stdout == f"{tmp_path / 'bin' / 'opencode'}|run|--json|two words||typed".encode()
    assert (done.returncode, done.stderr) == (7, b"")


def test_never_itself(tmp_path: Path, smart: Path) -> None:
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "opencode").symlink_to(smart)
    script(tmp_path / "bin" / "opencode", ECHO)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "opencode").write_text("not executable")
    path = f"{tmp_path / 'link'}:{tmp_path / 'plain'}:{tmp_path / 'bin'}:/usr/bin:/bin"
    assert run(smart, path, "x").returncode == 7
    done = run(smart, f"{tmp_path / 'link'}:/usr/bin:/bin")
    assert (done.returncode, done.stdout) == (5, b"")
    assert b"not on PATH" in done.stderr


def test_a_wrapper_that_leads_back_is_noticed(tmp_path: Path, smart: Path) -> None:
    script(tmp_path / "bin" / "opencode", f'#!/bin/sh\nexec {smart} "$@"\n')
    done = run(smart, f"{tmp_path / 'bin'}:/usr/bin:/bin")
    assert (done.returncode, done.stdout) == (5, b"")
    assert b"oc-smart itself" in done.stderr


def test_what_cannot_be_started_is_one_message(tmp_path: Path, smart: Path) -> None:
    script(tmp_path / "bin" / "opencode", "#!/nonexistent/interpreter\n")
    done = run(smart, str(tmp_path / "bin") + os.pathsep + "/usr/bin")
    assert done.returncode == 5
    assert b"cannot be started" in done.stderr
    assert b"Traceback" not in done.stderr


def test_its_sentences_break_between_words_on_a_terminal_and_nowhere_in_a_pipe(tmp_path: Path, smart: Path) -> None:
    script(tmp_path / "bin" / "opencode", "#!/nonexistent/interpreter\n")
    path = f"{tmp_path / 'bin'}:/usr/bin"
    sentence = run(smart, path, "x").stderr.decode().removesuffix("\n")
    assert "\n" not in sentence
    with Pty([str(smart), "x"], {"PATH": path, "HOME": str(tmp_path)}, tmp_path, size=(40, 24)) as terminal:
        assert terminal.end() == 5
        lines = terminal.shown.decode().split("\r\n")[:-1]
    assert len(lines) > 1
    assert " ".join(line.strip() for line in lines) == sentence


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_explains_own_options_before_opencodes(tmp_path: Path, smart: Path, flag: str) -> None:
    script(tmp_path / "bin" / "opencode", "#!/bin/sh\necho help of OpenCode\n")
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    done = run(smart, path, flag)
    assert (done.returncode, done.stdout) == (0, b"help of OpenCode\n"), "standard output is OpenCode's own answer"
    assert all(f"\n  {own} " in done.stderr.decode() for own in ("--no-fallback", "--wait", "--print-env"))
    with Pty([str(smart), flag], {"PATH": path, "HOME": str(tmp_path)}, tmp_path) as terminal:
        assert terminal.end() == 0
        shown = terminal.shown.decode()
    assert 0 < shown.index("--print-env") < shown.index("help of OpenCode")
