"""`ocwatch pick [MODEL]`: print the model to use now. It imports few modules, because scripts call it before every
prompt.
"""

from __future__ import annotations

import os
import time

from ocwatchd.cli.output.escape import escape
from ocwatchd.cli.output.render import iso, say, say_json, warn
from ocwatchd.config.names import Names, is_model, known, read_names
from ocwatchd.config.reader import read_document
from ocwatchd.core.domain.chains import NO_POOLS, Fallbacks, Members, models_in, resolve
from ocwatchd.errors import AllCooling, ExitCode, UsageError
from ocwatchd.paths import config_file, opencode_directories, state_file
from ocwatchd.state import budget
from ocwatchd.state.blacklist.format import Contents, loads_in, read_entries
from ocwatchd.state.blacklist.query import CooldownTable


def pick(
    model: str | None = None,
    as_json: bool = False,
    session: str | None = None,
    force: bool = False,
    agent: str | None = None,
) -> int:
    """Print the model to use now: `model` itself if it is available, otherwise its first available fallback.

    `model` defaults to OpenCode's default model. Fallbacks that cannot continue `session` are skipped. The chain of
    `agent` is tried first. `force`: whether to accept a model that OpenCode does not offer.

    Raises:
        AllCooling: The model and all its fallbacks are cooling down; the message says until when.
        UsageError: The model does not exist, or `model` is None and OpenCode has no default model.
        ConfigError: A configuration cannot be read.
    """
    now = time.time()
    document = read_document(config_file())
    names = read_names(document)
    asked = resolve(model or _default(), names.aliases)
    if (not is_model(asked) or asked.endswith("/*")) and asked not in names.pools:
        if not document.exists:
            raise UsageError(
                f"{asked!r} is not of the form provider/model, and there is no configuration yet that could contain "
                "such a name. To create one: ocwatch up"
            )
        aliases = known(asked, names.known)
        raise UsageError(
            f"{asked!r} is neither provider/model nor a name in `models` or `pools` of {config_file()} ({aliases})"
        )
    listed = read_entries(state_file("blacklist.json"))
    if listed.closed:
        warn(escape("; ".join(listed.problems())))
    known_names = _known(names, listed)
    if model is not None and not force and asked not in known_names:
        # lazy import: not needed if the model is in a configured chain, as it usually is
        from ocwatchd.cli.model_check import refuse_unknown

        refuse_unknown(asked, known_names)
    # An existing session keeps its pool member. Here no session exists yet, so each call may select a different member.
    pools = _members(names, f"{os.getpid()} {now}", listed) if names.pools else NO_POOLS
    unfit = _misfits(session, listed.raw) if session else {}
    cooldowns = CooldownTable(listed.active(now), pools, unfit, budget.over_budget(state_file("budget.json"), now))
    found = cooldowns.select(asked, Fallbacks(names.chains, names.aliases, names.agents, names.pools), (), agent)
    picked, passed = found.model, found.refused
    ends = [(entry.end, name) for name in (asked, *found.passed) if (entry := cooldowns.blocking(name))]
    if as_json:
        until, soonest = min(ends, default=(None, None))
        say_json({
            "time": iso(now), "asked": asked, "model": picked, "cooling": _is_cooling(asked, cooldowns),
            "soonest": None if picked or until in (None, float("inf")) else {"model": soonest, "until": iso(until)},
            "passed": [{"model": name, "why": why} for name, why in passed],
        })  # fmt: skip
    if picked is None:
        beside = "".join(f"; {name} is available, but skipped: {why}" for name, why in passed)
        raise AllCooling(_exhausted(asked, ends, now) + beside)
    if not as_json:
        say(picked)
    return ExitCode.DONE


def _known(names: Names, listed: Contents) -> set[str]:
    """Return the models that need no check for typos: those in the configuration, and those that are cooling down."""
    chained = models_in(names.chains)
    members = {member for pool in names.pools.values() for member in pool.members}
    return {*chained, *members, *names.aliases.values(), *names.agents, *names.pools, *listed.entries}


def _misfits(session: str, blacklist: dict[str, object]) -> dict[str, str]:
    from ocwatchd.cli.sessions import whole_id
    from ocwatchd.launcher.capability_check import misfits  # lazy import: not needed if no session is named
    from ocwatchd.opencode.sessions.message_store import SessionStore
    from ocwatchd.paths import Paths

    return misfits(blacklist, SessionStore(Paths.from_env().opencode_data).messages(whole_id(session)))


def _members(names: Names, asker: str, found: Contents) -> Members:
    from ocwatchd.core.domain.pools import arranged  # lazy import: needed only if pools are configured

    return arranged(names.pools, asker, loads_in(found))


def _is_cooling(asked: str, cooldowns: CooldownTable) -> bool:
    """Return whether the model, or every member of the pool, is cooling down."""
    return all(map(cooldowns.limited, cooldowns.pools.get(asked, (asked,))))


def _default() -> str:
    from ocwatchd.config.opencode_config import (  # lazy import: not needed if the user names a model
        default_model,
        global_files,
        merged,
        project_files,
    )

    files = [*global_files(opencode_directories()[:1], os.environ), *project_files(os.getcwd())]
    files += global_files(opencode_directories()[1:], {})
    found = default_model(merged(files, os.environ), os.environ)
    if found is None:
        raise UsageError("OpenCode's configuration has no default model. Name one: ocwatch pick PROVIDER/MODEL")
    return found


def _exhausted(asked: str, ends: list[tuple[float, str]], now: float) -> str:
    known = [(end, name) for end, name in ends if end != float("inf")]
    if not known:
        from shlex import quote  # lazy import: rarely needed

        clear = f"ocwatch clear {quote(asked)}"
        return f"{asked} and all its fallbacks are cooling down until you clear them: {clear}"
    from ocwatchd.time_words import when  # lazy import: not needed while a model is available

    until, name = min(known)
    back = f"{name} is available again at {when(until, now)}"
    return f"{asked} and all its fallbacks are cooling down; {back}"
