"""An OpenCode program as such: run offline in a HOME that is not the user's, and asked for its version."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ocwatchd.errors import OpenCodeUnreachable
from ocwatchd.opencode.private import stop_group

KEPT = (
    "PATH", "LANG", "LC_ALL", "TERM", "SHELL", "LD_LIBRARY_PATH", "NIX_LD", "NIX_LD_LIBRARY_PATH",
    # Where version managers keep what their `opencode` on PATH leads to: by default they look below HOME.
    "VOLTA_HOME", "ASDF_DIR", "ASDF_DATA_DIR", "MISE_DATA_DIR", "NVM_DIR", "FNM_DIR", "BUN_INSTALL", "PNPM_HOME",
)  # fmt: skip
"""Variables that are inherited: none of OpenCode's, none of XDG's, no keys."""

TEMPORARY = "tmp"
"""The directory for temporary files in such a home; whoever makes the home makes it."""

VERSION_LIMIT = 20.0
"""Seconds for `opencode --version`; 0.3 - 1.2 s on an idle machine."""
_VERSION = re.compile(r"\b(\d+\.\d+\.\d+(?:-[\w.]+)?)\b")
SAID = 300
"""Characters of a program's output that are repeated in a message."""


def bare_environ(home: Path, directory: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The whole environment for an OpenCode that is to touch `home` only and to fetch nothing."""
    return {
        **{name: environ[name] for name in KEPT if name in environ},
        "HOME": str(home),
        "TMPDIR": str(home / TEMPORARY),  # OpenCode unpacks libraries there, and leaves them (1.3, 1.18)
        # OpenCode takes the project directory from PWD, not from the real working directory.
        "PWD": str(directory),
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
        # 1.18 installs its plugin library in the background; without both its first request hangs for 20 s.
        "npm_config_registry": "http://127.0.0.1:9",
        "npm_config_fetch_retries": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
    }


def version_of_program(program: Path, environ: Mapping[str, str], limit: float = VERSION_LIMIT) -> str:
    """What `opencode --version` says, asked in an empty HOME of its own.

    Raises:
        OpenCodeUnreachable: it cannot be started, fails, hangs, or names no version.
    """
    with tempfile.TemporaryDirectory(prefix="ocwatch-version-", ignore_cleanup_errors=True) as scratch:
        home = Path(scratch)
        (home / TEMPORARY).mkdir()
        code = _run([str(program), "--version"], home, bare_environ(home, home, environ), limit)
        said = last_words(home / "output")
    if code is None:
        raise OpenCodeUnreachable(f"`{program} --version` did not end within {limit:.0f} s")
    found = _VERSION.findall(said)
    if code or not found:
        detail = f": {said}" if said else ", and it said nothing"
        raise OpenCodeUnreachable(f"`{program} --version` ended with code {code}{detail}")
    return str(found[-1])


def _run(command: list[str], home: Path, environ: Mapping[str, str], limit: float) -> int | None:
    """The exit code, or None if it had to be ended. Its output goes to a file: a pipe may be held open by a child."""
    with (home / "output").open("wb") as sink:
        try:
            process = subprocess.Popen(
                command, cwd=home, env=environ, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
                start_new_session=True,
            )  # fmt: skip
        except OSError as fault:
            raise OpenCodeUnreachable(f"{command[0]} cannot be started: {fault.strerror or fault}") from fault
    try:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(limit)
    finally:
        stop_group(process, patience=0)
    return None


def last_words(output: Path) -> str:
    """The end of what a program wrote to a file, on one line; empty if it wrote nothing."""
    try:
        data = output.read_bytes()
    except OSError:
        return ""
    text = " ".join(data[-4 * SAID :].decode(errors="replace").split())
    return text if len(text) <= SAID else f"… {text[-SAID:]}"
