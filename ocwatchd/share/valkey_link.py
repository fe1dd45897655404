"""Share cooldowns through a server with Valkey's protocol.

After each connect, this machine subscribes to changes, reads the stored records, and sends the records that the server
lacks. This also restores a server that has lost its data. From then on, the machine sends and receives changes. The
server merges records with the script `merge.lua`, whose placeholders are replaced with values from
`core.sharing.record`.

Blocking calls run on two threads of this module, with timeouts. Only this module imports `valkey`.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import re
import ssl
import stat
import threading
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from hashlib import sha1
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import valkey
from valkey.backoff import NoBackoff
from valkey.exceptions import NoPermissionError, NoScriptError, OutOfMemoryError, ValkeyError
from valkey.retry import Retry

from ocwatchd.clock import Clock, both_clocks
from ocwatchd.config.model import ShareSettings
from ocwatchd.core.sharing.knowledge import ServerTime
from ocwatchd.core.sharing.merge import is_stale
from ocwatchd.core.sharing.record import (
    FIXED_BYTES,
    KINDS,
    LARGEST,
    MAX_AHEAD,
    MAX_BYTES,
    MAX_INCIDENTS,
    MAX_SKEW,
    SCOPES,
    SOURCES,
    Record,
    Unusable,
    parse,
)
from ocwatchd.core.text.amounts import exactly
from ocwatchd.errors import OcwatchError
from ocwatchd.ownership import open_plain
from ocwatchd.share.transport import Condition
from ocwatchd.state.share_status import Link

OFFER, DROP = "offer", "drop"
"""The operations that the script can apply to the lines passed to it."""
LINES_AT_ONCE = 100
"""Maximum number of lines per call (30 kB). Other clients of the server then wait at most a few milliseconds."""


def script() -> str:
    """Return the script for the server, with all placeholders replaced and without comments."""
    text = resources.files("ocwatchd.share").joinpath("merge.lua").read_text()
    words = {"KINDS": KINDS, "SCOPES": SCOPES, "SOURCES": SOURCES}
    numbers = {
        "MAX_BYTES": MAX_BYTES, "FIXED_BYTES": FIXED_BYTES, "LARGEST": LARGEST, "MAX_INCIDENTS": MAX_INCIDENTS,
        "MAX_SKEW": MAX_SKEW, "MAX_AHEAD": MAX_AHEAD,
    }  # fmt: skip
    filled = {name: _table(ranked) for name, ranked in words.items()} | {name: str(n) for name, n in numbers.items()}
    text = re.sub(r"@([A-Z_]+)@", lambda found: filled[found[1]], text)
    return re.sub(r"(?m)^\s*--.*\n|^\s*\n", "", text)


def digest(text: str) -> str:
    """Return the SHA-1 digest under which the server caches a script."""
    return sha1(text.encode(), usedforsecurity=False).hexdigest()


def _table(words: Sequence[StrEnum]) -> str:
    ranked = ", ".join(f'["{word.value}"] = {rank}' for rank, word in enumerate(words))
    return f"{{ {ranked} }}"


SCRIPT = script()
DIGEST = digest(SCRIPT)
PORT = 6379
TIMEOUT = 5.0
"""Timeout of one command, in seconds. This is enough for twenty round trips over a slow link (250 ms each)."""
CHECK_INTERVAL = 15.0
"""Interval, in seconds, between checks that the server responds and has all our records."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 60.0
"""Pause, in seconds, before the first attempt to reconnect, and maximum pause. The pause doubles with each attempt, and
a random part of up to half of it is subtracted.
"""
CREDENTIAL = "ocwatchd-share"
"""The name of the systemd credential (`LoadCredential=`) with the password."""
SECRET_CAP = 4096
TIME_PROBES = 3
"""Number of times that the server's time is requested after a connect. The fastest response determines the offset
between the clocks.
"""


class SecretFault(OcwatchError):
    """Raised if the password for the server cannot be read. The message names the file and describes the fault."""


def secret(settings: ShareSettings) -> str | None:
    """Return the password for the server, from the configured file or from systemd. Return None if there is no
    password.

    Raises:
        SecretFault: The file cannot be read, is empty, or is readable by other users.
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    credential = Path(directory, CREDENTIAL) if directory else None
    path = settings.secret_file or (credential if credential is not None and credential.exists() else None)
    if path is None:
        return None
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(SECRET_CAP).decode().rstrip("\r\n")
    except (OSError, OcwatchError, UnicodeDecodeError) as fault:
        raise SecretFault(f"the secret in {path} cannot be read: {getattr(fault, 'strerror', None) or fault}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise SecretFault(f"{path} can be read by other users; run: chmod 600 {path}")
    if not text:
        raise SecretFault(f"{path} is empty")
    return text


def names_of(team: str) -> tuple[str, str]:
    """Return the key of a team's records, and the channel of its changes."""
    return f"ocwatchd:{team}:cooldowns", f"ocwatchd:{team}:news"


