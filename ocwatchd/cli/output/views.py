"""What the listing commands say, as plain values: the same one feeds the table and the JSON, so they cannot differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ocwatchd.cli.render import iso
from ocwatchd.state.entries import Contents, Entry
from ocwatchd.state.heartbeat import Heartbeat, State

REMEDY = {
    State.UP: None,
    State.DEAF: "end it and start it again: ocwatch down && ocwatch up",
    State.DOWN: "start it with: ocwatch up",
}


@dataclass(frozen=True)
class CooldownView:
    """One model that rests. Times in epoch seconds; `until` None: until a person clears it."""

    model: str
    kind: str
    scope: str
    since: float
    until: float | None
    remaining: float | None
    strikes: int
    told_by: str
    rule: str | None
    reason: str
    session: str | None
    target: tuple[str, str | None] | None

    def as_json(self) -> dict[str, object]:
        """The entry of the JSON contract."""
        return {
            "model": self.model,
            "kind": self.kind,
            "scope": self.scope,
            "since": iso(self.since),
            "until": iso(self.until),
            "remaining_seconds": None if self.remaining is None else round(self.remaining, 3),
            "strikes": self.strikes,
            "told_by": self.told_by,
            "rule": self.rule,
            "reason": self.reason,
            "session": self.session,
            "target": None if self.target is None else {"model": self.target[0], "agent": self.target[1]},
        }


@dataclass(frozen=True)
class StatusView:
    """How the daemon is and what it knows. `state` is up, deaf or down."""

    state: str
    now: float
    pid: int | None
    started: float | None
    beat: float | None
    following: tuple[str, ...]
    cooldowns: tuple[CooldownView, ...]
    sessions: tuple[Mapping[str, object], ...]
    health: tuple[str, ...]
    configuration: Mapping[str, object] | None
    forecasts: tuple[Mapping[str, object], ...] = ()

    @property
    def known_limits(self) -> list[Mapping[str, object]]:
        """The forecasts of models whose limit is known somehow, the nearest first."""
        return [one for one in self.forecasts if one.get("measure")]

    @property
    def up(self) -> bool:
        """Up and hearing."""
        return self.state == State.UP

    def as_json(self) -> dict[str, object]:
        """The document of the JSON contract."""
        return {
            "time": iso(self.now),
            "state": self.state,
            "up": self.up,
            "pid": self.pid,
            "started": iso(self.started),
            "uptime_seconds": round(self.now - self.started, 3) if self.up and self.started is not None else None,
            "beat": iso(self.beat),
            "beat_age_seconds": None if self.beat is None else round(self.now - self.beat, 3),
            "following": list(self.following),
            "cooldowns": [view.as_json() for view in self.cooldowns],
            "sessions": [dict(session) for session in self.sessions],
            "forecasts": [dict(one) for one in self.forecasts],
            "health": list(self.health),
            "configuration": None if self.configuration is None else dict(self.configuration),
            "remedy": REMEDY[self.state],
        }


def cooldown_views(found: Contents, now: float) -> tuple[CooldownView, ...]:
    """The models that rest now, the soonest return first."""
    return tuple(cooldown_view(key, entry, now) for key, entry in found.active(now).items())


def cooldown_view(key: str, entry: Entry, now: float) -> CooldownView:
    """One entry of the blacklist file as seen at `now`."""
    return CooldownView(
        model=key,
        kind=entry.kind,
        scope=entry.scope,
        since=entry.since,
        until=entry.until,
        remaining=None if entry.until is None else entry.until - now,
        strikes=entry.strikes,
        told_by=entry.told_by,
        rule=entry.rule,
        reason=entry.reason,
        session=entry.session,
        target=entry.target,
    )


def status_view(
    heartbeat: Heartbeat,
    found: Contents,
    problems: Iterable[str],
    now: float,
    unheard: str | None = None,
    forecasts: Iterable[Mapping[str, object]] = (),
) -> StatusView:
    """The daemon and the register at `now`. What a daemon that is down said of sessions and health is out of date.

    `unheard`: what OpenCode wrote and the daemon did not read: its heart beats, and it is deaf all the same.
    """
    state = heartbeat.state(now)
    if state == State.UP and unheard:
        state, problems = State.DEAF, (unheard, *problems)
    alive = state != State.DOWN
    return StatusView(
        state=state,
        now=now,
        pid=heartbeat.pid if alive else None,
        started=heartbeat.started if alive else None,
        beat=heartbeat.beat,
        following=tuple(heartbeat.following) if alive else (),
        cooldowns=cooldown_views(found, now),
        sessions=tuple(heartbeat.sessions) if alive else (),
        health=(*(heartbeat.health if alive else ()), *problems),
        configuration=heartbeat.configuration if alive else None,
        forecasts=tuple(forecasts),
    )
