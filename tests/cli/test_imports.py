"""Tests of what fast commands and the daemon import: a budget of modules, which does not depend on the load as time
does.

One more module in a list costs time in every call of that command, or memory in every idle daemon. Before you add one,
measure it (`bench/commands.py`, `bench/idle.py`).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable

import pytest

from scripts.man_pages import commands
from tests.cli.conftest import Cli, resting
from tests.support.lives import Life

# Modules that the standard library's json, a bare interpreter or its venv imports.
JSON = {
    "__future__", "_collections", "_functools", "_json", "_operator", "_sre", "collections", "copyreg", "encodings",
    "enum", "errno", "functools", "itertools", "json", "keyword", "operator", "re", "reprlib", "types",
}  # fmt: skip
ALWAYS = {
    "ocwatchd",
    "cli",
    "cli.output",
    "cli.commands",
    "cli.output.escape",
    "cli.main",
    "cli.output.render",
    "errors",
    "ownership",
    "paths",
}
REGISTER = {
    "core", "core.domain", "core.domain.names", "state", "state.blacklist", "state.blacklist.format", "state.safe_read",
}  # fmt: skip
TIMES = {"core", "core.text", "core.text.amounts", "time_words"}
CHAINS = {
    "config", "config.names", "config.reader", "core.domain.chains", "core.fallback", "core.fallback.selection",
    "state.blacklist.query",
}  # fmt: skip
OWN: dict[tuple[str, ...], set[str]] = {
    ("--version",): ALWAYS,
    ("pick", "p/a"): ALWAYS | REGISTER | CHAINS | {"cli.commands.pick", "state.budget"},
    ("statusline",): ALWAYS | REGISTER | {"cli.commands.statusline", "state.forecasts", "state.heartbeat"} | TIMES,
    ("status",): ALWAYS
    | REGISTER
    | {
        "cli.commands.status",
        "cli.output.views",
        "state.forecasts",
        "state.read_progress",
        "state.heartbeat",
    }
    | TIMES,
    ("cooldowns",): ALWAYS
    | REGISTER
    | TIMES
    | {"cli.commands.status", "cli.output.views", "state.read_progress", "state.heartbeat"},
}
VALUES = ("dataclasses", "datetime", "_datetime", "inspect", "pathlib", "typing", "contextlib", "argparse")
"""Costly modules of the standard library: 2 - 10 CPU ms each."""

IDLE = (
    "ssl", "http.client", "email", "sqlite3", "hashlib", "_hashlib", "zipfile",
    "urllib.request", "importlib.resources", "importlib.metadata", "asyncio", "multiprocessing", "typer", "click",
    "rich", "json5", "zoneinfo", "sysconfig", "statistics", "decimal",
)  # fmt: skip
"""Modules that an idle daemon does not need: 12 MiB in all, 8 of them OpenSSL, 1.2 time zones with `sysconfig`.

(ctypes, which watchdog needs, imports tempfile, shutil and random; orjson imports uuid.)
"""

MAX_CALLS = 210
"""Number of Python functions that an idle round of the daemon may call, on average."""


def loaded(cli: Cli, code: str, *arguments: str) -> set[str]:
    """Return the modules that are imported when `code` has run."""
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
    modules = loaded(cli, "import ocwatchd.cli.commands.run")
    assert modules & set(VALUES) - loaded(cli, "pass") == set()


def test_a_daemon_that_idles_has_imported_nothing_it_does_not_need(cli: Cli) -> None:
    """Load, open and run the daemon's loop once, as `Daemon.run` does, without an endpoint and without a limit."""
    cli.configure(fallbackChain={"p/a": "q/b"})
    code = (
        "from ocwatchd.daemon.loop import Daemon; from ocwatchd.config import load; from ocwatchd.paths import Paths; "
        "import threading; paths = Paths.from_env(); daemon = Daemon(paths, load(paths)); "
        "threading.Timer(1.5, daemon.stop).start(); daemon.run()"
    )
    modules = loaded(cli, code)
    assert "ocwatchd.daemon.effects" in modules
    assert modules & set(IDLE) == set()


