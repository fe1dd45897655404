"""blacklist.json, the public register of cooldowns: read without a lock, changed only by `update`.

`update` holds the lock, reads again, applies one function and writes the whole file: two writers at once lose nothing.
Fields that we do not know are kept, at the top and in every entry, and so are entries that we cannot read. A file that
is no blacklist at all is moved aside as `blacklist.json.corrupt-TIME`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from ocwatchd.clock import rfc3339
from ocwatchd.core.ledger import STRIKE_WINDOW, Cooldown
from ocwatchd.core.limits import LimitKind, ModelRef, Scope, Target, ToldBy
from ocwatchd.state.entries import VERSION, Contents, Entry, loads_in, read_entries
from ocwatchd.state.files import NotAFile, StateError, locked, sweep_leftovers, write_atomic

KNOWN_FIELDS = frozenset(
    ("kind", "scope", "since", "until", "strikes", "told_by", "rule", "reason", "session", "target", "doublings")
)

Cooldowns = dict[ModelRef, Cooldown]
Signature = tuple[int, int, int]
"""Inode, mtime in nanoseconds, size."""
Change = Callable[[Cooldowns], Mapping[ModelRef, Cooldown]]
_Word = TypeVar("_Word", bound=StrEnum)


class NewerBlacklist(StateError):
    """A newer ocwatchd wrote the file: it is read, never overwritten."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The file at one moment. `problems` are sentences for a person; `signature` differs after every write."""

    cooldowns: Mapping[ModelRef, Cooldown]
    problems: tuple[str, ...] = ()
    moved_aside: Path | None = None
    signature: Signature | None = None
    loads: Mapping[str, float] = field(default_factory=dict)
    """How full the members of pools are, sessions' worth by model, as the daemon said last."""
    counted: object = None
    """What the daemon noted beside the entries (see `state.counted`), of whatever shape it is."""

    def entries(self) -> tuple[Cooldown, ...]:
        """All of them, ended ones included while they matter for strikes."""
        return tuple(self.cooldowns.values())


def signature(path: Path) -> Signature | None:
    """Cheap to compare; None without a file. Every write makes a new inode or mtime."""
    try:
        info = path.stat(follow_symlinks=False)
    except OSError:
        return None
    return info.st_ino, info.st_mtime_ns, info.st_size


def read(path: Path) -> Snapshot:
    """What the file says now; a missing or broken file is an empty register, and `problems` says so. Never raises."""
    mark = signature(path)  # before reading: a write in between shows as a change
    found = read_entries(path)
    counted = found.raw.get("counted")
    return Snapshot(_cooldowns(found), _problems(path, found), signature=mark, loads=loads_in(found), counted=counted)


def update(
    path: Path,
    change: Change,
    now: float,
    told: Mapping[str, object] | None = None,
    counted: Mapping[str, object] | None = None,
) -> Snapshot:
    """Replace the register by `change(register)`, under the lock. Nothing is written if nothing changes.

    `change` gets a fresh dict that it may alter and return. Entries that ended more than the strike window ago are
    dropped. `told` replaces other fields of the file (see `state.pools`, `state.stand_ins`), and `counted` what was
    counted (see `state.counted`), which alone is no reason to write; None leaves it. Returns what the file says
    afterwards.

    Raises:
        NewerBlacklist: a newer version wrote the file; nothing was changed.
        StateError: the file cannot be read or written; nothing was changed.
    """
    try:
        with locked(path):
            return _update(path, change, now, told or {}, {} if counted is None else {"counted": dict(counted)})
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error.strerror or error}") from error


def _update(
    path: Path, change: Change, now: float, told: Mapping[str, object], besides: Mapping[str, object]
) -> Snapshot:
    sweep_leftovers(path)
    found = read_entries(path)
    if found.closed:  # it may be sound: its owner has to decide
        raise StateError(f"{path} {found.problem}; check its owner and mode")
    if found.version > VERSION:
        raise NewerBlacklist(f"{path} has version {found.version}, newer than this ocwatchd knows: it stays as it is")
    aside = _move_aside(path, now) if found.problem else None
    problems = _problems(path, found, aside)
    before = _cooldowns(found)
    after = {ref: cooldown for ref, cooldown in change(dict(before)).items() if not stale(cooldown, now)}
    document = {**_document(found, before, after, now), **told, **besides}
    if not found.exists or found.problem or any(document.get(k) != found.raw.get(k) for k in ("models", *told)):
        write_atomic(path, _encode(document))
    return Snapshot(after, problems, aside, signature(path), loads_in(found))


