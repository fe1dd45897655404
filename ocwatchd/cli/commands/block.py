"""`ocwatch block` and `ocwatch clear`: write cooldowns to the blacklist, whether or not the daemon is running."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from shlex import quote

from ocwatchd.cli.model_check import refuse_unknown
from ocwatchd.cli.output.escape import escape
from ocwatchd.cli.output.render import iso, say_json, tell, warn
from ocwatchd.cli.times import moment_of, seconds_of
from ocwatchd.config import load
from ocwatchd.config.names import is_model, known, read_names
from ocwatchd.config.reader import read_document
from ocwatchd.core.domain.budget import DayBudget
from ocwatchd.core.domain.chains import models_in, resolve
from ocwatchd.core.domain.cooldowns import Cooldown, Cooldowns, blocked_line, cleared_line
from ocwatchd.core.domain.types import ModelRef
from ocwatchd.core.policy import Policy
from ocwatchd.errors import ConfigError, ExitCode, UsageError
from ocwatchd.paths import Paths, config_file
from ocwatchd.state.blacklist import store as blacklist
from ocwatchd.state.blacklist.format import check_key
from ocwatchd.state.files import StateError
from ocwatchd.state.journal import Journal
from ocwatchd.time_words import when

MAX_COMMANDS = 10
"""Maximum number of commands printed for the models of one provider."""


def block(
    model: str, lasting: str | None = None, until: str | None = None, as_json: bool = False, force: bool = False
) -> int:
    """Block `model` for the duration `lasting` or until the time `until`. If neither is given, the block lasts until it
    is cleared.

    `force`: whether to accept a model that OpenCode does not offer.

    Raises:
        UsageError: The model or the time is not valid, or both times are given.
        StateError: The blacklist cannot be written.
    """
    from ocwatchd.core.fallback.outlook import Outlook  # lazy import: `clear` needs no fallbacks (8 ms of CPU time)
    from ocwatchd.core.fallback.targets import Targets  # lazy import: as above

    now = time.time()
    if lasting is not None and until is not None:
        raise UsageError("use either --for or --until, not both")
    end = now + seconds_of(lasting) if lasting is not None else moment_of(until, now) if until is not None else None
    refs, paths = named_all(model), Paths.from_env()
    policy = _policy(paths)
    if not force:
        for ref in refs:
            refuse_unknown(str(ref), known_names(policy, blacklist.read(paths.blacklist).entries()))
    outlook = Outlook(day_budget=_day_budget(paths, policy.budget, now))

    def change(entries: blacklist.Entries) -> blacklist.Entries:
        cooldowns = Cooldowns(entries.values())
        for ref in refs:
            cooldowns.block(ref, end, now)
        Targets(policy, cooldowns, outlook, now).point(refs)
        return {entry.model: entry for entry in cooldowns.entries()}

    snapshot = blacklist.update(paths.blacklist, change, now)
    _warn(snapshot)
    entries = [snapshot.cooldowns[ref] for ref in refs]
    _journal(paths, [blocked_line(entry) for entry in entries])
    if as_json:
        _say_blocked(entries, now)
    else:
        for entry in entries:
            tell(_blocked_text(entry, now))
            _doubt(str(entry.model), policy)
    return ExitCode.DONE


def _say_blocked(entries: Sequence[Cooldown], now: float) -> None:
    from ocwatchd.cli.output.views import cooldown_view  # lazy import: needed only for --json
    from ocwatchd.state.blacklist.format import check_entry  # lazy import: needed only for --json

    views = [cooldown_view(str(e.model), check_entry(str(e.model), blacklist.to_json(e)), now) for e in entries]
    more = {"members": [view.as_json() for view in views]} if len(views) > 1 else {}
    say_json({"time": iso(now), "blocked": views[0].as_json(), **more})


def clear(model: str | None = None, everything: bool = False, as_json: bool = False, force: bool = False) -> int:
    """End the cooldown of `model`, or all cooldowns if `everything` is set. It is not an error if a model has no
    cooldown.

    `force`: whether to accept a model that OpenCode does not offer.

    Raises:
        UsageError: Neither or both of `model` and `everything` are given, or the model does not exist.
        StateError: The blacklist cannot be written.
    """
    now = time.time()
    if model is not None and everything:
        raise UsageError("use either MODEL or --all, not both")
    if model is None and not everything:
        raise UsageError("name a MODEL to clear, or use --all")
    refs = () if model is None else named_all(model)
    cleared: list[ModelRef] = []

    def change(entries: blacklist.Entries) -> blacklist.Entries:
        cleared.extend(key for key in entries if everything or key in refs)
        return {key: entry for key, entry in entries.items() if key not in cleared}

    paths = Paths.from_env()
    if not force:
        _refuse_misspelt(refs, paths)
    # The clear is recorded before the blacklist changes. Otherwise, `ocwatch share` would conclude from the missing
    # entry that the model answers again.
    try:
        if paths.share.is_dir():
            from ocwatchd.state.shared_records import note_clear  # lazy import: 15 ms of CPU time, and rarely needed

            note_clear(paths.share, ("*",) if everything else map(str, refs), now)
    except StateError as fault:
        warn(escape(f"other machines will not be informed that the cooldown was cleared: {fault}"))
    snapshot = blacklist.update(paths.blacklist, change, now, whole=everything)
    _warn(snapshot)
    _journal(paths, [cleared_line(key) for key in cleared])
    ended = [*map(str, cleared), *snapshot.removed]
    active = [entry for entry in snapshot.entries() if entry.active(now)]
    left = [str(entry.model) for entry in active if any(map(entry.covers, refs))]
    if as_json:
        say_json({"time": iso(now), "cleared": ended, "still_blocked_by": left})
    else:
        tell(_cleared_text(f"{refs[0]}" if len(refs) == 1 else model, ended, left, is_pool=len(refs) > 1))
        _name_its_models(refs, [str(entry.model) for entry in active])
        if model is not None and not ended and not left:
            _name_the_nearest(refs, [str(entry.model) for entry in active])
    return ExitCode.DONE


def _refuse_misspelt(refs: Iterable[ModelRef], paths: Paths) -> None:
    """Raise an error if a model has no cooldown, is in no chain, and is not offered by OpenCode.

    Without this check, ocwatch would report success for a misspelled model name.
    """
    cooling = blacklist.read(paths.blacklist).entries()
    unknown = [ref for ref in refs if not any(entry.model == ref for entry in cooling)]
    if unknown:
        known_ones = known_names(_policy_or_none(paths), cooling)
        for ref in unknown:
            refuse_unknown(str(ref), known_ones)


def named_all(model: str) -> tuple[ModelRef, ...]:
    """Return the models that the user named: one model, or all members of a pool.

    Raises:
        UsageError: The name is neither a model nor an alias or pool in the configuration.
    """
    name = model.strip()
    if not is_model(name):
        names = read_names(read_document(config_file()))
        pool = names.pools.get(resolve(name, names.aliases))
        if pool is not None:
            return tuple(map(ModelRef.parse, pool.members))
    return (named(model),)


def named(model: str) -> ModelRef:
    """Return the model that the user named: `provider/model`, `provider/*`, or an alias from the configuration.

    Raises:
        UsageError: The name is none of these.
    """
    name = model.strip()
    if not is_model(name):
        document = read_document(config_file())
        names = read_names(document)
        if not document.exists:
            raise UsageError(
                f"{model!r} is not of the form provider/model or provider/*, and there is no configuration yet that "
                "could contain such a name. To create one: ocwatch up"
            )
        if name not in names.aliases:
            kinds = "provider/model, provider/* nor a name in `models` or `pools`"
            raise UsageError(f"{model!r} is neither {kinds} of the configuration ({known(name, names.known)})")
        name = resolve(name, names.aliases)
    try:
        check_key(name)
    except ValueError as fault:
        raise UsageError(f"{model!r}: {fault}") from None
    return ModelRef.parse(name)


def _day_budget(paths: Paths, budget: float | None, now: float) -> DayBudget:
    if budget is None:
        return DayBudget()
    from ocwatchd.state import prices  # lazy import: 8 ms of CPU time, and needed only for a budget

    return prices.day_budget(paths.prices, paths.budget, budget, now)


def _doubt(name: str, policy: Policy) -> None:
    """Warn if the name looks like a typo. Any name can be blocked, so this is not an error."""
    chained = _chained(policy)
    if name in chained:
        return
    from difflib import get_close_matches  # lazy import: 5 ms of CPU time

    near = get_close_matches(name, chained, 1, 0.85)
    if near:
        warn(escape(f"no chain contains {name}. Did you mean {near[0]}? To undo this: ocwatch clear {quote(name)}"))


def known_names(policy: Policy, cooling: Iterable[Cooldown]) -> set[str]:
    """Return the models that need no check for typos: those in chains and pools, and those that are cooling down."""
    return _chained(policy) | {str(entry.model) for entry in cooling}


def _chained(policy: Policy) -> set[str]:
    return {*models_in(policy.chains)} | {member for pool in policy.pools.values() for member in pool.members}


def _name_the_nearest(refs: Iterable[ModelRef], cooling: list[str]) -> None:
    """Print a warning that suggests models whose names are similar to those in `refs`. Only models that are cooling
    down are suggested.
    """
    from difflib import get_close_matches  # lazy import: 5 ms of CPU time

    near = {near for ref in refs for near in get_close_matches(str(ref), cooling, 1, 0.85)}
    if near:
        warn(escape(f"did you mean {' or '.join(sorted(near))}, which is cooling down?"))


def _name_its_models(refs: Iterable[ModelRef], cooling: Iterable[str]) -> None:
    """After a clear of a whole provider, print commands that clear its models. Their cooldowns are separate entries, so
    the clear does not end them.
    """
    for ref in refs:
        names = [name for name in cooling if name.startswith(f"{ref.provider}/") and name != str(ref)]
        if ref == ref.whole_provider and names:
            commands = [f"  ocwatch clear {quote(name)}" for name in names[:MAX_COMMANDS]]
            more = len(names) - len(commands)
            remark = [f"  # {more} more. To list them: ocwatch cooldowns"] if more else []
            head = f"Models of {ref.provider} are still cooling down. To clear them:"
            tell("\n".join(map(escape, [head, *commands, *remark])))


def _policy_or_none(paths: Paths) -> Policy:
    """Return the configured policy, or an empty one if the configuration cannot be used."""
    try:
        return load(paths).policy
    except ConfigError:
        return Policy()


def _policy(paths: Paths) -> Policy:
    try:
        return load(paths).policy
    except ConfigError as fault:  # a syntax error in the configuration must not keep the user from blocking a model
        warn(f"the model is now blocked, but without a fallback: {escape(str(fault))}")
        return Policy()


def _journal(paths: Paths, news: list[dict[str, object]]) -> None:
    try:
        for note in news:
            Journal(paths.journal).append({**note, "by": "hand"})
    except StateError as fault:  # the command has not failed: the blacklist, which matters most, is already written
        warn(escape(f"done, but not recorded in the history: {fault}"))


def _warn(snapshot: blacklist.Snapshot) -> None:
    for problem in snapshot.problems:
        warn(escape(problem))


def _blocked_text(entry: Cooldown, now: float) -> str:
    end = "until cleared" if entry.until is None else f"until {when(entry.until, now)}"
    instead = f"; the fallback is {entry.target.model}" if entry.target else ""
    return escape(f"{entry.model} is blocked {end}{instead}.")


def _cleared_text(name: str | None, cleared: list[str], left: list[str], is_pool: bool) -> str:
    if name is None:
        return (
            escape("\n".join(f"{key} is cleared." for key in cleared)).replace(r"\n", "\n")
            or "No model was cooling down."
        )
    still = f" It is still blocked by {', '.join(left)}." if left else ""
    members = f": {', '.join(cleared)}" if is_pool and cleared else ""
    return escape(f"{name} {'is cleared' if cleared else 'was not cooling down'}{members}.{still}")