def connect(settings: ShareSettings) -> Any:
    """Return a client for the configured server. Nothing is sent yet.

    The client does not send its own name and version to the server, as it would by default.

    Raises:
        SecretFault: The password cannot be read.
        OSError: The file with the certificate authorities cannot be read.
    """
    url = urlsplit(settings.url or "")
    options: dict[str, Any] = {
        "username": unquote(url.username) if url.username else None, "password": secret(settings),
        "socket_timeout": TIMEOUT, "socket_connect_timeout": TIMEOUT, "retry": Retry(NoBackoff(), 0),
        "lib_name": None, "lib_version": None,
    }  # fmt: skip
    if url.scheme == "unix":
        return valkey.Valkey(unix_socket_path=unquote(url.path), **options)
    options |= {"host": url.hostname, "port": url.port or PORT, "socket_keepalive": True}
    if url.scheme in ("valkeys", "rediss"):
        if settings.ca is not None:
            settings.ca.open("rb").close()  # raises an error that names the file
        options |= {"ssl": True, "ssl_cert_reqs": "required", "ssl_check_hostname": True}
        options |= {
            "ssl_ca_certs": str(settings.ca) if settings.ca else None,
            "ssl_min_version": ssl.TLSVersion.TLSv1_2,
        }
    return valkey.Valkey(**options)


def listeners(client: Any, channel: str) -> int | None:
    """Return the number of subscribers to the channel, or None if the server does not permit this query."""
    try:
        return int(dict(client.pubsub_numsub(channel)).get(channel.encode(), 0))
    except NoPermissionError:
        return None


def evaluate(client: Any, names: tuple[str, str], how: str, lines: list[bytes]) -> list[bytes]:
    """Run the script with these lines on the server, and return the lines of its response. `how` is OFFER or DROP.
    `names` are the key and the channel of a team.
    """
    key, channel = names
    arguments = (1, key, how, channel, *lines)
    try:
        answer = client.evalsha(DIGEST, *arguments)
    except NoScriptError:
        answer = client.eval(SCRIPT, *arguments)
    return [line for line in answer if isinstance(line, bytes)]


def reason(fault: BaseException) -> str:
    """Return the message of an exception as one short line."""
    text = " ".join(str(fault).split()).rstrip(".") or type(fault).__name__
    return text[:200]


