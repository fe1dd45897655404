"""`ocwatch pick [MODEL]`: the model to use now. Imports nothing that costs: scripts call it before every prompt."""

from __future__ import annotations

import os
import time

from ocwatchd.cli.places import config_file, opencode_directories, state_file
from ocwatchd.cli.render import iso, say, say_json, span
from ocwatchd.config.names import Names, is_model, known, read_names
from ocwatchd.config.reader import read_document
from ocwatchd.core.chains import NO_POOLS, Members, candidates, normalise, resolve
from ocwatchd.errors import AllCooling, ExitCode, UsageError
from ocwatchd.state import budget
from ocwatchd.state.entries import Contents, loads_in, read_entries
from ocwatchd.state.register import Register


def pick(model: str | None = None, as_json: bool = False, session: str | None = None) -> int:
    """Say which model to use now instead of `model`, or of OpenCode's default model: itself if it is free.

    With a `session`, stand-ins that could not take it as it stands are passed over.

    Raises:
        AllCooling: it and everything that stands in for it rest; says until when.
        UsageError: no model was named and OpenCode has no default, or the name is none.
        ConfigError: a configuration cannot be read.
    """
    now = time.time()
    names = read_names(read_document(config_file()))
    asked = resolve(model or _default(), names.aliases)
    if (not is_model(asked) or asked.endswith("/*")) and asked not in names.pools:
        aliases = known(asked, names.known)
        raise UsageError(
            f"{asked!r} is neither provider/model nor a name from `models` or `pools` in {config_file()} ({aliases})"
        )
    found = read_entries(state_file("blacklist.json"))
    # There is no session yet that could keep a member: whoever asks next gets another one.
    pools = _members(names, f"{os.getpid()} {now}", found) if names.pools else NO_POOLS
    unfit = _misfits(session, found.raw) if session else {}
    register = Register(found.active(now), pools, unfit, budget.dear(state_file("budget.json"), now))
    stand_ins = list(candidates(asked, normalise(names.chains, names.aliases), pools))
    picked = register.pick(asked, stand_ins)
    passed = register.passed_over(picked, stand_ins) if picked != asked else []
    ends = [(entry.end, name) for name in (asked, *stand_ins) if (entry := register.blocking(name))]
    if as_json:
        until, soonest = min(ends, default=(None, None))
        say_json({
            "time": iso(now), "asked": asked, "model": picked, "cooling": _rests(asked, register),
            "soonest": None if picked or until in (None, float("inf")) else {"model": soonest, "until": iso(until)},
            "passed": [{"model": name, "why": why} for name, why in passed],
        })  # fmt: skip
    if picked is None:
        beside = "".join(f"; {name} is free: {why}" for name, why in passed)
        raise AllCooling(_exhausted(asked, ends, now) + beside)
    if not as_json:
        say(picked)
    return ExitCode.DONE


def _misfits(session: str, register: dict[str, object]) -> dict[str, str]:
    from ocwatchd.launcher.fitting import misfits  # late: scripts that name no session pay nothing for it
    from ocwatchd.opencode.sessions import SessionStore
    from ocwatchd.paths import Paths

    return misfits(register, SessionStore(Paths.from_env().opencode_data).messages(session))


def _members(names: Names, asker: str, found: Contents) -> Members:
    from ocwatchd.core.pools import arranged  # late: most have no pools

    return arranged(names.pools, asker, loads_in(found))


def _rests(asked: str, register: Register) -> bool:
    """A model that is limited, or a pool of which all members are."""
    return all(map(register.limited, register.pools.get(asked, (asked,))))


def _default() -> str:
    from ocwatchd.config.opencode import default_model, global_files, merged, project_files  # late: only needed here

    files = [*global_files(opencode_directories()[:1], os.environ), *project_files(os.getcwd())]
    files += global_files(opencode_directories()[1:], {})
    found = default_model(merged(files, os.environ), os.environ)
    if found is None:
        raise UsageError("OpenCode's configuration names no model; name one: ocwatch pick PROVIDER/MODEL")
    return found


def _exhausted(asked: str, ends: list[tuple[float, str]], now: float) -> str:
    known = [(end, name) for end, name in ends if end != float("inf")]
    if not known:
        return f"{asked} and everything that stands in for it rest until a person clears them: ocwatch clear {asked}"
    until, name = min(known)
    back = f"{name} is back at {iso(until)} (in {span(until - now)})"
    return f"{asked} and everything that stands in for it are cooling; {back}"
