"""`ocwatch block` and `ocwatch clear`: a person's word on a model, written to the register, daemon or not."""

from __future__ import annotations

import time
from difflib import get_close_matches

from ocwatchd.cli.escape import escape
from ocwatchd.cli.places import config_file
from ocwatchd.cli.render import clock, iso, say_json, span, tell, warn
from ocwatchd.cli.times import moment_of, seconds_of
from ocwatchd.cli.views import cooldown_view
from ocwatchd.config import load
from ocwatchd.config.names import is_model, known, read_names
from ocwatchd.config.reader import read_document
from ocwatchd.core import notes
from ocwatchd.core.chains import resolve
from ocwatchd.core.fallback import Chosen, choose
from ocwatchd.core.ledger import Cooldown, Ledger
from ocwatchd.core.limits import ModelRef, Target
from ocwatchd.core.messages import Note
from ocwatchd.core.outlook import Outlook
from ocwatchd.core.policy import Policy
from ocwatchd.errors import ConfigError, ExitCode, UsageError
from ocwatchd.paths import Paths
from ocwatchd.state import blacklist, prices
from ocwatchd.state.entries import check_entry, check_key
from ocwatchd.state.files import StateError
from ocwatchd.state.journal import Journal


def block(model: str, lasting: str | None = None, until: str | None = None, as_json: bool = False) -> int:
    """Let nobody use `model` until then; without a time, until it is cleared.

    Raises:
        UsageError: no such model or time, or both times at once.
        StateError: the register cannot be written.
    """
    now = time.time()
    if lasting is not None and until is not None:
        raise UsageError("--for and --until exclude each other")
    end = now + seconds_of(lasting) if lasting is not None else moment_of(until, now) if until is not None else None
    refs, paths = named_all(model), Paths.from_env()
    policy = _policy(paths)
    outlook = Outlook(purse=prices.purse(paths.prices, paths.budget, policy.budget, now))

    def change(entries: blacklist.Cooldowns) -> blacklist.Cooldowns:
        ledger = Ledger(entries.values())
        for ref in refs:
            ledger.block(ref, end, now)
        for ref in refs:
            ledger.aim(ref, _stand_in(ref, ledger, policy, outlook, now))
        return {entry.model: entry for entry in ledger.entries()}

    snapshot = blacklist.update(paths.blacklist, change, now)
    _warn(snapshot)
    entries = [snapshot.cooldowns[ref] for ref in refs]
    _journal(paths, [notes.blocked(entry) for entry in entries])
    if as_json:
        views = [cooldown_view(str(e.model), check_entry(str(e.model), blacklist.to_json(e)), now) for e in entries]
        more = {"members": [view.as_json() for view in views]} if len(views) > 1 else {}
        say_json({"time": iso(now), "blocked": views[0].as_json(), **more})
    else:
        for entry in entries:
            tell(_blocked_text(entry, now))
            _doubt(str(entry.model), policy)
    return ExitCode.DONE


def clear(model: str | None = None, everything: bool = False, as_json: bool = False) -> int:
    """Forget that `model` rests, or that any does. Not listed is no fault.

    Raises:
        UsageError: neither or both of `model` and `everything`, or no such model.
        StateError: the register cannot be written.
    """
    now = time.time()
    if (model is None) == (not everything):
        raise UsageError("name a MODEL to clear, or --all")
    refs = () if model is None else named_all(model)
    cleared: list[ModelRef] = []

    def change(entries: blacklist.Cooldowns) -> blacklist.Cooldowns:
        cleared.extend(key for key in entries if everything or key in refs)
        return {key: entry for key, entry in entries.items() if key not in cleared}

    paths = Paths.from_env()
    snapshot = blacklist.update(paths.blacklist, change, now)
    _warn(snapshot)
    _journal(paths, [notes.cleared(key) for key in cleared])
    ended = [str(key) for key in cleared]
    active = [entry for entry in snapshot.entries() if entry.active(now)]
    left = [str(entry.model) for entry in active if any(map(entry.covers, refs))]
    if as_json:
        say_json({"time": iso(now), "cleared": ended, "still_blocked_by": left})
    else:
        tell(_cleared_text(f"{refs[0]}" if len(refs) == 1 else model, ended, left))
    return ExitCode.DONE


def named_all(model: str) -> tuple[ModelRef, ...]:
    """The model that a person means; of a pool all its members.

    Raises:
        UsageError: no such name.
    """
    name = model.strip()
    if not is_model(name):
        names = read_names(read_document(config_file()))
        pool = names.pools.get(resolve(name, names.aliases))
        if pool is not None:
            return tuple(map(ModelRef.parse, pool.members))
    return (named(model),)


def named(model: str) -> ModelRef:
    """The model that a person means: `provider/model`, `provider/*`, or an alias from the configuration.

    Raises:
        UsageError: none of these.
    """
    name = model.strip()
    if not is_model(name):
        names = read_names(read_document(config_file()))
        if name not in names.aliases:
            kinds = "provider/model, provider/* nor a name from `models` or `pools`"
            raise UsageError(f"{model!r} is neither {kinds} ({known(name, names.known)})")
        name = resolve(name, names.aliases)
    try:
        check_key(name)
    except ValueError as fault:
        raise UsageError(f"{model!r}: {fault}") from None
    return ModelRef.parse(name)


def _doubt(name: str, policy: Policy) -> None:
    """A remark where the name looks like a slip: any name can be blocked, so the register takes it all the same."""
    chained = {model for key, chain in policy.chains.items() for model in (key, *chain)}
    chained |= {member for pool in policy.pools.values() for member in pool.members}
    near = [] if name in chained else get_close_matches(name, chained, 1, 0.85)
    if near:
        warn(escape(f"no chain names {name}; did you mean {near[0]}? To undo it: ocwatch clear {name}"))


def _policy(paths: Paths) -> Policy:
    try:
        return load(paths).policy
    except ConfigError as fault:  # a person who blocks a model in a hurry must not be held up by a comma
        warn(f"no stand-in is written down: {escape(str(fault))}")
        return Policy()


def _stand_in(ref: ModelRef, ledger: Ledger, policy: Policy, outlook: Outlook, now: float) -> Target | None:
    choice = choose(ref, None, policy, lambda model: ledger.cooling(model, now) is not None, outlook=outlook)
    return choice.target if isinstance(choice, Chosen) else None


def _journal(paths: Paths, news: list[Note]) -> None:
    try:
        for note in news:
            Journal(paths.journal).append({"what": note.what, **note.fields, "by": "hand"})
    except StateError as fault:  # the register is written: that is what was asked for
        warn(escape(f"done, but not in the history: {fault}"))


def _warn(snapshot: blacklist.Snapshot) -> None:
    for problem in snapshot.problems:
        warn(escape(problem))


def _blocked_text(entry: Cooldown, now: float) -> str:
    end = "until cleared" if entry.until is None else f"until {clock(entry.until, now)} ({span(entry.until - now)})"
    instead = f"; {entry.target.model} stands in" if entry.target else ""
    return escape(f"{entry.model} is blocked {end}{instead}.")


def _cleared_text(name: str | None, cleared: list[str], left: list[str]) -> str:
    if name is None:
        return escape("\n".join(f"{key} is cleared." for key in cleared)).replace(r"\n", "\n") or "Nothing was listed."
    still = f" It stays blocked by {', '.join(left)}." if left else ""
    return escape(f"{name} {'is cleared' if cleared else 'was not listed'}.{still}")
