"""Read blacklist.json without a lock, and change it with `update`.

`update` takes the lock, reads the file again, applies a function and writes the whole file, so that no other writer's
change is lost. Unknown fields and unreadable entries are kept. A file that does not contain a blacklist is renamed to
`blacklist.json.corrupt-TIME`.

Readers accept every file that this module writes. An entry that they would reject is omitted and reported, and the file
is at most half as large as the maximum that they accept. Old entries are dropped only after the clock has run without
jumps for a while, because a clock can be wrong for a short time.
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
from ocwatchd.core.domain.cooldowns import STRIKE_WINDOW, Cooldown
from ocwatchd.core.domain.names import NAME_CAP
from ocwatchd.core.domain.types import LimitKind, ModelRef, ResetSource, Scope, Target
from ocwatchd.state.blacklist.format import (
    REASON_CAP,
    STRIKES_CAP,
    VERSION,
    Contents,
    Entry,
    check_entry,
    loads_in,
    moment,
    read_entries,
)
from ocwatchd.state.files import NotAFile, StateError, locked, sweep_leftovers, write_atomic
from ocwatchd.state.safe_read import READ_CAP

KNOWN_FIELDS = frozenset(
    (
        "kind",
        "scope",
        "since",
        "until",
        "strikes",
        "reset_source",
        "rule",
        "reason",
        "session",
        "target",
        "targets",
        "doublings",
    )
)

MAX_BYTES = READ_CAP // 2
"""Maximum size, in bytes, of the written file. Readers accept twice as much. 2,000 entries with targets take 1 MB."""
SETTLED = 60.0
"""Time, in seconds, for which the clock must have run without jumps before ended entries are dropped."""
MAX_PAUSE = 3600.0
"""Maximum time between two writes, in seconds. After a longer pause, it is unknown whether the clock has jumped."""

Entries = dict[ModelRef, Cooldown]
Signature = tuple[int, int, int]
"""Inode, modification time in nanoseconds, and size of a file."""
Change = Callable[[Entries], Mapping[ModelRef, Cooldown]]
_Word = TypeVar("_Word", bound=StrEnum)


class NewerBlacklist(StateError):
    """Raised if a newer version of ocwatchd wrote the file. Such a file is read but never overwritten."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The content of the file when it was read or written. `problems` contains sentences for the user. `signature`
    changes with every write.
    """

    cooldowns: Mapping[ModelRef, Cooldown]
    problems: tuple[str, ...] = ()
    moved_aside: Path | None = None
    signature: Signature | None = None
    loads: Mapping[str, float] = field(default_factory=dict)
    """The load of each pool member as the daemon last wrote it, in sessions, by model."""
    counted: object = None
    """The value of the field `counted`, which has not been checked (see `state.blacklist.counted`)."""
    removed: tuple[str, ...] = ()
    """Keys of unreadable entries that were removed."""
    sound: bool = True
    """Whether the file exists and is undamaged. If not, the model of a missing entry is not necessarily available."""

    def entries(self) -> tuple[Cooldown, ...]:
        """Return all cooldowns, including ended cooldowns that still affect the count of strikes."""
        return tuple(self.cooldowns.values())


def signature(path: Path) -> Signature | None:
    """Return a value that changes with every write of the file, or None if there is no file. It needs one stat call."""
    try:
        info = path.stat(follow_symlinks=False)
    except OSError:
        return None
    return info.st_ino, info.st_mtime_ns, info.st_size


def read(path: Path) -> Snapshot:
    """Return the file's content. A missing or damaged file is read as empty, and damage is reported in `problems`.
    Never raises.
    """
    mark = signature(path)  # determined before the read, so that a write during the read is noticed later
    found = read_entries(path)
    counted = found.raw.get("counted")
    sound = found.exists and found.problem is None
    return Snapshot(
        _cooldowns(found), _problems(path, found), signature=mark, loads=loads_in(found), counted=counted, sound=sound
    )


def update(
    path: Path,
    change: Change,
    now: float,
    fields: Mapping[str, object] | None = None,
    counted: Mapping[str, object] | None = None,
    *,
    whole: bool = False,
) -> Snapshot:
    """Replace the cooldowns with `change(cooldowns)` under the lock, and return the new content of the file.

    `change` receives a new dict, which it may modify and return. The file is written only if the cooldowns or `fields`
    have changed. Stale entries (see `stale`) are dropped if the clock has run without jumps for a while. `fields`
    replaces other fields of the file (see `fallback_data`). `counted` replaces the counted attempts (see the module
    `counted`); None keeps them. A change of `counted` alone does not cause a write. If `whole` is True, entries that
    cannot be read are removed.

    Raises:
        NewerBlacklist: A newer version wrote the file, which was not changed.
        StateError: The file cannot be read or written, and was not changed.
    """
    try:
        with locked(path):
            besides: Mapping[str, object] = {} if counted is None else {"counted": dict(counted)}
            return _update(path, change, now, fields or {}, besides, whole)
    except OSError as error:
        raise StateError(f"{path} cannot be written: {error.strerror or error}") from error


def _update(
    path: Path,
    change: Change,
    now: float,
    fields: Mapping[str, object],
    besides: Mapping[str, object],
    whole: bool,
) -> Snapshot:
    sweep_leftovers(path)
    found = read_entries(path)
    if found.closed:  # the file may be intact, so it is not moved aside
        raise StateError(f"{path} {found.problem}; check its owner and mode")
    if found.version > VERSION:
        raise NewerBlacklist(
            f"{path} has version {found.version}, newer than this ocwatchd supports; it is left unchanged"
        )
    aside = _move_aside(path, now) if found.problem else None
    problems = _problems(path, found, aside)
    before = _cooldowns(found)
    steady = _steady_since(found.raw, now)
    ripe = now - steady >= SETTLED
    after = {ref: entry for ref, entry in change(dict(before)).items() if not (ripe and stale(entry, now))}
    rows, refused = _rows(found, before, after, whole)
    stamps = {"version": VERSION, "updated": rfc3339(now), "steady_since": rfc3339(steady)}
    document = {**found.raw, **stamps, "models": rows, **fields, **besides}
    if not found.exists or found.problem or any(document.get(k) != found.raw.get(k) for k in ("models", *fields)):
        data, left_out = _fitting(document, now)
        write_atomic(path, data)
        refused += left_out
    if refused:
        problems += (f"{path}: {len(refused)} entries were not written ({'; '.join(refused[:3])})",)
        after = {ref: entry for ref, entry in after.items() if str(ref) in rows}
    removed = tuple(key for key in _raw_entries(found) if key not in found.entries and key not in rows)
    return Snapshot(after, problems, aside, signature(path), loads_in(found), removed=removed)


def stale(cooldown: Cooldown, now: float) -> bool:
    """Return whether the entry ended more than STRIKE_WINDOW seconds ago, so that it no longer affects the count of
    strikes.
    """
    return cooldown.until is not None and now >= cooldown.until + STRIKE_WINDOW


def _steady_since(raw: Mapping[str, object], now: float) -> float:
    """Return the time, in epoch seconds, since which the clock has run without jumps, according to the file.

    A clock can briefly be years ahead (after a wrong RTC time, or in a resumed virtual machine). Entries that seem to
    have ended only for this reason must not be dropped.
    """
    updated, steady = _time_in(raw, "updated"), _time_in(raw, "steady_since")
    if updated is None or not 0 <= now - updated <= MAX_PAUSE:
        return now
    return updated if steady is None or steady > updated else steady


def _time_in(raw: Mapping[str, object], name: str) -> float | None:
    try:
        return moment(raw.get(name), name)
    except (ValueError, OverflowError):
        return None


def _rows(found: Contents, before: Entries, after: Entries, whole: bool) -> tuple[dict[str, object], list[str]]:
    """Return the entries as JSON values, and a phrase for each entry that readers would reject.

    A rejected entry is omitted, or stays as it was in the file. Unchanged entries are kept verbatim, and so are
    unreadable entries unless `whole` is True.
    """
    old = _raw_entries(found)
    rows: dict[str, object] = {} if whole else {key: value for key, value in old.items() if key not in found.entries}
    refused = []
    for ref, cooldown in after.items():
        key = str(ref)
        if key in old and cooldown == before.get(ref):
            rows[key] = old[key]
            continue
        try:
            row = to_json(cooldown)
            check_entry(key, row)
        # on some systems, a time beyond the calendar causes an OSError
        except (ValueError, OverflowError, OSError) as error:
            refused.append(f"{key[:NAME_CAP]!r}: {error}")
            if key in found.entries:
                rows[key] = old[key]
        else:
            rows[key] = row
    return rows, refused


def _fitting(document: dict[str, object], now: float) -> tuple[bytes, list[str]]:
    """Return the file's content, reduced to at most `MAX_BYTES`, and a phrase for each entry that was omitted.

    Unknown fields are omitted first, then unreadable entries, and then the entries that end soonest.
    """
    data = _encode(document)
    if len(data) <= MAX_BYTES:
        return data, []
    rows = document["models"]
    assert isinstance(rows, dict)
    own = ("version", "updated", "steady_since", "counted")
    kept: dict[str, object] = {name: document[name] for name in own if name in document}
    if len(_encode(kept)) > MAX_BYTES // 2:
        del kept["counted"]
    room = MAX_BYTES - len(_encode({**kept, "models": {}}))
    chosen, left_out = {}, []
    for key in sorted(rows, key=lambda key: _end_of_row(key, rows[key], now), reverse=True):
        size = len(_row(key, rows[key])) + len("  ,\n")
        if size <= room:
            chosen[key] = rows[key]
            room -= size
        else:
            left_out.append(f"{key[:NAME_CAP]!r}: the file would be larger than {MAX_BYTES} bytes")
    for key in [key for key in rows if key not in chosen]:
        del rows[key]
    return _encode({**kept, "models": rows}), left_out


def _end_of_row(key: str, row: object, now: float) -> float:
    try:
        entry = check_entry(key, row)
    except (ValueError, OverflowError):
        return float("-inf")
    return entry.end if entry.active(now) else entry.end - now


def _encode(document: Mapping[str, object]) -> bytes:
    """Return the document as bytes, with a line for each field and each entry, so that users can read it and `diff` it.

    For 2,000 entries, this function takes 0.05 s, whereas `json.dumps` with `indent` takes 1.5 s, because `indent`
    selects the encoder written in Python. The output is ASCII with escapes, because a lone surrogate from a hostile
    file cannot be written as UTF-8.
    """
    return ("{\n" + ",\n".join(map(_field, document, document.values())) + "\n}\n").encode()


def _field(name: str, value: object) -> str:
    if not isinstance(value, dict) or not value or not all(isinstance(row, dict | list) for row in value.values()):
        return " " + _row(name, value)
    rows = ",\n".join(f"  {_row(key, row)}" for key, row in value.items())
    return f" {json.dumps(name)}: {{\n{rows}\n }}"


def _row(key: str, row: object) -> str:
    return f"{json.dumps(key)}: {json.dumps(row)}"


def to_json(cooldown: Cooldown) -> dict[str, object]:
    """Return the JSON value of one entry."""
    target = cooldown.target
    return {
        **{key: value for key, value in cooldown.extra.items() if key not in KNOWN_FIELDS},
        "kind": cooldown.kind.value,
        "scope": cooldown.scope.value,
        "since": rfc3339(cooldown.since),
        "until": None if cooldown.until is None else rfc3339(cooldown.until),
        "strikes": min(cooldown.strikes, STRIKES_CAP),
        "reset_source": cooldown.reset_source.value,
        "rule": cooldown.rule and cooldown.rule[:NAME_CAP],
        "reason": cooldown.reason[:REASON_CAP],
        "session": cooldown.session and cooldown.session[:NAME_CAP],
        "target": None if target is None else _target(target),
        **({"targets": _targets(cooldown)} if cooldown.targets else {}),
        **({"doublings": min(cooldown.doublings, STRIKES_CAP)} if cooldown.doublings else {}),
    }


def _target(target: Target) -> dict[str, object]:
    pool = {"pool": target.pool} if target.pool else {}
    return {"model": str(target.model), "agent": target.agent, **pool}


def _targets(cooldown: Cooldown) -> dict[str, object]:
    return {str(model): _target(target) for model, target in cooldown.targets.items()}


def _raw_entries(found: Contents) -> Mapping[str, object]:
    models = found.raw.get("models")
    return models if isinstance(models, dict) else {}


def _cooldowns(found: Contents) -> Entries:
    raw = _raw_entries(found)
    return {ModelRef.parse(key): _cooldown(key, entry, raw[key]) for key, entry in found.entries.items()}


def _cooldown(key: str, entry: Entry, raw: object) -> Cooldown:
    """Return an entry of the file as a `Cooldown`. Unknown values are replaced by safe defaults; the file keeps the
    original values.
    """
    return Cooldown(
        model=ModelRef.parse(key),
        kind=_known(LimitKind, entry.kind, LimitKind.RATE_LIMIT),
        scope=_known(Scope, entry.scope, Scope.MODEL),
        since=entry.since,
        until=entry.until,
        strikes=entry.strikes,
        reset_source=_known(ResetSource, entry.reset_source, ResetSource.MANUAL),
        rule=entry.rule,
        reason=entry.reason,
        session=entry.session,
        target=Target(ModelRef.parse(entry.target[0]), entry.target[1], entry.pool) if entry.target else None,
        doublings=entry.doublings,
        targets={
            ModelRef.parse(model): Target(ModelRef.parse(target), agent, pool)
            for model, (target, agent, pool) in entry.targets.items()
        },
        extra={k: v for k, v in raw.items() if k not in KNOWN_FIELDS} if isinstance(raw, dict) else {},
    )


def _known(words: type[_Word], word: str, default: _Word) -> _Word:
    return words(word) if word in set(words) else default


def _problems(path: Path, found: Contents, aside: Path | None = None) -> tuple[str, ...]:
    problems = []
    if found.closed:
        problems.append(f"{path} {found.problem}; until that is fixed, cooldowns are ignored")
    elif found.problem:
        kept = f"; kept as {aside.name}" if aside else "; treated as empty"
        problems.append(f"{path} is damaged: {found.problem}{kept}")
    if found.skipped:
        problems.append(f"{path}: {len(found.skipped)} invalid entries skipped ({'; '.join(found.skipped[:3])})")
    if found.version > VERSION:
        problems.append(
            f"{path} was written by a newer ocwatchd (version {found.version}); it is read, but not changed"
        )
    return tuple(problems)


def _move_aside(path: Path, now: float) -> Path:
    """Rename the damaged file to a name that is not in use, and return the new path."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    names = (
        path.with_name(f"{path.name}.corrupt-{stamp}{suffix}") for suffix in ("", *(f"-{n}" for n in range(1, 1000)))
    )
    aside = next((name for name in names if not name.is_symlink() and not name.exists()), None)
    if aside is None:
        raise NotAFile(
            f"{path} is damaged, and there are already a thousand damaged copies beside it: remove some of them first"
        )
    return path.rename(aside)
