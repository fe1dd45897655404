"""The data of `status`, `cooldowns` and similar commands as plain values, from which tables and JSON are made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ocwatchd.cli.output.render import iso
from ocwatchd.state.blacklist.format import Contents, Entry
from ocwatchd.state.heartbeat import Heartbeat, State, running, unserved

SHARED = "shared"
"""The `reset_source` of a cooldown that another machine has reported."""

WORDS = ("place", "way")
"""Keys with phrases for the user that the JSON document does not contain."""
REMEDY = {
    State.UP: None,
    State.STALLED: "restart it with: ocwatch down && ocwatch up",
    State.DOWN: "start it with: ocwatch up",
}


@dataclass(frozen=True)
class CooldownView:
    """A cooldown for display. Times are in epoch seconds. If `until` is None, the cooldown lasts until a user clears
    it.
    """

    model: str
    kind: str
    scope: str
    since: float
    until: float | None
    remaining: float | None
    strikes: int
    reset_source: str
    rule: str | None
    reason: str
    session: str | None
    target: tuple[str, str | None] | None
    node: str | None = None
    """The name of the machine that reported the limit, or None for this machine."""

    def as_json(self) -> dict[str, object]:
        """Return this cooldown as an entry of the JSON contract."""
        return {
            "model": self.model,
            "kind": self.kind,
            "scope": self.scope,
            "since": iso(self.since),
            "until": iso(self.until),
            "remaining_seconds": None if self.remaining is None else round(self.remaining, 3),
            "strikes": self.strikes,
            "reset_source": self.reset_source,
            "rule": self.rule,
            "reason": self.reason,
            "session": self.session,
            "target": None if self.target is None else {"model": self.target[0], "agent": self.target[1]},
            **({"node": self.node} if self.node is not None else {}),
        }


@dataclass(frozen=True)
class StatusView:
    """The state of the daemon and its data, for display. `state` is `up`, `deaf` (stalled) or `down`."""

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
    plan_windows: tuple[Mapping[str, object], ...] = ()
    endpoints: tuple[Mapping[str, object], ...] = ()
    without_fallback: tuple[str, ...] = ()
    unknown_models: tuple[str, ...] = ()
    earlier: tuple[Mapping[str, object], ...] = ()
    """The OpenCode processes that run without the companion plugin."""
    without_chain: str | None = None
    """The path of the configuration if it contains no fallbacks although sessions are to be moved; otherwise, None."""

    @property
    def unserved(self) -> list[str]:
        """Return a sentence for each running OpenCode process whose sessions the daemon cannot move."""
        return unserved(self.endpoints)

    @property
    def misconfigured(self) -> bool:
        """Return whether the configuration was edited and cannot be used. The daemon then uses the last valid one."""
        return bool(self.configuration and self.configuration.get("problem"))

    @property
    def known_limits(self) -> list[Mapping[str, object]]:
        """Return the forecasts of models whose limit is known, the nearest limit first."""
        return [one for one in self.forecasts if one.get("measure")]

    @property
    def up(self) -> bool:
        """Return whether the daemon is running and reading logs."""
        return self.state == State.UP

    def as_json(self) -> dict[str, object]:
        """Return the status as a document of the JSON contract."""
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
            "plan_windows": [dict(one) for one in self.plan_windows],
            "without_fallback": list(self.without_fallback),
            "unknown_models": list(self.unknown_models),
            "health": list(self.health),
            "endpoints": [dict(one) for one in self.endpoints],
            "earlier": [{key: value for key, value in one.items() if key not in WORDS} for one in self.earlier],
            "serves_all": self.up and not self.unserved and not self.earlier,
            "configuration": None if self.configuration is None else dict(self.configuration),
            "remedy": REMEDY[self.state],
        }


def cooldown_views(found: Contents, now: float) -> tuple[CooldownView, ...]:
    """Return the cooldowns that are active at `now`, sorted by end time."""
    return tuple(cooldown_view(key, entry, now) for key, entry in found.active(now).items())


def cooldown_view(key: str, entry: Entry, now: float) -> CooldownView:
    """Return one entry of the blacklist for display at `now`."""
    return CooldownView(
        model=key,
        kind=entry.kind,
        scope=entry.scope,
        since=entry.since,
        until=entry.until,
        remaining=None if entry.until is None else entry.until - now,
        strikes=entry.strikes,
        reset_source=entry.reset_source,
        rule=entry.rule,
        reason=entry.reason,
        session=entry.session,
        target=entry.target,
        node=entry.node if entry.reset_source == SHARED else None,
    )


def status_view(
    heartbeat: Heartbeat,
    found: Contents,
    problems: Iterable[str],
    now: float,
    unread_log: str | None = None,
    forecasts: Iterable[Mapping[str, object]] = (),
    plan_windows: Iterable[Mapping[str, object]] = (),
) -> StatusView:
    """Return the state of the daemon and the blacklist at `now`.

    If the daemon is down, its last data on sessions and health is out of date and is left out. `unread_log` describes
    the log lines that a daemon with a current heartbeat has not read; a daemon with unread lines is stalled.
    """
    state = heartbeat.state(now)
    if state == State.UP and unread_log:
        state, problems = State.STALLED, (unread_log, *problems)
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
        plan_windows=tuple(plan_windows),
        endpoints=tuple(running(heartbeat.endpoints)) if alive else (),
        without_fallback=tuple(heartbeat.without_fallback) if alive else (),
        unknown_models=tuple(heartbeat.unknown_models) if alive else (),
        earlier=tuple(heartbeat.earlier) if alive else (),
    )
