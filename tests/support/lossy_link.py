"""A link between two network namespaces that delays and loses IP packets, with real TCP on both sides.

    with LossyLink() as link:
        Server(…, prefix=link.near, address=link.NEAR)      # listens on one side
        Machine(…, prefix=link.far)                         # connects from the other
        link.set(delay=0.3, loss=0.3)

Each namespace has a TUN device, and a process that has both devices open carries the packets. The kernel's `netem` does
the same, but is missing in many containers. `available` returns whether this user may create namespaces and TUN
devices.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import json
import os
import random
import select
import struct
import subprocess
import sys
import time
from typing import Self

NEAR, FAR = "10.19.0.1", "10.19.0.2"
_CLONE_NEWNET = 0x40000000
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000


def available() -> bool:
    """Return whether a link can be made here."""
    try:
        with LossyLink():
            return True
    except (OSError, RuntimeError):
        return False


class LossyLink:
    """Two network namespaces and the process that connects them."""

    def __enter__(self) -> Self:
        """Create the link, or raise an OSError or a RuntimeError."""
        self._holders = [self._namespace(), self._namespace()]
        numbers = [str(holder.pid) for holder in self._holders]
        self.near, self.far = (("nsenter", f"--net=/proc/{number}/ns/net") for number in numbers)
        self._relay = subprocess.Popen(
            [sys.executable, "-m", "tests.support.lossy_link", *numbers],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self._relay.stdout is not None
        if self._relay.stdout.readline() != b"ready\n":
            self.__exit__()
            raise RuntimeError("no TUN devices")
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes; a namespace disappears with its last process."""
        for process in (self._relay, *self._holders):
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def set(self, *, delay: float = 0.0, loss: float = 0.0) -> None:
        """Delay each packet by `delay` seconds each way and lose the share `loss` of them; 1.0 cuts the link."""
        assert self._relay.stdin is not None
        self._relay.stdin.write(json.dumps([delay, loss]).encode() + b"\n")
        self._relay.stdin.flush()

    def _namespace(self) -> subprocess.Popen[bytes]:
        holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "ip link set lo up && echo ready && exec sleep infinity"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert holder.stdout is not None
        if holder.stdout.readline() != b"ready\n":
            holder.kill()
            holder.wait()
            raise RuntimeError("no network namespaces")
        return holder


def _device(holder: str, address: str, peer: str) -> int:
    """Enter a namespace and return the descriptor of a TUN device in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    place = os.open(f"/proc/{holder}/ns/net", os.O_RDONLY)
    if libc.setns(place, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(place)
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"lossy0", _IFF_TUN | _IFF_NO_PI))
    for words in (["addr", "add", f"{address}/32", "peer", peer, "dev", "lossy0"], ["link", "set", "lossy0", "up"]):
        subprocess.run(["ip", *words], check=True)
    return device


def _carry(ends: tuple[int, int]) -> None:
    """Carry packets between both devices until standard input ends."""
    delay = loss = 0.0
    chance = random.Random(19)
    waiting: list[tuple[float, int, int, bytes]] = []
    count = 0
    while True:
        patience = max(waiting[0][0] - time.monotonic(), 0.0) if waiting else None
        ready, _, _ = select.select([*ends, 0], (), (), patience)
        if 0 in ready:
            line = sys.stdin.buffer.readline()
            if not line:
                return
            delay, loss = json.loads(line)
        for end in ends:
            if end in ready:
                packet = os.read(end, 65536)
                other = ends[1] if end == ends[0] else ends[0]
                if chance.random() >= loss:
                    count += 1
                    heapq.heappush(waiting, (time.monotonic() + delay, count, other, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, other, packet = heapq.heappop(waiting)
            os.write(other, packet)


if __name__ == "__main__":
    both = _device(sys.argv[1], NEAR, FAR), _device(sys.argv[2], FAR, NEAR)
    print("ready", flush=True)
    _carry(both)
