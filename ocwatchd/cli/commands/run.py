"""`oc-smart` (= `ocwatch run -- …`): OpenCode as the user called it, with limited models out of its way.

This is the path of every start, so nothing that costs is imported before a limit shows: the whole of it has to stay
within 50 CPU ms. Whatever is wrong with our own files never keeps OpenCode from starting.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence

from ocwatchd.cli.places import config_file, data_directory, opencode_directories, state_file
from ocwatchd.config.names import ROOT, Names, read_names, section
from ocwatchd.config.reader import Document, read_document
from ocwatchd.core.pools import arranged
from ocwatchd.errors import ConfigError, ExitCode
from ocwatchd.launcher.arguments import Arguments
from ocwatchd.launcher.find import find_opencode, in_a_circle, mark
from ocwatchd.launcher.speech import say
from ocwatchd.state import budget
from ocwatchd.state.entries import loads_in, read_entries
from ocwatchd.state.register import Register

TYPE_CHECKING = False  # as typing has it, whose import costs 3 CPU ms
if TYPE_CHECKING:
    from typing import NoReturn

PATIENCE = 30.0
"""Seconds: `maxDelay` where none is configured."""


def main() -> None:
    """The console script `oc-smart`. Ends the process."""
    launch(sys.argv[1:], sys.argv[0])


def launch(given: Sequence[str], own: str) -> NoReturn:
    """Run OpenCode with these arguments; never returns. `own`: this script's path, never taken for OpenCode."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends us as it ends OpenCode, without a traceback
    if in_a_circle(os.environ):
        _give_up("`opencode` on PATH leads back to oc-smart; put the real one on PATH first")
    arguments = Arguments(given)
    document = _document()
    scripts = (own, f"{os.path.dirname(own)}/oc-smart")
    found = find_opencode(os.environ.get("PATH", os.defpath), scripts, configured_program(document))
    if found is None:
        _give_up("`opencode` is not on PATH; install OpenCode, or add its directory to PATH")
    names = _names(document)
    if names is not None and not arguments.has("-h", "--help", "-v", "--version"):
        from ocwatchd.launcher.launch import Launch  # late: a launcher without configuration needs none of it

        launched = Launch(found, arguments, names, lambda: _register(names), _places(), _patience(document))
        code = launched.run()
        if code is not None:
            _end(code)
        _become(found, launched.words, launched.environ)
    if "--print-env" in arguments.own:
        say("nothing would be changed: no fallback chain is configured")
        sys.exit(ExitCode.DONE)
    _become(found, arguments.words, {})


def _register(names: Names) -> Register:
    found = read_entries(state_file("blacklist.json"))
    pools = arranged(names.pools, str(os.getpid()), loads_in(found))  # no session yet that could keep a member
    now = time.time()
    return Register(found.active(now), pools, dear=budget.dear(state_file("budget.json"), now))


def _places() -> tuple[str, str, list[str]]:
    return f"{data_directory()}/log", state_file("").rstrip("/"), opencode_directories()


def _patience(document: Document | None) -> float:
    """`maxDelay` in seconds; what is wrong with it the brain says, if it is ever needed."""
    try:
        value = section(document, ROOT).get("maxDelay") if document else None
    except ConfigError:
        value = None
    return value / 1000 if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else PATIENCE


def _become(found: str, words: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    # Python ignores these; what is ignored stays so through exec, and `oc-smart … | head` would not end OpenCode.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(found, ["opencode", *words], {**os.environ, **environ, **mark(child=False)})
    except OSError as error:
        _give_up(f"{found} cannot be started: {error.strerror}")


def _end(code: int) -> NoReturn:
    """End with this code; a negative one is the signal that ended OpenCode, and ends us as well."""
    sys.stdout.flush()
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):  # whose handling nobody may change
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)  # threads that wait for a dead server must not keep us


def _document() -> Document | None:
    try:
        return read_document(config_file())
    except ConfigError as fault:
        say(f"{fault}; going on without it")
        return None


def _names(document: Document | None) -> Names | None:
    """The configured names; None if there is nothing that a model could be moved by."""
    if document is None or not document.exists:
        return None
    try:
        return read_names(document)
    except ConfigError as fault:
        say(f"{fault}; going on without it")
        return None


def configured_program(document: Document | None) -> str | None:
    """`launcher.opencode`: the program to start."""
    try:
        value = section(document, ROOT, "launcher").get("opencode") if document else None
    except ConfigError:
        return None
    return value if isinstance(value, str) and value else None


def _give_up(message: str) -> NoReturn:
    say(message)
    sys.exit(ExitCode.OPENCODE_UNREACHABLE)


if __name__ == "__main__":
    main()
