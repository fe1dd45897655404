"""Read and check blacklist.json, with built-in types only, for commands that must start fast.

Any program may write the file, so it may contain anything. An invalid entry is skipped and reported. An unknown value
of `kind`, `scope` or `reset_source` is kept, so that entries of a newer version stay valid.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping

from ocwatchd.core.domain.names import NAME_CAP, is_name
from ocwatchd.ownership import is_ours, repair, user_name
from ocwatchd.state.safe_read import NotAFile, read_plain

VERSION = 1
"""The version of blacklist.json that ocwatchd writes. A file of a newer version is read if possible, and never
overwritten.
"""

LATEST = 250_000_000_000.0
"""The latest accepted time, in epoch seconds (in the year 9892). Later times could not be represented in every time
zone.
"""

FAR_AHEAD = 2 * 86_400.0
"""Maximum time, in seconds, by which the beginning of an entry may plausibly be in the future. If an entry begins
later, the clock was wrong when the entry was made, and the entry is ignored.
"""

REASON_CAP = 300
STRIKES_CAP = 10**9


class Entry:
    """One checked entry.

    Times are in epoch seconds; `until` is None for a block that only a user ends. `target` is (model, agent). `pool` is
    the pool from which the target was taken; each session uses its own member of it. The class is not a dataclass,
    because a dataclass would take longer to import than the rest of the module.
    """

    __slots__ = (
        "doublings",
        "kind",
        "node",
        "pool",
        "reason",
        "reset_source",
        "rule",
        "scope",
        "session",
        "since",
        "strikes",
        "target",
        "targets",
        "until",
    )  # fmt: skip

    def __init__(self, key: str, value: dict[str, object]) -> None:
        """Check the JSON value of an entry, and fill in defaults.

        Raises:
            ValueError: `until` is missing or invalid, or a field has the wrong type.
        """
        if "until" not in value:
            raise ValueError("no `until`")
        self.until = None if value["until"] is None else moment(value["until"], "until")
        self.since = moment(value["since"], "since") if value.get("since") is not None else (self.until or 0.0)
        self.kind = _word(value, "kind", "rate_limit")
        self.scope = _word(value, "scope", "provider" if key.endswith("/*") else "model")
        self.strikes = _count(value, "strikes", 1)
        self.reset_source = _word(value, "reset_source", "manual")
        self.rule = _text(value, "rule", NAME_CAP)
        self.reason = _text(value, "reason", REASON_CAP) or ""
        self.session = _text(value, "session", NAME_CAP)
        self.target = _target(value.get("target"))
        self.pool = _pool(value.get("target"))
        self.targets = _targets(value.get("targets"))
        self.doublings = _count(value, "doublings", 0)
        self.node = _text(value, "node", NAME_CAP)

    def active(self, now: float) -> bool:
        """Return whether the entry applies at `now`. At its end time, it no longer applies.

        An entry that begins days from now does not apply, because it was made while the clock was wrong. A daemon will
        correct it. An entry without an end always applies.
        """
        return now < self.end and not now + FAR_AHEAD < self.since < self.end < float("inf")

    def target_for(self, model: str) -> tuple[str, str | None, str | None] | None:
        """Return the target of prompts for `model` as (model, agent, pool), or None if there is none. The entry must
        cover `model`.
        """
        own = self.targets.get(model)
        return own or ((*self.target, self.pool) if self.target else None)

    @property
    def end(self) -> float:
        """The entry's end in epoch seconds; infinity if only a user ends the entry."""
        return float("inf") if self.until is None else self.until


class Contents:
    """The content of the file.

    `entries` contains the valid entries by key. `raw` is the JSON object as read, from which the file is rewritten
    without losing unknown fields. `problem` is the reason why the whole file is unusable. `closed` is True if the file
    cannot be opened; the file may nevertheless be valid. `skipped` contains a phrase for each invalid entry.
    """

    __slots__ = ("closed", "entries", "exists", "problem", "raw", "skipped", "version")

    def __init__(self) -> None:
        """Initialize the object with the content of a missing file."""
        self.entries: dict[str, Entry] = {}
        self.raw: dict[str, object] = {}
        self.version = VERSION
        self.exists = False
        self.closed = False
        self.problem: str | None = None
        self.skipped: list[str] = []

    def problems(self) -> list[str]:
        """Return the problems with the file as sentences for the user."""
        found = []
        if self.closed:
            found.append(f"blacklist.json {self.problem}; until that is fixed, cooldowns are ignored")
        elif self.problem:
            found.append(f"blacklist.json is damaged ({self.problem}); treated as empty")
        if self.skipped:
            found.append(f"blacklist.json: {len(self.skipped)} invalid entries skipped ({self.skipped[0]})")
        return found

    def active(self, now: float) -> dict[str, Entry]:
        """Return the entries that apply at `now`, by key, sorted by their end."""
        live = [(key, entry) for key, entry in self.entries.items() if entry.active(now)]
        return dict(sorted(live, key=lambda item: (item[1].end, item[0])))


def read_entries(path: str | os.PathLike[str]) -> Contents:
    """Read the file. A missing file is treated as empty, and faults are recorded in `problem`. Never raises."""
    found = Contents()
    try:
        data = read_plain(os.fspath(path))
    except (FileNotFoundError, NotADirectoryError):
        return found
    except NotAFile as error:
        found.exists, found.problem = True, str(error)
        return found
    except OSError as error:
        found.exists, found.closed, found.problem = True, True, f"cannot be read ({error.strerror}){_whose(path)}"
        return found
    found.exists = True
    _parse(data, found)
    return found


