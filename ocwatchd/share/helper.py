"""The process of `ocwatch share`. It sends cooldowns from the blacklist to other machines, and writes the cooldowns of
other machines into the blacklist.

The process communicates with the daemon only through `blacklist.json`, as `ocwatch block` and `ocwatch clear` do.
Shared cooldowns therefore apply to all readers of the blacklist, even if no daemon is running, and the daemon never
waits for this process.
"""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from os import getpid
from pathlib import Path

from ocwatchd.clock import Clock, SystemClock, rfc3339
from ocwatchd.config.loading import LiveConfig, load
from ocwatchd.config.model import Config, ShareSettings
from ocwatchd.core.domain.cooldowns import Cooldowns
from ocwatchd.core.fallback.outlook import Outlook
from ocwatchd.core.fallback.targets import Targets
from ocwatchd.core.sharing.knowledge import Changes, Knowledge, ServerTime, reporter
from ocwatchd.core.sharing.merge import Records
from ocwatchd.core.sharing.record import MAX_BYTES, TEST_ACCOUNT, Record, Unusable, parse
from ocwatchd.errors import ConfigError, OcwatchError, StateError
from ocwatchd.opencode.sessions.message_store import SessionStore
from ocwatchd.paths import Paths
from ocwatchd.share.answers import Answers
from ocwatchd.share.folder import FolderShare
from ocwatchd.share.transport import Condition, Transport
from ocwatchd.share.wake import Wake
from ocwatchd.state import prices, share_status, shared_records
from ocwatchd.state.blacklist import store as blacklist
from ocwatchd.state.files import locked, make_private_dir

FLOOR = 1.0
"""Maximum interval, in seconds, between checks. Checks are needed because watches can fail silently, and not every
folder reports changes.
"""
LOCK_PATIENCE = 0.5
"""Time, in seconds, to wait for another share process to exit."""
PAUSE_PER_WORK, MAX_OWED_PAUSE = 2.0, 0.5
"""For each second of work, the process owes PAUSE_PER_WORK seconds of pause. It pauses when it owes more than
MAX_OWED_PAUSE seconds. Single limits are therefore handled immediately, and a burst of limits does not keep a whole
core busy.
"""
SKIPPED_KEPT = 1000
"""Maximum number of skipped lines that are kept, so that the same line is counted only once."""
HOUSEKEEPING = 3600.0
"""Interval, in seconds, between searches for outdated records."""
RETRY = 5.0
"""Delay, in seconds, before a failed write of the blacklist is tried again."""


class NotConfigured(ConfigError):
    """Raised if sharing is not configured, or the client for the server is not installed."""


class AlreadySharing(OcwatchError):
    """Raised if another share process is already running for this home."""


def say(line: str) -> None:
    """Print a line on standard error, preceded by the current time."""
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)
    with contextlib.suppress(OSError, ValueError):
        print(f"{rfc3339(time.time())} {shown}", file=sys.stderr, flush=True)


def transport_for(
    settings: ShareSettings,
    node: str,
    known: Callable[[], Iterable[Record]],
    wake: Callable[[], None],
    clock: Clock,
) -> Transport:
    """Return the configured transport.

    Raises:
        NotConfigured: The configuration names neither a server nor a folder, or the client for the server is not
            installed.
    """
    if settings.folder is not None:
        return FolderShare(settings.folder, node, known, clock)
    if settings.url is None:
        raise NotConfigured('nothing is shared: set `"share": {"url": …}` or `{"folder": …}` in the configuration')
    try:
        from ocwatchd.share.valkey_link import ValkeyLink  # lazy import: the client is not needed for a folder
    except ImportError:
        raise NotConfigured("the client for the server is missing: pip install 'ocwatchd[share]'") from None
    return ValkeyLink(settings, known, wake, clock)