@pytest.mark.parametrize(
    "arguments", [("block", "p/a", "--for", "1h"), ("clear", "p/a"), ("config", "check"), ("forecast",)]
)
def test_a_command_that_only_reads_files_imports_neither_typer_nor_the_engine(
    cli: Cli, arguments: tuple[str, ...]
) -> None:
    cli.configure(fallbackChain={"p/a": "q/b"})
    modules = loaded(cli, "from ocwatchd.cli.main import run; run(sys.argv[1:])", *arguments)
    costly = {"typer", "click", "platformdirs", "psutil", "ocwatchd.cli.app", "ocwatchd.core.engine.messages"}
    assert not modules & costly


@pytest.mark.parametrize("arguments", [("block", "p/a", "--for", "1h"), ("clear", "q/z"), ("config", "check")])
def test_a_command_that_knows_no_prices_shares_or_forecasts_imports_none(cli: Cli, arguments: tuple[str, ...]) -> None:
    cli.configure(fallbackChain={"p/a": "q/b"})
    modules = loaded(cli, "from ocwatchd.cli.main import run; run(sys.argv[1:])", *arguments)
    costly = {"state.shared_records", "state.prices", "core.forecast.model", "core.classify.user_patterns",
              "opencode.process.program"}  # fmt: skip
    assert own(modules) & costly == set()
    assert modules & {"orjson", "subprocess", "socket"} == set()


def test_clear_and_config_check_import_neither_fallbacks_nor_what_init_needs(cli: Cli) -> None:
    cli.configure(fallbackChain={"p/a": "q/b"})
    run = "from ocwatchd.cli.main import run; run(sys.argv[1:])"
    clear, check = (own(loaded(cli, run, *words)) for words in (("clear", "p/a"), ("config", "check")))
    assert clear & {"core.fallback.targets", "core.fallback.outlook", "cli.output.views"} == set()
    assert check & {"config.starter", "config.schema"} == set()


def test_the_list_of_commands_is_typers_and_is_printed_without_typer(cli: Cli) -> None:
    quick = cli("--help", COLUMNS="80")
    assert (quick.returncode, quick.stderr) == (0, "")
    assert quick.stdout == commands(), "python -m scripts.man_pages"
    assert cli("--help", COLUMNS="200").stdout == quick.stdout
    assert max(map(len, cli("--help", COLUMNS="60").stdout.splitlines())) <= 60
    assert own(loaded(cli, "from ocwatchd.cli.main import run; run(sys.argv[1:])", "--help")) <= ALWAYS


def test_history_imports_neither_the_figures_of_explain_nor_the_hiding_of_secrets(cli: Cli) -> None:
    life = Life(cli.paths.journal, {"p/a": ["p/b"]}, time.time() - 3600)
    life.refuse("p/a", "ses_1", wait=7200)
    modules = own(loaded(cli, "from ocwatchd.cli.main import run; run(sys.argv[1:])", "history"))
    assert "cli.commands.history" in modules
    assert modules & {"core.history.metrics", "core.text.redact"} == set()


def test_an_idle_round_of_the_daemon_calls_few_functions(cli: Cli) -> None:
    """Calls are counted from the fifth wait of the loop to the eleventh, with a heartbeat or two."""
    cli.configure(fallbackChain={"p/a": "q/b"})
    code = """
import threading
from ocwatchd.config import load
from ocwatchd.daemon.loop import Daemon
from ocwatchd.paths import Paths
paths = Paths.from_env()
daemon, waits, calls = Daemon(paths, load(paths)), 0, 0
def count(frame, event, argument):
    global waits, calls
    if event == "call":
        calls += 5 <= waits < 11
        waits += frame.f_code.co_name == "_take_messages"
        if waits == 11:
            daemon.stop()
sys.setprofile(count)
daemon.run()
sys.setprofile(None)
print(calls // 6, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}"], env=cli.env, cwd=cli.paths.home, capture_output=True, timeout=60
    )
    assert int(done.stderr.split()[-1]) < MAX_CALLS, done.stderr.decode()
