"""`ocwatch __complete KIND`: the names that completion offers, one a line. Runs at every Tab, so it imports little."""

from __future__ import annotations

from collections.abc import Iterator

from ocwatchd.cli.places import config_file, state_file
from ocwatchd.cli.recent import last_lines
from ocwatchd.cli.render import say
from ocwatchd.config.names import read_names
from ocwatchd.config.reader import read_document
from ocwatchd.core.chains import normalise
from ocwatchd.errors import ConfigError, ExitCode
from ocwatchd.state import heartbeat
from ocwatchd.state.entries import read_entries


def complete(kind: str) -> int:
    """Print what may stand for `kind`; nothing where there is nothing, or something is wrong: a Tab never complains."""
    found = {"models": _models, "sessions": _sessions, "ids": _ids}.get(kind)
    for name in dict.fromkeys(found() if found else ()):
        if name.isprintable() and not set(name) & set(" '\"\\$`"):
            say(name)
    return ExitCode.DONE


def _models() -> Iterator[str]:
    yield from read_entries(state_file("blacklist.json")).entries
    try:
        names = read_names(read_document(config_file()))
    except ConfigError:
        return
    yield from names.known
    for pool in names.pools.values():
        yield from pool.members
    for name, chain in normalise(names.chains, names.aliases).items():
        yield from (model for model in (name, *chain) if "/" in model)


def _sessions() -> Iterator[str]:
    for known in heartbeat.read(state_file("daemon.json")).sessions:
        yield str(known.get("session", ""))
    for line in reversed(last_lines()):
        session = line.get("session")
        if isinstance(session, str):
            yield session


def _ids() -> Iterator[str]:
    for line in reversed(last_lines()):
        yield str(line.get("id", ""))[13:19]
    yield from _sessions()
