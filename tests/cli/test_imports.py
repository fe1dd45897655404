"""What may be imported where speed is promised: a budget of modules, which no busy machine upsets as it would a time.

A module more in one of these lists costs every call of that command, or every minute of every idle daemon: whoever adds
one has measured it (`bench/commands.py`, `bench/idle.py`).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable

import pytest

from tests.cli.conftest import Cli, resting

# What the standard library's json brings along, and a bare interpreter or its venv.
JSON = {
    "__future__", "_collections", "_functools", "_json", "_operator", "_sre", "collections", "copyreg", "encodings",
    "enum", "errno", "functools", "itertools", "json", "keyword", "operator", "re", "reprlib", "types",
}  # fmt: skip
ALWAYS = {"ocwatchd", "cli", "cli.escape", "cli.guard", "cli.main", "cli.places", "cli.render", "errors", "xdg"}
REGISTER = {"state", "state.entries", "state.plain"}
CHAINS = {
    "config", "config.names", "config.reader", "core", "core.chains", "state.register",
}  # fmt: skip
OWN: dict[tuple[str, ...], set[str]] = {
    ("--version",): ALWAYS,
    ("pick", "p/a"): ALWAYS | REGISTER | CHAINS | {"cli.pick", "state.budget"},
    ("statusline",): ALWAYS | REGISTER | {"cli.statusline", "state.heartbeat"},
    ("status",): ALWAYS
    | REGISTER
    | {"cli.listing", "cli.views", "state.forecasts", "state.hearing", "state.heartbeat"},
    ("cooldowns",): ALWAYS | REGISTER | {"cli.listing", "cli.views", "state.hearing", "state.heartbeat"},
}
VALUES = ("dataclasses", "datetime", "_datetime", "inspect", "pathlib", "typing", "contextlib", "argparse")
"""Costly ones of the standard library: 2 - 10 CPU ms each."""

IDLE = (
    "ssl", "http.client", "email", "sqlite3", "hashlib", "_hashlib", "zipfile",
    "urllib.request", "importlib.resources", "importlib.metadata", "asyncio", "multiprocessing", "typer", "click",
    "rich", "json5", "zoneinfo", "sysconfig", "statistics", "decimal",
)  # fmt: skip
"""What a daemon that idles has no use for: 12 MiB in all, OpenSSL 8 of them, time zones with `sysconfig` 1.2. (ctypes,
which watchdog needs, brings tempfile, shutil and random, orjson brings uuid.)"""


def loaded(cli: Cli, code: str, *arguments: str) -> set[str]:
    """The modules that are there when `code` has run."""
    code += "; print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}", *arguments],
        env=cli.env, cwd=cli.paths.home, capture_output=True, timeout=60,
    )  # fmt: skip
    return set(done.stderr.decode().splitlines()[-1].split())


def own(modules: Iterable[str]) -> set[str]:
    return {name.removeprefix("ocwatchd.") for name in modules if name.partition(".")[0] == "ocwatchd"}


@pytest.mark.parametrize("arguments", OWN)
def test_a_quick_command_imports_its_own_few_modules(cli: Cli, arguments: tuple[str, ...]) -> None:
    cli.register(**{"p/a": resting()})
    cli.heartbeat()
    cli.configure(fallbackChain={"p/a": "q/b"})
    modules = loaded(cli, "from ocwatchd.cli.main import run; run(sys.argv[1:])", *arguments)
    assert own(modules) - OWN[arguments] == set()


@pytest.mark.parametrize("arguments", [("--version",), ("pick", "p/a"), ("statusline",)])
def test_and_of_the_library_what_json_brings(cli: Cli, arguments: tuple[str, ...]) -> None:
    cli.register(**{"p/a": resting()})
    cli.configure(fallbackChain={"p/a": "q/b"})
    before = loaded(cli, "pass")
    modules = loaded(cli, "from ocwatchd.cli.main import run; run(sys.argv[1:])", *arguments)
    foreign = {name.partition(".")[0] for name in modules - before} - {"ocwatchd"}
    assert foreign - JSON == set()


def test_the_launcher_imports_no_value_types(cli: Cli) -> None:
    modules = loaded(cli, "import ocwatchd.cli.smart")
    assert modules & set(VALUES) - loaded(cli, "pass") == set()


def test_a_daemon_that_idles_has_imported_nothing_it_does_not_need(cli: Cli) -> None:
    """Loaded, opened and gone once round, as `Daemon.run` does it, without a door and without a limit."""
    cli.configure(fallbackChain={"p/a": "q/b"})
    code = (
        "from ocwatchd.daemon import Daemon; from ocwatchd.config import load; from ocwatchd.paths import Paths; "
        "import threading; paths = Paths.from_env(); daemon = Daemon(paths, load(paths)); "
        "threading.Timer(1.5, daemon.stop).start(); daemon.run()"
    )
    modules = loaded(cli, code)
    assert "ocwatchd.hands" in modules
    assert modules & set(IDLE) == set()
