"""Run an OpenCode program offline in a private HOME, to get its version or its models."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ocwatchd.core.text.amounts import span
from ocwatchd.errors import OpenCodeUnreachable
from ocwatchd.opencode.process.process_tree import stop_group

KEPT = (
    "PATH", "LANG", "LC_ALL", "TERM", "SHELL", "LD_LIBRARY_PATH", "NIX_LD", "NIX_LD_LIBRARY_PATH",
    # Directories in which version managers keep the real program that their `opencode` starts. By default, they are in
    # HOME.
    "VOLTA_HOME", "ASDF_DIR", "ASDF_DATA_DIR", "MISE_DATA_DIR", "NVM_DIR", "FNM_DIR", "BUN_INSTALL", "PNPM_HOME",
)  # fmt: skip
"""Environment variables that are passed to the program. They contain no keys, and configure neither OpenCode nor its
directories.
"""

TEMPORARY = "tmp"
"""Name of the directory for temporary files in a private HOME. The code that creates the HOME must also create this
directory.
"""

VERSION_LIMIT = 20.0
"""Timeout, in seconds, for `opencode --version`, which takes 0.3 to 1.2 s on an idle machine."""
_VERSION = re.compile(r"(?<![\w.])(v?)(\d+\.\d+\.\d+(?:-[\w.-]+)?)\b")
MAX_OUTPUT = 300
"""Maximum number of characters of a program's output that a message quotes."""


@dataclass(frozen=True, slots=True)
class ProgramVersion:
    """Version and generation (1 or 2) of an OpenCode program, as reported by `--version`."""

    number: str
    generation: int


class NoAnswer(OpenCodeUnreachable):
    """Raised if `opencode --version` did not finish in time, so that the version is unknown."""


def bare_environ(home: Path, directory: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the complete environment for an OpenCode process that must write only to `home` and download nothing."""
    return {
        **{name: environ[name] for name in KEPT if name in environ},
        "HOME": str(home),
        # A separate directory, because OpenCode unpacks libraries into it and does not remove them (1.3, 1.18).
        "TMPDIR": str(home / TEMPORARY),
        # OpenCode uses PWD as the project directory, even if it differs from the working directory.
        "PWD": str(directory),
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
        # 1.18 installs its plugin library in the background. Without the following two variables, its first request
        # would hang for 20 s.
        "npm_config_registry": "http://127.0.0.1:9",
        "npm_config_fetch_retries": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
    }


def about_program(program: Path, environ: Mapping[str, str], limit: float = VERSION_LIMIT) -> ProgramVersion:
    """Run a program in an empty HOME, and return its version and generation.

    Raises:
        OpenCodeUnreachable: The program cannot be started, fails, hangs (`NoAnswer`), or prints no version.
    """
    with tempfile.TemporaryDirectory(prefix="ocwatch-version-", ignore_cleanup_errors=True) as scratch:
        home = Path(scratch)
        (home / TEMPORARY).mkdir()
        return _version(program, home, bare_environ(home, home, environ), limit)


def about_program_here(program: Path, environ: Mapping[str, str], limit: float = VERSION_LIMIT) -> ProgramVersion:
    """Run a program in the user's HOME, and return its version and generation. This function is for shims that find
    their program through HOME.

    Raises:
        OpenCodeUnreachable: The program cannot be started, fails, hangs (`NoAnswer`), or prints no version.
    """
    with tempfile.TemporaryDirectory(prefix="ocwatch-version-", ignore_cleanup_errors=True) as scratch:
        return _version(program, Path(scratch), environ, limit)


def _version(program: Path, directory: Path, environ: Mapping[str, str], limit: float) -> ProgramVersion:
    code = _run([str(program), "--version"], directory, environ, limit)
    output = last_output(directory / "output")
    if code is None:
        raise NoAnswer(f"`{program} --version` did not finish within {span(limit)}")
    found = parse_version(output)
    if code or found is None:
        detail = f": {output}" if output else ", without output"
        raise OpenCodeUnreachable(f"`{program} --version` exited with code {code}{detail}")
    return found


def list_models(
    program: Path, environ: Mapping[str, str], logged_in: Iterable[str], limit: float = VERSION_LIMIT
) -> list[str]:
    """Run `opencode models` of OpenCode 1, offline in a private HOME. Return the lines that it prints for these
    providers.

    The HOME contains made-up logins, because the list depends only on the names of the providers.

    Raises:
        OpenCodeUnreachable: The program cannot be started, fails, or hangs.
    """
    with tempfile.TemporaryDirectory(prefix="ocwatch-models-", ignore_cleanup_errors=True) as scratch:
        home = Path(scratch)
        (home / TEMPORARY).mkdir()
        data = home / ".local" / "share" / "opencode"
        data.mkdir(parents=True)
        (data / "auth.json").write_text(json.dumps({name: {"type": "api", "key": "none"} for name in logged_in}))
        code = _run([str(program), "models"], home, bare_environ(home, home, environ), limit)
        if code != 0:
            raise OpenCodeUnreachable(f"`{program} models` exited with code {code}")
        return (home / "output").read_text(errors="replace").splitlines()


def parse_version(output: str) -> ProgramVersion | None:
    """Parse the last version in the output of `opencode --version`. Return None if the output contains no version.

    OpenCode 1 prints only the number (1.0 to 1.18, also `0.0.0-dev-…`). OpenCode 2 prints its name, and a `v` before
    the number (`opencode2 v0.0.0-next-16350`).
    """
    found = _VERSION.findall(output)
    if not found:
        return None
    prefix, number = found[-1]
    return ProgramVersion(number, 2 if prefix or int(number.partition(".")[0]) >= 2 else 1)


def _run(command: list[str], directory: Path, environ: Mapping[str, str], limit: float) -> int | None:
    """Run a command and return its exit code, or None if it was killed after `limit` seconds.

    The output is written to the file `output` in `directory`. A pipe is not used, because a child process could keep it
    open.
    """
    with (directory / "output").open("wb") as sink:
        try:
            process = subprocess.Popen(
                command, cwd=directory, env=environ, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
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


def last_output(output: Path) -> str:
    """Return the end of a program's output file as one line, or an empty string if there is no output."""
    try:
        data = output.read_bytes()
    except OSError:
        return ""
    text = " ".join(data[-4 * MAX_OUTPUT :].decode(errors="replace").split())
    return text if len(text) <= MAX_OUTPUT else f"… {text[-MAX_OUTPUT:]}"