class ValkeyLink:
    """The transport that uses a server. It reconnects until `stop` is called."""

    kind = "server"

    def __init__(
        self, settings: ShareSettings, known: Callable[[], Iterable[Record]], wake: Callable[[], None], clock: Clock
    ) -> None:
        """`known` returns all records and is called from another thread. `wake` is called when lines for `take` have
        arrived or the status has changed.
        """
        self.place = place_of(settings.url or "")
        self._settings, self._known, self._wake, self._clock = settings, known, wake, clock
        self._key, self._channel = names_of(settings.team)
        self._outgoing: queue.SimpleQueue[list[bytes] | BaseException | None] = queue.SimpleQueue()
        self._incoming: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._since_boot: float | None = None
        """The server's time minus the time since this machine's boot, in seconds."""
        self._condition = Condition(since=clock.now())
        self._unstored: list[bytes] = []
        self._latency = 0.0
        self._thread = threading.Thread(target=self._run, name="share", daemon=True)

    def start(self) -> None:
        """Start the thread that connects to the server."""
        self._thread.start()

    def offer(self, records: Iterable[Record]) -> None:
        """Send these records. Without a connection, they are sent after the next connect, together with all other
        records.
        """
        self._outgoing.put([record.line().encode() for record in records])

    def take(self) -> list[bytes]:
        """Return the lines received since the last call."""
        lines: list[bytes] = []
        with contextlib.suppress(queue.Empty):
            while True:
                lines.append(self._incoming.get_nowait())
        return lines

    def server_time(self) -> ServerTime | None:
        """Return the server's clock as last measured, or None before the first connect. The result is correct even
        after our clock has been changed.
        """
        if self._since_boot is None:
            return None
        now, boot = both_clocks(self._clock)
        return ServerTime(self._since_boot + boot - now)

    def condition(self) -> Condition:
        """Return the current status of the connection."""
        return self._condition

    def stop(self) -> None:
        """Stop the threads. Wait at most a second for a command in progress."""
        self._stopping.set()
        self._outgoing.put(None)
        self._thread.join(1.0)

    # ---- on our own thread

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                self._session()
            except (ValkeyError, OSError, OcwatchError, ValueError) as fault:
                failures = 0 if self._condition.state == Link.CONNECTED else failures
                self._gone(reason(fault))
            pause = min(FIRST_PAUSE * 2 ** min(failures, 20), LONGEST_PAUSE)
            failures += 1
            self._stopping.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 (not used for security)

    def _session(self) -> None:
        """Use one connection until it fails or `stop` is called."""
        client = connect(self._settings)
        news = client.pubsub()
        try:
            news.subscribe(self._channel)
            if news.get_message(timeout=TIMEOUT) is None:
                raise TimeoutError("the server did not confirm the subscription")
            self._forget_outgoing()
            self._measure(client)
            self._reconcile(client)
            listener = threading.Thread(target=self._listen, args=(news,), name="share news", daemon=True)
            listener.start()
            self._connected(client)
            self._serve(client)
        finally:
            for closing in (news, client):
                with contextlib.suppress(ValkeyError, OSError):
                    closing.close()
            self._outgoing.put([])  # discard the listener's error, which concerns only this connection
            self._forget_outgoing()

    def _serve(self, client: Any) -> None:
        while not self._stopping.is_set():
            try:
                item = self._outgoing.get(timeout=CHECK_INTERVAL)
            except queue.Empty:
                self._measure(client)
                self._reconcile(client)
                self._connected(client)
                continue
            if isinstance(item, BaseException):
                raise item
            if item is not None:
                self._send(client, item)

    def _listen(self, news: Any) -> None:
        """Receive the messages from the channel. After CHECK_INTERVAL seconds without a message, test the connection
        with a ping.
        """
        asked = False
        try:
            while not self._stopping.is_set():
                message = news.get_message(timeout=TIMEOUT if asked else CHECK_INTERVAL)
                if message is None and asked:
                    raise TimeoutError("the server does not respond")
                if message is None:
                    news.ping()
                asked = message is None
                if message is not None and message["type"] == "message":
                    self._deliver([message["data"]])
        except (ValkeyError, OSError, ValueError, AttributeError, TypeError) as fault:
            # Errors are expected here when the other thread closes the sockets during shutdown.
            self._outgoing.put(fault if isinstance(fault, ValkeyError | OSError) else ConnectionError(str(fault)))

    def _measure(self, client: Any) -> None:
        best: tuple[float, float] | None = None
        for _ in range(TIME_PROBES if self._condition.state != Link.CONNECTED else 1):
            _, sent = both_clocks(self._clock)
            seconds, microseconds = client.time()
            _, received = both_clocks(self._clock)
            took = received - sent
            if best is None or took < best[0]:
                best = took, seconds + microseconds / 1e6 - (sent + received) / 2
        assert best is not None
        self._since_boot = best[1]
        self._latency = best[0]

    def _reconcile(self, client: Any) -> None:
        """Receive the records that the server stores, and send the records that it lacks.

        This also recovers changes whose messages were lost.
        """
        stored = [line for line in client.hvals(self._key) if isinstance(line, bytes)]
        self._deliver(stored)
        self._drop_stale(client, stored)
        held = set(stored)
        known = [line for record in self._known() if (line := record.line().encode()) not in held]
        self._send(client, known)

    def _drop_stale(self, client: Any, stored: list[bytes]) -> None:
        clock = self.server_time()
        assert clock is not None
        now = clock.of(self._clock.now())
        stale = []
        for line in stored:
            with contextlib.suppress(Unusable):
                if is_stale(parse(line), now):
                    stale.append(line)
        if stale:
            evaluate(client, (self._key, self._channel), DROP, stale[:LINES_AT_ONCE])

    def _send(self, client: Any, lines: list[bytes]) -> None:
        """Send these lines to the server. If the server is out of memory, keep them for the next call."""
        lines, self._unstored = [*self._unstored, *lines], []
        clock = self.server_time()
        if not lines or clock is None or not clock.trusted:
            return
        for at in range(0, len(lines), LINES_AT_ONCE):
            chunk = lines[at : at + LINES_AT_ONCE]
            try:
                self._deliver(evaluate(client, (self._key, self._channel), OFFER, chunk))
            except OutOfMemoryError as fault:
                self._unstored = lines[at:]
                self._connected(client, f"the server cannot store more records ({reason(fault)})")
                return
        if self._condition.why:
            self._connected(client)

    def _deliver(self, lines: Iterable[bytes]) -> None:
        some = False
        for line in lines:
            self._incoming.put(line)
            some = True
        if some:
            self._wake()

    def _forget_outgoing(self) -> None:
        """Empty the queue. No record is lost, because all records are sent after a connect."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._outgoing.get_nowait()

    def _connected(self, client: Any, why: str = "") -> None:
        clock = self.server_time()
        assert clock is not None
        state = Link.CONNECTED if clock.trusted else Link.SKEWED
        if state == Link.SKEWED:
            why = f"the clocks of this machine and of the server differ by {exactly(abs(clock.offset))}: correct them"
        others = listeners(client, self._channel)
        others = None if others is None else max(others - 1, 0)
        before = self._condition
        since = before.since if (before.state, bool(before.why)) == (state, bool(why)) else self._clock.now()
        self._condition = Condition(state, since, why, others, offset=clock.offset, latency=self._latency)
        self._wake()

    def _gone(self, why: str) -> None:
        if self._stopping.is_set():
            return
        gone = self._condition.state == Link.GONE
        self._condition = Condition(Link.GONE, self._condition.since if gone else self._clock.now(), why)
        self._wake()


def place_of(url: str) -> str:
    """Return the URL of the server without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
