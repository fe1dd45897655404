"""`ocwatch share`: share cooldowns with other machines, and show whether sharing works."""

from __future__ import annotations

import time
from collections.abc import Mapping

from ocwatchd.cli.commands.doctor import INDENT
from ocwatchd.cli.commands.setup_steps import shown
from ocwatchd.cli.output.escape import escape
from ocwatchd.cli.output.render import iso, say, say_json, screen_width, symbol, tell, wrapped
from ocwatchd.config.loading import load
from ocwatchd.errors import ExitCode
from ocwatchd.paths import Paths
from ocwatchd.service import SHARE, manager_for
from ocwatchd.share.checks import Finding, examine, round_trip
from ocwatchd.share.helper import NotConfigured, run
from ocwatchd.state import share_status
from ocwatchd.state.share_status import Link

OFF = 'Cooldowns are not shared. To share them, set `"share": {"url": …}` or `{"folder": …}` in the configuration.'

OFF_FAULT = f"{OFF[:1].lower()}{OFF[1:].removesuffix('.')}"
"""The same as an error message, which follows the name of the program."""


def serve() -> int:
    """Share cooldowns in the foreground until stopped.

    Raises:
        ConfigError: The configuration cannot be used, or sharing is not configured.
        AlreadySharing: Another `ocwatch share` is running.
    """
    run(Paths.from_env())
    return ExitCode.DONE


def status(as_json: bool = False) -> int:
    """Print the state of sharing, and return the exit code.

    Exit codes: 0 connected or not configured; 1 the server or folder cannot be used; 3 `ocwatch share` is not running.
    """
    now, paths = time.time(), Paths.from_env()
    found = share_status.read(paths.share / share_status.NAME, now)
    wanted = load(paths).share.wanted
    if found is None and wanted:
        found = {"state": Link.STOPPED, "since": None}
    if as_json:
        said = (
            {}
            if found is None
            else {name: value for name, value in found.items() if name not in ("version", "beat_epoch")}
        )
        say_json({"time": iso(now), "wanted": wanted, "state": "off" if found is None else found["state"], **said})
    else:
        tell(OFF if found is None else _text(found))
    if found is None or found.get("state") == Link.CONNECTED:
        return ExitCode.DONE
    return ExitCode.DAEMON_DOWN if found.get("state") == Link.STOPPED else ExitCode.FAILED


def install(as_json: bool = False) -> int:
    """Install the service that runs `ocwatch share`, and start it.

    Raises:
        ConfigError: The configuration cannot be used, or sharing is not configured.
        ServiceFault: The service manager fails.
    """
    paths = Paths.from_env()
    if not load(paths).share.wanted:
        raise NotConfigured(OFF_FAULT)
    manager = manager_for(paths, service=SHARE)
    changed = manager.install()
    if changed or not manager.status().running:
        manager.start()
    status = manager.status()
    if as_json:
        say_json({"time": iso(time.time()), "changed": [str(path) for path in changed], "running": status.running})
        return ExitCode.DONE
    for path in changed:
        tell(f"Wrote {shown(path)}.")
    tell(escape(f"The service is {status.phrase}. To see whether sharing works: ocwatch share status"))
    return ExitCode.DONE


def uninstall(as_json: bool = False) -> int:
    """Stop the service that runs `ocwatch share` and remove its files. Cooldowns received from other machines remain in
    force.

    Raises:
        ServiceFault: The service manager fails.
    """
    gone = manager_for(Paths.from_env(), service=SHARE).uninstall()
    if as_json:
        say_json({"time": iso(time.time()), "removed": [str(path) for path in gone]})
        return ExitCode.DONE
    for path in gone:
        tell(f"Removed {shown(path)}.")
    if not gone:
        tell("The service is not installed.")
    return ExitCode.DONE


def try_it(as_json: bool = False) -> int:
    """Send a test cooldown to the server or folder, wait until this machine receives it, remove it, and print the
    times.

    Raises:
        NotConfigured: Sharing is not configured.
        ShareFault: The cooldown could not be sent or was not received.
    """
    settings = load(Paths.from_env()).share
    if not settings.wanted:
        raise NotConfigured(OFF_FAULT)
    trip = round_trip(settings)
    if as_json:
        offset = None if trip.offset is None else round(trip.offset, 3)
        times = {"stored_seconds": round(trip.stored, 6), "heard_seconds": round(trip.received, 6)}
        say_json({"time": iso(time.time()), **times, "offset_seconds": offset})
        return ExitCode.DONE
    tell(f"A test cooldown was stored in {trip.stored * 1000:.1f} ms and received after {trip.received * 1000:.1f} ms.")
    if trip.offset is not None:
        tell(f"The server's clock differs from this machine's by {trip.offset * 1000:.0f} ms.")
    return ExitCode.DONE


def doctor(as_json: bool = False) -> int:
    """Check all requirements of sharing, print the findings, and return 1 if there is an error, otherwise 0."""
    now, paths = time.time(), Paths.from_env()
    settings = load(paths).share
    findings = list(examine(settings, share_status.read(paths.share / share_status.NAME, now), now))
    if as_json:
        checks = [{"code": f.code, "severity": f.severity, "seen": f.seen, "remedy": f.remedy} for f in findings]
        say_json({"time": iso(now), "checks": checks})
    else:
        for finding in findings:
            say(_check(finding))
    return ExitCode.FAILED if any(finding.severity == "error" for finding in findings) else ExitCode.DONE


def _check(finding: Finding) -> str:
    width = screen_width()
    seen = wrapped(f"{finding.code}: {escape(finding.seen)}", INDENT, width)
    head = f"{symbol(finding.severity)} {seen[INDENT:]}"
    return f"{head}\n{wrapped(f'-> {escape(finding.remedy)}', 2 * INDENT, width)}" if finding.remedy else head


def _text(found: Mapping[str, object]) -> str:
    lines = [_headline(found)]
    if found.get("state") == Link.STOPPED:
        return escape(lines[0])
    count, nodes = found.get("others_connected"), found.get("nodes")
    if count is not None:
        lines.append(f"Other connected machines: {count}.")
    if isinstance(nodes, list) and nodes:
        lines.append(f"Known machines: {', '.join(map(str, nodes))}.")
    offset, latency = found.get("offset_seconds"), found.get("latency_seconds")
    if isinstance(offset, int | float) and isinstance(latency, int | float):
        lines.append(
            f"The server responds in {latency * 1000:.1f} ms. "
            f"Its clock differs from this machine's by {offset * 1000:.0f} ms."
        )
    if found.get("last_news"):
        lines.append(f"Last report received: {found['last_news']}, from {found.get('last_news_from')}.")
    skipped = found.get("skipped")
    if isinstance(skipped, dict) and skipped:
        lines.append(f"Skipped records: {', '.join(f'{count} {why}' for why, count in skipped.items())}.")
    return "\n".join(map(escape, lines))


def _headline(found: Mapping[str, object]) -> str:
    node, place, since, why = (found.get(name) for name in ("node", "place", "since", "why"))
    match found.get("state"):
        case Link.CONNECTED:
            return f"{node} has been sharing cooldowns through {place} since {since}{f', but {why}' if why else ''}."
        case Link.SKEWED:
            return f"{node} is connected to {place}, but has ignored all reports since {since}: {why}."
        case Link.STOPPED:
            return "`ocwatch share` is not running. To start it: ocwatch share install"
        case state:
            return f"{node} cannot reach {place} ({state} since {since}{f': {why}' if why else ''})."
