"""A TCP proxy for tests that records the traffic, and can delay it, lose pieces of it at random, or cut the link.

TCP repeats a lost packet after at least 200 ms and keeps the order, so a loss of 30 % delays pieces of a stream and all
pieces after them. `loss` imitates that where no network namespace is available.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from pathlib import Path

RETRANSMIT = 0.2
"""Time, in seconds, after which TCP first repeats a lost packet; the interval doubles with each repetition."""
PIECE = 1400


class Proxy:
    """Listens on loopback and passes connections on to a TCP port or a unix socket."""

    def __init__(self, target: int | Path) -> None:
        """Prepare the proxy; nothing listens before `__enter__`."""
        self._target = target
        self.port = 0
        self.sent, self.received = bytearray(), bytearray()
        """All data sent by the clients, and all data sent by the server."""
        self.delay = 0.0
        """Delay in each direction, in seconds."""
        self.loss = 0.0
        """The share of pieces that are lost and repeated, from 0 to 1."""
        self.cut = False
        """Whether all data is held back without closing a connection, as if the cable were unplugged."""
        self._random = random.Random(19)
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._writers: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> Proxy:
        """Start listening."""
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        """End all connections."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def set(self, *, delay: float = 0.0, loss: float = 0.0) -> None:
        """Delay each piece by `delay` seconds each way and lose the share `loss` of them; 1.0 cuts the link."""
        self.delay, self.loss, self.cut = delay, loss if loss < 1.0 else 0.0, loss >= 1.0

    def reset(self) -> None:
        """Break the open connections, as a restarted router does."""
        self._loop.call_soon_threadsafe(self._break)

    def _break(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._break()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.cut:
            await self._until_mended()
        try:
            if isinstance(self._target, int):
                onward = await asyncio.open_connection("127.0.0.1", self._target)
            else:
                onward = await asyncio.open_unix_connection(str(self._target))
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, onward[1]}
        there = self._pass(reader, onward[1], self.sent)
        back = self._pass(onward[0], writer, self.received)
        await asyncio.gather(there, back)
        self._writers -= {writer, onward[1]}

    async def _until_mended(self) -> None:
        while self.cut:
            await asyncio.sleep(0.02)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray) -> None:
        """Pass pieces on in their order, each when it is due, while the reader continues."""
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                due, data = await pieces.get()
                await asyncio.sleep(max(due - loop.time(), 0.0))
                await self._until_mended()
                writer.write(data)
                if not data:
                    writer.close()
                    return

        sending = asyncio.ensure_future(deliver())
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE):
                record += data
                late, pause = self.delay, RETRANSMIT
                while self._random.random() < self.loss:
                    late, pause = late + pause, pause * 2
                pieces.put_nowait((loop.time() + late, data))
        pieces.put_nowait((loop.time() + self.delay, b""))
        with contextlib.suppress(OSError):
            await sending
