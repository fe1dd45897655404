"""`ocwatch __complete KIND`: print the names that completion offers, one per line.

It imports few modules, because it runs whenever the user presses Tab.
"""

from __future__ import annotations

from collections.abc import Iterator

from ocwatchd.cli.output.render import say
from ocwatchd.config.names import read_names
from ocwatchd.config.reader import read_document
from ocwatchd.core.domain.chains import models_in, normalise
from ocwatchd.errors import ConfigError, ExitCode, OcwatchError
from ocwatchd.paths import config_file, state_file
from ocwatchd.state import heartbeat
from ocwatchd.state.blacklist.format import read_entries
from ocwatchd.state.safe_read import last_lines


def complete(kind: str) -> int:
    """Print the names of this kind: `models`, `sessions` or `ids`.

    Errors are not printed, because they would appear in the command line that the user is typing.
    """
    found = {"models": _models, "sessions": _sessions, "ids": _ids}.get(kind)
    try:
        names = dict.fromkeys(found() if found else ())
    except OcwatchError:  # HOME is not set, or the state directory belongs to another user
        return ExitCode.DONE
    for name in names:
        if _offered(name):
            say(name)
    return ExitCode.DONE


def _offered(name: str) -> bool:
    """Return whether the name can be completed safely in every shell.

    A name that begins with a dash would act as an option (for example, a session titled `--force` after `restart`), and
    fish (3.6) does not quote a leading `~`. Model names never contain blanks, quotes, `$` or backslashes.
    """
    return name.isprintable() and not name.startswith(("-", "~")) and not set(name) & set(" '\"\\$`")


def _models() -> Iterator[str]:
    yield from read_entries(state_file("blacklist.json")).entries
    try:
        names = read_names(read_document(config_file()))
    except ConfigError:
        return
    yield from names.known
    for pool in names.pools.values():
        yield from pool.members
    yield from (model for model in models_in(normalise(names.chains, names.aliases)) if "/" in model)


def _sessions() -> Iterator[str]:
    for known in heartbeat.read(state_file("daemon.json")).sessions:
        yield str(known.get("session", ""))
    for line in reversed(last_lines(state_file("journal.jsonl"))):
        session = line.get("session")
        if isinstance(session, str):
            yield session


def _ids() -> Iterator[str]:
    for line in reversed(last_lines(state_file("journal.jsonl"))):
        yield str(line.get("id", ""))[13:19]
    yield from _sessions()