def stale(cooldown: Cooldown, now: float) -> bool:
    """Whether it ended so long ago that it is dropped."""
    return cooldown.until is not None and now >= cooldown.until + STRIKE_WINDOW


def _document(found: Contents, before: Cooldowns, after: Cooldowns, now: float) -> dict[str, object]:
    """The whole file. An entry that did not change stays word for word, also one that we could not read."""
    raw = found.raw.get("models", {})
    old = raw if isinstance(raw, dict) else {}
    unread = {key: value for key, value in old.items() if key not in found.entries}
    written = {
        str(ref): old[str(ref)] if cooldown == before.get(ref) and str(ref) in old else to_json(cooldown)
        for ref, cooldown in after.items()
    }
    return {**found.raw, "version": VERSION, "updated": rfc3339(now), "models": {**unread, **written}}


def _encode(document: Mapping[str, object]) -> bytes:
    # A lone surrogate from a hostile file cannot be written as UTF-8; ASCII with escapes holds everything.
    return json.dumps(document, indent=1, ensure_ascii=True).encode() + b"\n"


def to_json(cooldown: Cooldown) -> dict[str, object]:
    """One entry as it stands in the file."""
    target = cooldown.target
    return {
        **{key: value for key, value in cooldown.extra.items() if key not in KNOWN_FIELDS},
        "kind": cooldown.kind.value,
        "scope": cooldown.scope.value,
        "since": rfc3339(cooldown.since),
        "until": None if cooldown.until is None else rfc3339(cooldown.until),
        "strikes": cooldown.strikes,
        "told_by": cooldown.told_by.value,
        "rule": cooldown.rule,
        "reason": cooldown.reason,
        "session": cooldown.session,
        "target": None if target is None else _target(target),
        **({"doublings": cooldown.doublings} if cooldown.doublings else {}),
    }


def _target(target: Target) -> dict[str, object]:
    pool = {"pool": target.pool} if target.pool else {}
    return {"model": str(target.model), "agent": target.agent, **pool}


def _cooldowns(found: Contents) -> Cooldowns:
    models = found.raw.get("models")
    raw: Mapping[str, object] = models if isinstance(models, dict) else {}
    return {ModelRef.parse(key): _cooldown(key, entry, raw[key]) for key, entry in found.entries.items()}


def _cooldown(key: str, entry: Entry, raw: object) -> Cooldown:
    """An entry as a value. A word that we do not know becomes the nearest safe one; the file keeps the original."""
    return Cooldown(
        model=ModelRef.parse(key),
        kind=_known(LimitKind, entry.kind, LimitKind.RATE_LIMIT),
        scope=_known(Scope, entry.scope, Scope.MODEL),
        since=entry.since,
        until=entry.until,
        strikes=entry.strikes,
        told_by=_known(ToldBy, entry.told_by, ToldBy.MANUAL),
        rule=entry.rule,
        reason=entry.reason,
        session=entry.session,
        target=Target(ModelRef.parse(entry.target[0]), entry.target[1], entry.pool) if entry.target else None,
        doublings=entry.doublings,
        extra={k: v for k, v in raw.items() if k not in KNOWN_FIELDS} if isinstance(raw, dict) else {},
    )


def _known(words: type[_Word], word: str, default: _Word) -> _Word:
    return words(word) if word in set(words) else default


def _problems(path: Path, found: Contents, aside: Path | None = None) -> tuple[str, ...]:
    problems = []
    if found.problem:
        kept = f"; kept as {aside.name}" if aside else "; taken as empty"
        problems.append(f"{path} is damaged: {found.problem}{kept}")
    if found.skipped:
        problems.append(f"{path}: {len(found.skipped)} wrong entries passed over ({'; '.join(found.skipped[:3])})")
    if found.version > VERSION:
        problems.append(f"{path} was written by a newer ocwatchd (version {found.version}): read, not changed")
    return tuple(problems)


def _move_aside(path: Path, now: float) -> Path:
    """Keep what lies at `path` under a name of its own; nothing is ever overwritten."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    names = (
        path.with_name(f"{path.name}.corrupt-{stamp}{suffix}") for suffix in ("", *(f"-{n}" for n in range(1, 1000)))
    )
    aside = next((name for name in names if not name.is_symlink() and not name.exists()), None)
    if aside is None:
        raise NotAFile(f"{path} is damaged, and a thousand damaged ones lie beside it: clear them up first")
    return path.rename(aside)