class Helper:
    """The share process of one home. It runs until it is stopped."""

    def __init__(self, paths: Paths, config: Config, clock: Clock | None = None) -> None:
        """Store the arguments; `run` does the work."""
        self._paths, self._config, self._clock = paths, config, clock or SystemClock()
        self._stopping = False
        self._skipped: Counter[str] = Counter()
        self._skipped_lines: dict[bytes, None] = {}
        self._mark: blacklist.Signature | None = None
        self._read = False
        self._due: float | None = None
        self._clears: list[tuple[str, float]] = []
        self._written_status: tuple[object, ...] = ()
        self._beaten = self._cleaned = 0.0
        self._trouble = ""
        self._last_news: tuple[float, str] | None = None
        self._obeyed: bool | None = None
        self._answers = Answers(SessionStore(paths.opencode_data))
        self._owed, self._worked = 0.0, time.monotonic()

    def run(self) -> None:
        """Share cooldowns until SIGTERM or SIGINT arrives or `stop` is called.

        Raises:
            NotConfigured: Sharing is not configured, or the client for the server is not installed.
            AlreadySharing: Another share process is running.
            StateError: Our files cannot be used.
        """
        directory = self._paths.share
        make_private_dir(directory)
        with self._alone(), self._signals():
            self._start()
            try:
                while not self._stopping:
                    self._turn()
            finally:
                self._transport.stop()
                self._wake.close()
                (directory / share_status.NAME).unlink(missing_ok=True)

    def stop(self) -> None:
        """Make `run` return soon. Safe in a signal handler."""
        self._stopping = True
        if hasattr(self, "_wake"):
            self._wake.wake()

    def _start(self) -> None:
        now, settings = self._clock.now(), self._config.share
        stored = shared_records.load(self._paths.share)
        node = settings.node or stored.node or shared_records.new_node()
        self._node = stored.node if settings.node is None and stored.node else node
        self._knowledge = Knowledge(
            node, settings.accounts, Records(stored.records), dict(stored.seen), stored.cleared_until
        )
        self._saved: tuple[object, ...] = ()
        self._live = LiveConfig(self._paths, self._config, now)
        names = frozenset((self._paths.blacklist.name, shared_records.CLEARS))
        watched: dict[Path, frozenset[str] | None] = {self._paths.state_dir: names, self._paths.share: names}
        watched[self._paths.config_file.parent] = frozenset((self._paths.config_file.name,))
        if settings.folder is not None:
            watched[settings.folder] = None
        self._wake = Wake(watched)
        self._transport = transport_for(settings, node, lambda: self._knowledge.records, self._wake.wake, self._clock)
        self._save()
        self._transport.start()
        accounts = ", ".join(sorted(set(settings.accounts.values()))) or "no accounts"
        say(f"{node} shares {accounts} through {self._transport.place}")

    def _turn(self) -> None:
        self._wake.wait(self._patience())
        begun = time.monotonic()
        if self._stopping:
            return
        worked = self._step(self._clock.now())
        ended = time.monotonic()
        self._owed = max(self._owed - (begun - self._worked), 0.0) + (ended - begun) * PAUSE_PER_WORK * worked
        self._worked = ended
        if self._owed > MAX_OWED_PAUSE:
            time.sleep(self._owed - MAX_OWED_PAUSE)

    def _patience(self) -> float:
        left = FLOOR if self._due is None else min(max(self._due - self._clock.now(), 0.0), FLOOR)
        return max(left, 0.001)

    def _step(self, now: float) -> bool:
        """Do all work that is due. Return whether any work was due."""
        self._reconfigure(now)
        came = self._take_in(now)
        clock = self._transport.server_time()
        obeyed = clock is not None and clock.trusted
        changed = self._due is not None and self._due <= now
        changed |= blacklist.signature(self._paths.blacklist) != self._mark or not self._read
        clears = shared_records.clears(self._paths.share)
        changed |= clears != self._clears or obeyed != self._obeyed or bool(came)
        if clock is not None and obeyed:
            changed |= self._look_for_answers(now, clock)
        if changed and clock is not None and obeyed:
            self._clears = clears
            self._reconcile(clears, now, clock)
        self._obeyed = obeyed
        if came and self._transport.kind == "folder":
            self._transport.offer(came)  # our file must contain every known record
        if changed:
            self._save()
        self._forget_stale(now, clock)
        self._write_status(now)
        return changed

    def _look_for_answers(self, now: float, clock: ServerTime) -> bool:
        """Find models that have answered on this machine although other machines reported limits for them, and report
        to those machines that the models are available. Return whether any were found.
        """
        freed: list[Record] = []
        try:
            for model in self._answers.of(self._knowledge.reported(), now):
                say(f"{model}: it has answered a request from this machine")
                freed += self._knowledge.answered(model, now, clock)
        except (OSError, ValueError, sqlite3.Error) as fault:
            # The database may have been written by any version of OpenCode.
            self._complain(f"OpenCode's answers cannot be read: {fault}")
        if freed:
            self._transport.offer(freed)
        return bool(freed)

    def _take_in(self, now: float) -> list[Record]:
        """Merge the received lines into the known records. Return the new records."""
        new: list[Record] = []
        clock = self._transport.server_time()
        for line in self._transport.take():
            try:
                record = parse(line, None if clock is None else clock.of(now))
            except Unusable as fault:
                self._skip(line, fault.why)
                continue
            if record.account != TEST_ACCOUNT and self._knowledge.records.merge(record):
                new.append(record)
                who = reporter(record, self._knowledge.node)
                if who and who != self._knowledge.node:
                    self._last_news = now, who
        return new

    def _skip(self, line: bytes, why: str) -> None:
        short = line[:MAX_BYTES]
        if short not in self._skipped_lines:
            self._skipped[why] += 1
            self._skipped_lines[short] = None
            while len(self._skipped_lines) > SKIPPED_KEPT:
                del self._skipped_lines[next(iter(self._skipped_lines))]

    def _reconcile(self, clears: list[tuple[str, float]], now: float, clock: ServerTime) -> None:
        """Send changes in the blacklist to the other machines, and write the cooldowns that they have reported into the
        blacklist.
        """
        snapshot = blacklist.read(self._paths.blacklist)
        entries = snapshot.cooldowns
        offers = self._knowledge.clear(clears, now, clock)
        if snapshot.sound:
            offers += self._knowledge.observe(entries, now, clock)
        if offers:
            self._transport.offer(offers)
        self._read, self._mark = True, snapshot.signature
        changes = self._knowledge.plan(entries, now, clock)
        if changes:
            self._enter(changes, entries, now)
        else:
            self._due = self._knowledge.next_change(entries, now)

    def _enter(self, changes: Changes, seen: blacklist.Entries | object, now: float) -> None:
        """Write the changes into the blacklist. If another program has just changed the blacklist, write nothing,
        because the next step will plan the changes again.
        """
        policy = self._config.policy
        budget = prices.day_budget(self._paths.prices, self._paths.budget, policy.budget, now)
        untouched = True

        def change(entries: blacklist.Entries) -> blacklist.Entries:
            nonlocal untouched
            untouched = entries == seen
            if not untouched:
                return entries
            cooldowns = Cooldowns(changes.applied(entries).values())
            Targets(policy, cooldowns, Outlook(day_budget=budget), now).point(
                entry.model for entry in changes.put if entry.target is None
            )
            return {entry.model: entry for entry in cooldowns.entries()}

        try:
            written = blacklist.update(self._paths.blacklist, change, now)
        except StateError as fault:
            self._complain(str(fault))
            self._due = now + RETRY
            return
        self._complain("")
        if not untouched:
            self._read, self._due = False, now
            return
        self._mark = written.signature
        self._knowledge.remember(written.cooldowns)
        self._due = self._knowledge.next_change(written.cooldowns, now)
        for entry in changes.put:
            say(f"{entry.model}: {entry.reason}, until {rfc3339(entry.until or now)}")
        for model in changes.removed:
            say(f"{model}: available again, as reported by another machine")

    def _reconfigure(self, now: float) -> None:
        news = self._live.read_edit(now)
        if isinstance(news, Config):
            before, self._config = self._config.share, news
            if news.share != before:
                self._restart(now)

    def _restart(self, now: float) -> None:
        """Apply a changed configuration of sharing by closing the transport and starting a new one.

        The shared cooldowns in the blacklist are kept until they end.

        Raises:
            NotConfigured: Sharing was turned off.
        """
        say("the configuration has changed")
        self._transport.stop()
        self._wake.close()
        self._read, self._clears, self._due, self._obeyed = False, [], now, None
        if not self._config.share.wanted:
            raise NotConfigured("sharing was turned off in the configuration")
        self._start()

    def _forget_stale(self, now: float, clock: ServerTime | None) -> None:
        if abs(now - self._cleaned) < HOUSEKEEPING or clock is None or not clock.trusted:
            return
        self._cleaned = now
        for record in self._knowledge.records.stale(clock.of(now)):
            self._knowledge.records.forget(record)
        self._wake.watch()

    def _save(self) -> None:
        """Save the known records for the next run of this process if they have changed."""
        known = self._knowledge
        now_known = (tuple(known.records), dict(known.seen), known.cleared_until)
        if now_known == self._saved:
            return
        try:
            shared_records.save(
                self._paths.share,
                shared_records.Stored(self._node, now_known[0], now_known[1], known.cleared_until),
            )
        except (OSError, StateError) as fault:
            self._complain(str(fault))
            return
        self._saved = now_known

    def _complain(self, why: str) -> None:
        if why and why != self._trouble:
            say(why)
        self._trouble = why

    def _write_status(self, now: float) -> None:
        """Write the status for `ocwatch status` and `ocwatch share status`."""
        condition = self._transport.condition()
        said = (condition.state, condition.since, condition.why, condition.others, condition.nodes, self._trouble)
        status = (*said, self._last_news, tuple(self._skipped.items()), len(self._knowledge.records))
        if status == self._written_status and 0 <= now - self._beaten < share_status.BEAT:
            return
        if said[:3] != self._written_status[:3]:
            why = f": {condition.why}" if condition.why else ""
            say(f"{condition.state} ({self._transport.place}){why}")
        self._written_status, self._beaten = status, now
        with contextlib.suppress(OSError):
            share_status.write(self._paths.share / share_status.NAME, self._document(condition, now))

    def _document(self, condition: Condition, now: float) -> dict[str, object]:
        labels = {incident.node for record in self._knowledge.records for incident in record.incidents}
        labels = (labels | set(condition.nodes)) - {self._knowledge.node}
        return {
            "pid": getpid(),
            "beat": rfc3339(now),
            "beat_epoch": now,
            "node": self._knowledge.node,
            "transport": self._transport.kind,
            "place": self._transport.place,
            "accounts": sorted(set(self._config.share.accounts.values())),
            "state": condition.state,
            "since": rfc3339(condition.since),
            "why": self._trouble or condition.why,
            "others_connected": condition.others,
            "nodes": sorted(labels),
            "offset_seconds": condition.offset,
            "latency_seconds": condition.latency,
            "last_news": rfc3339(self._last_news[0]) if self._last_news else None,
            "last_news_from": self._last_news[1] if self._last_news else None,
            "records": len(self._knowledge.records),
            "skipped": dict(self._skipped),
        }

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(locked(self._paths.share / "helper", LOCK_PATIENCE))
            except StateError:
                raise AlreadySharing("`ocwatch share` is already running; see: ocwatch share status") from None
            yield

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, lambda *_: self.stop()) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def run(paths: Paths | None = None) -> None:
    """Run the share process in the foreground until it is stopped.

    Raises:
        ConfigError: The configuration cannot be used, or sharing is not configured.
        AlreadySharing: Another share process is running.
    """
    paths = paths or Paths.from_env()
    config = load(paths)
    if not config.share.wanted:
        raise NotConfigured('nothing is shared: set `"share": {"url": …}` or `{"folder": …}` in the configuration')
    Helper(paths, config).run()
