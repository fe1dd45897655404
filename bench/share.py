"""Measure the cost of shared cooldowns, and the time until another machine applies them.

    python bench/share.py [--events 200] [--seconds 60] [--tls]

Two homes on loopback each run a real `ocwatch share`, with a real server. A limit is written to one home's blacklist as
the daemon writes it. The clock runs from before that write until the other home's blacklist redirects new prompts.
Afterwards, both homes idle, and the cost of the helper and of a daemon (alone, and beside a helper) is read from /proc
(Linux).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
import time
from pathlib import Path
from statistics import quantiles

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.idle import SETTLE, measure
from ocwatchd.core.domain.types import ModelRef
from tests.support.certificates import authority, certificate
from tests.support.daemon import Daemon
from tests.support.homes import Home
from tests.support.processes import start, stop
from tests.support.share import Machine
from tests.support.valkey_server import Server

ACCOUNTS = {"anthropic": "team-max-1"}
PAUSE = 0.15
"""Time, in seconds, between two limits. The helper pauses after each write, and single limits are to be measured."""


def settings(server: Server, node: str, ca: Path | None) -> dict[str, object]:
    """Return the `share` section of one machine's configuration."""
    if ca is not None:
        return {"url": f"valkeys://localhost:{server.tls_port}", "ca": str(ca), "node": node, "accounts": ACCOUNTS}
    return {"url": f"valkey://127.0.0.1:{server.port}", "node": node, "accounts": ACCOUNTS}


def latencies(a: Machine, b: Machine, events: int) -> list[float]:
    """Return the seconds from each limit in `a` to its prevention in `b`."""
    found = []
    for number in range(events):
        model = ModelRef("anthropic", f"model-{number % 3}")
        begun = time.monotonic()
        a.limit(model)
        while not b.prevented(model):
            time.sleep(0.0005)
        found.append(time.monotonic() - begun)
        a.answered(model)
        while b.prevented(model):
            time.sleep(0.005)
        time.sleep(PAUSE)
    return found


def daemon_row(share: dict[str, object] | None, seconds: float) -> str:
    """Return an idle daemon's row, beside a helper if `share` is given. The first column is the CPU time for
    the start.
    """
    with tempfile.TemporaryDirectory(prefix="ocw-") as scratch:
        home = Home(Path(scratch), "http://127.0.0.1:9")
        more = {} if share is None else {"share": share}
        with contextlib.redirect_stdout(io.StringIO()), Daemon(home, **more) as daemon:
            used = Path(f"/proc/{daemon.pid}/schedstat").read_text().split()[0]
            helper = None
            if share is not None:
                helper = start(
                    (sys.executable, "-m", "ocwatchd.cli", "share"), home, home.root, home.root / "share.err"
                )
            time.sleep(SETTLE)
            row = measure(daemon.pid, seconds)
            if helper is not None:
                stop(helper, 8)
            return f"{int(used) / 1e9:8.2f} {row}"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="Latency and cost of shared cooldowns.")
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tls", action="store_true", help="use TLS, with a certificate authority made for the run")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ocw-") as scratch:
        root = Path(scratch)
        tls = certificate(root / "tls", authority(root / "tls")) if wanted.tls else None
        with Server(root / "server", tls=tls) as server:
            ca = tls[2] if tls else None
            a, b = (Machine(root / node, settings(server, node, ca)) for node in ("a", "b"))
            with a, b:
                cuts = quantiles(latencies(a, b, wanted.events), n=100)
                middle, last = cuts[49] * 1000, cuts[98] * 1000
                print(f"limit to prevention, {wanted.events} limits: p50 {middle:.1f} ms, p99 {last:.1f} ms")
                print(f"\n{'':22} {'start s':>8} {'CPU s/min':>12} {'wake-ups/min':>12}", end="")
                print(f" {'RSS MiB':>8} {'peak':>8} {'threads':>8}")
                time.sleep(SETTLE)
                print(f"{'ocwatch share':22} {'':8} {measure(b.pid, wanted.seconds)}", flush=True)
            print(f"{'daemon, share off':22} {daemon_row(None, wanted.seconds)}", flush=True)
            print(f"{'daemon, share on':22} {daemon_row(settings(server, 'c', ca), wanted.seconds)}", flush=True)


if __name__ == "__main__":
    main()