def _whose(path: str | os.PathLike[str]) -> str:
    """Return a phrase that names the owner of a file that cannot be opened and explains how to fix this. The phrase is
    empty if the file belongs to this user.
    """
    try:
        owner = os.lstat(path).st_uid
    except OSError:
        return ""
    return "" if is_ours(owner) else f": it belongs to {user_name(owner)}; to fix that: {repair(os.fspath(path))}"


def _parse(data: bytes, found: Contents) -> None:
    try:
        raw = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        # UnicodeDecodeError is a subclass of ValueError. Deep nesting causes a RecursionError.
        found.problem = f"not JSON ({str(error)[:120]})" if data.strip() else "empty"
        return
    if not isinstance(raw, dict):
        found.problem = "not an object"
        return
    version = raw.get("version", VERSION)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        found.problem = "`version` is not a positive number"
        return
    found.version = version
    if not isinstance(raw.get("models", {}), dict):
        found.problem = "`models` is not an object"
        return
    found.raw = raw
    for key, value in raw.get("models", {}).items():
        try:
            found.entries[key] = check_entry(key, value)
        except (ValueError, OverflowError) as error:
            found.skipped.append(f"{key[:NAME_CAP]!r}: {error}")


def _no_constant(name: str) -> float:
    # Reject NaN and Infinity: Python would accept them, but JavaScript does not.
    raise ValueError(f"{name} is not JSON")


def check_entry(key: str, value: object) -> Entry:
    """Check one entry of the file and return it.

    Raises:
        ValueError: The key is not the name of a model, or the entry is invalid.
    """
    check_key(key)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return Entry(key, value)


def check_key(key: str) -> None:
    """Check that a key has the form `provider/model` or `provider/*`.

    Raises:
        ValueError: The key has another form, contains control characters, or is too long.
    """
    if not is_name(key):
        raise ValueError("not a model name of the form provider/model")


def moment(value: object, name: str) -> float:
    """Return the epoch seconds of the RFC 3339 time in the field `name`. A time without a zone is UTC.

    Raises:
        ValueError: The value is not a valid time.
    """
    if not isinstance(value, str) or len(value) > 64:
        raise ValueError(f"`{name}` is not a time")
    epoch = _our_own(value)
    if epoch is None:
        from datetime import UTC, datetime  # lazy import: takes 2 of the 25 ms of CPU time that `pick` may use

        try:
            moment = datetime.fromisoformat(value)
            epoch = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            epoch = -1.0
    if not 0 <= epoch < LATEST:
        raise ValueError(f"`{name}` is not a time")
    return epoch


def _our_own(text: str) -> float | None:
    """Return the epoch seconds of a time in the format of `clock.rfc3339`, or None if the text has another format."""
    fields = text[:4], text[5:7], text[8:10], text[11:13], text[14:16], text[17:19], text[20:23]
    if len(text) != 24 or "{}-{}-{}T{}:{}:{}.{}Z".format(*fields) != text or not text.isascii():
        return None
    if not "".join(fields).isdecimal():
        return None
    year, month, day, hour, minute, second, thousandths = map(int, fields)
    years = year - (month < 3)  # the year begins in March, so that a leap day is its last day
    days = 365 * years + years // 4 - years // 100 + years // 400 + (153 * ((month + 9) % 12) + 2) // 5 + day - 719469
    whole = ((days * 24 + hour) * 60 + minute) * 60 + second
    there_is = time.gmtime(whole)[:6] == (year, month, day, hour, minute, second)
    return whole + thousandths / 1000 if there_is else None


def _word(value: Mapping[str, object], name: str, default: str) -> str:
    word = value.get(name, default)
    if not isinstance(word, str) or not word or len(word) > 40:
        raise ValueError(f"`{name}` is not a word")
    return word


def _text(value: Mapping[str, object], name: str, cap: int) -> str | None:
    text = value.get(name)
    if text is not None and not isinstance(text, str):
        raise ValueError(f"`{name}` is not a text")
    return text if text is None else text[:cap]


def _count(value: Mapping[str, object], name: str, default: int) -> int:
    count = value.get(name, default)
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= STRIKES_CAP:
        raise ValueError(f"`{name}` is not a count")
    return count


def _target(value: object) -> tuple[str, str | None] | None:
    if value is None:
        return None
    model = value.get("model") if isinstance(value, dict) else None
    agent = value.get("agent") if isinstance(value, dict) else None
    if not isinstance(model, str) or not (agent is None or isinstance(agent, str)):
        raise ValueError("`target` does not name a model")
    check_key(model)
    if model.endswith("/*"):
        raise ValueError("`target` names a whole provider")
    return model, agent or None


def _targets(value: object) -> dict[str, tuple[str, str | None, str | None]]:
    """Return the targets of individual models that the entry covers. Invalid targets are omitted."""
    found: dict[str, tuple[str, str | None, str | None]] = {}
    for model, row in value.items() if isinstance(value, dict) else ():
        try:
            target = _target(row)
        except ValueError:
            continue
        if target:
            found[model] = (*target, _pool(row))
    return found


def _pool(target: object) -> str | None:
    """Return the name of the target's pool, or None if there is no valid name."""
    name = target.get("pool") if isinstance(target, dict) else None
    return name if isinstance(name, str) and 0 < len(name) <= NAME_CAP else None


def loads_in(found: Contents) -> dict[str, float]:
    """Return the load of each pool member as the daemon last wrote it. The keys are models, and the values are in
    sessions.
    """
    loads: dict[str, float] = {}
    pools = found.raw.get("pools")
    for pool in pools.values() if isinstance(pools, dict) else ():
        members = pool.get("members") if isinstance(pool, dict) else None
        for member in members if isinstance(members, list) else ():
            load = member.get("load") if isinstance(member, dict) else None
            if isinstance(load, int | float) and not isinstance(load, bool) and 0 <= load < STRIKES_CAP:
                loads[str(member.get("model"))] = float(load)
    return loads
