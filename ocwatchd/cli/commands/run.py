"""`oc-smart` (= `ocwatch run -- …`): start OpenCode with the user's arguments, replacing limited models.

It runs at every start of OpenCode, so it may use at most 50 ms of CPU time. Expensive modules are therefore imported
only after a limit has occurred. A fault in our own files never prevents OpenCode from starting.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence

from ocwatchd.config.names import ROOT, Names, read_names, section
from ocwatchd.config.reader import Document, read_document
from ocwatchd.core.domain.pools import arranged
from ocwatchd.errors import ConfigError, ExitCode, HomeUnknown, StateError
from ocwatchd.launcher.arguments import Arguments
from ocwatchd.launcher.find import find_opencode, in_a_circle, mark
from ocwatchd.launcher.messages_to_user import debug, say
from ocwatchd.paths import cache_file, config_file, data_directory, home, opencode_directories, state_file
from ocwatchd.state import budget
from ocwatchd.state.blacklist.format import loads_in, read_entries
from ocwatchd.state.blacklist.query import CooldownTable

TYPE_CHECKING = False  # defined here because importing it from typing costs 3 ms of CPU time
if TYPE_CHECKING:
    from pathlib import Path
    from typing import NoReturn

MAX_DELAY = 30.0
"""The default value of `maxDelay`, in seconds."""


HELP = """\
oc-smart starts OpenCode with limited models replaced by their fallbacks. Its own options:

  --no-fallback  never change the model
  --wait         if every model is cooling down, wait until one is available (otherwise: exit code 75)
  --print-env    print what would be changed, and start nothing

All other arguments are passed to OpenCode, whose own help follows.
"""


def main() -> None:
    """Run the console script `oc-smart`, then end the process."""
    launch(sys.argv[1:], sys.argv[0])


def launch(given: Sequence[str], own: str) -> NoReturn:
    """Run OpenCode with the arguments `given`, and never return.

    `own` is the path of this script, which must not be started in place of OpenCode.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # With the default handler, Ctrl-C terminates this process without a traceback, as it terminates OpenCode.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.environ.get("OCWATCHD_LOG"):
        from ocwatchd import own_log  # lazy import: `logging` costs 5 ms of CPU time

        own_log.set_up()
    if in_a_circle(os.environ):
        _give_up("`opencode` on PATH is oc-smart itself. Put the real OpenCode's directory first on PATH")
    try:
        home()
    except HomeUnknown as fault:
        # Without HOME, OpenCode would use the home directory from the password database, which may be a different one.
        _give_up(str(fault), fault.exit_code)
    arguments = Arguments(given)
    document = _document()
    scripts = (own, f"{os.path.dirname(own)}/oc-smart")
    # printed on standard error, because OpenCode prints its own help on standard output
    if arguments.has("-h", "--help"):
        print(HELP, file=sys.stderr, flush=True)
    found = find_opencode(os.environ.get("PATH", os.defpath), scripts, configured_program(document))
    if found is None:
        _give_up("`opencode` is not on PATH. Install OpenCode, or add its directory to PATH")
    debug(f"OpenCode is {found}")
    names = _names(document) if _state_is_ours() else None
    if names is not None and not arguments.has("-h", "--help", "-v", "--version"):
        from ocwatchd.launcher.launch import Launch  # lazy import: not needed without a configuration

        launched = Launch(found, arguments, names, lambda: _cooldowns(names), _places(), _patience(document))
        code = launched.run()
        if code is not None:
            _end(code)
        _become(found, launched.words, launched.environ)
    if "--print-env" in arguments.own:
        say("nothing would be changed: no usable fallback chain is configured")
        sys.exit(ExitCode.DONE)
    _become(found, arguments.words, {})


def _state_is_ours() -> bool:
    """Return whether the cooldowns can be used. If not, print the reason; OpenCode then starts with its own models."""
    try:
        found = read_entries(state_file("blacklist.json"))
        if found.closed:
            say("; ".join(found.problems()))
    except StateError as fault:
        say(f"{fault}. Starting OpenCode without fallbacks")
        return False
    return True


def _cooldowns(names: Names) -> CooldownTable:
    found = read_entries(state_file("blacklist.json"))
    # no session exists yet, so the process id takes the place of a session id
    pools = arranged(names.pools, str(os.getpid()), loads_in(found))
    now = time.time()
    return CooldownTable(found.active(now), pools, over_budget=budget.over_budget(state_file("budget.json"), now))


def _places() -> tuple[str, str, list[str], str]:
    return f"{data_directory()}/log", state_file("").rstrip("/"), opencode_directories(), cache_file("programs.json")


def _patience(document: Document | None) -> float:
    """Return `maxDelay` in seconds, or the default if it is not valid. The error is reported when a limit occurs."""
    try:
        value = section(document, ROOT).get("maxDelay") if document else None
    except ConfigError:
        value = None
    return value / 1000 if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else MAX_DELAY


def _become(found: str, words: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    # Python ignores these signals, and a program that is started by exec would ignore them as well. Without the reset,
    # `oc-smart … | head` would not end OpenCode.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(found, ["opencode", *words], {**os.environ, **environ, **mark(child=False)})
    except OSError as error:
        _give_up(f"{found} cannot be started: {error.strerror}")


def _end(code: int) -> NoReturn:
    """End the process with this exit code. A negative code is the negated number of the signal that ended OpenCode; end
    this process with the same signal.
    """
    sys.stdout.flush()
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):  # the handlers of these signals cannot be changed
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 0xFF)  # threads that wait for a dead server must not delay the exit


def _document() -> Document | None:
    try:
        return read_document(config_file())
    except ConfigError as fault:
        say(f"{fault}. Starting OpenCode without fallbacks")
        return None


def _names(document: Document | None) -> Names | None:
    """Return the configured chains, pools and names, or None if there is no usable configuration."""
    if document is None or not document.exists:
        return None
    try:
        return read_names(document)
    except ConfigError as fault:
        say(f"{fault}. Starting OpenCode without fallbacks")
        return None


def configured_program(document: Document | None) -> str | None:
    """Return `launcher.opencode`, the program to start, or None if it is not set."""
    try:
        value = section(document, ROOT, "launcher").get("opencode") if document else None
    except ConfigError:
        return None
    return value if isinstance(value, str) and value else None


def installed_opencode() -> Path | None:
    """Return the path of the OpenCode program that `oc-smart` would start, or None if there is none."""
    from pathlib import Path  # lazy import: used only by commands that do not start OpenCode this way

    try:
        configured = configured_program(read_document(config_file()))
    except ConfigError:  # `ocwatch doctor` reports this error
        configured = None
    scripts = (sys.argv[0], str(Path(sys.argv[0]).with_name("oc-smart")))
    found = find_opencode(os.environ.get("PATH", os.defpath), scripts, configured)
    return Path(found).absolute() if found else None


def _give_up(message: str, code: int = ExitCode.OPENCODE_UNREACHABLE) -> NoReturn:
    say(message)
    sys.exit(code)


if __name__ == "__main__":
    main()
