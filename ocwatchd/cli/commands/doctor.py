"""`ocwatch doctor`: print the problems of this installation and the remedy for each."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

from ocwatchd import DOCUMENTATION
from ocwatchd.cli.commands.run import installed_opencode
from ocwatchd.cli.output.escape import escape
from ocwatchd.cli.output.render import iso, say, say_json, screen_width, symbol, tell, wrapped
from ocwatchd.doctor.bundle import write_bundle
from ocwatchd.doctor.checks import examine
from ocwatchd.doctor.gather import gather
from ocwatchd.doctor.values import Check, Facts, Severity
from ocwatchd.errors import ExitCode, OcwatchError
from ocwatchd.paths import Paths

INDENT = 2


def doctor(as_json: bool = False, bundle: str | None = None) -> int:
    """Check this installation, and return 1 if there is an error, otherwise 0.

    `bundle` is the path of an archive for a bug report, or None if the user did not request an archive.

    Raises:
        OcwatchError: The archive cannot be written.
    """
    # a missing directory is most likely a typo, so it is not created
    if bundle and not Path(bundle).absolute().parent.is_dir():
        raise OcwatchError(f"{bundle} cannot be written, because its directory does not exist")
    # A state directory that belongs to another user is reported as a finding, so it must not raise an error here.
    paths, now = Paths.from_env(checked=False), time.time()
    facts = gather(paths, installed_opencode(), now)
    checks = examine(facts)
    names, on_stdout = write_bundle(Path(bundle), paths, facts, checks) if bundle else ((), False)
    with redirect_stdout(sys.stderr) if on_stdout else nullcontext():
        _show(facts, checks, as_json, bundle, names)
    return ExitCode.FAILED if any(check.severity is Severity.ERROR for check in checks) else ExitCode.DONE


def _show(facts: Facts, checks: Sequence[Check], as_json: bool, bundle: str | None, names: Sequence[str]) -> None:
    if as_json:
        endpoints = [dict(one) for one in facts.endpoint_statuses]
        found = [_view(check) for check in checks]
        say_json({"time": iso(facts.now), "checks": found, "endpoints": endpoints, "bundle": bundle})
    else:
        for check in checks:
            say(text_of(check))
        say(f"\n{_summary(checks)}")
        if bundle:
            tell(
                f"Wrote {escape(bundle)}: {', '.join(names)}. Secrets are removed. Check the archive before you send "
                "it."
            )


def _view(check: Check) -> dict[str, object]:
    return {"code": check.code, "severity": check.severity.value, "seen": check.seen, "remedy": check.remedy}


def text_of(check: Check) -> str:
    """Return a finding with its remedy, wrapped to the width of the terminal."""
    width = screen_width()
    seen = wrapped(f"{check.code}: {escape(check.seen)}", INDENT, width)
    head = f"{symbol(check.severity.value)} {seen[INDENT:]}"
    if not check.remedy:
        return head
    copied = bool(check.command) and check.remedy.endswith(check.command)
    remedy = check.remedy.removesuffix(check.command)
    command = f"\n{' ' * 3 * INDENT}{escape(check.command)}" if copied else ""
    return f"{head}\n{wrapped(f'-> {escape(remedy)}', 2 * INDENT, width)}{command}"


def _summary(checks: Sequence[Check]) -> str:
    counts = Counter(check.severity for check in checks)
    words = {Severity.ERROR: "error", Severity.WARNING: "warning"}
    said = [f"{counts[kind]} {word}{'' if counts[kind] == 1 else 's'}" for kind, word in words.items() if counts[kind]]
    if not said:
        return "No problems found. For an end-to-end test: ocwatch drill"
    return f"{' and '.join(said)}.\nFor the codes: {DOCUMENTATION}/doctor.md"
