"""`ocwatch doctor`: what is wrong here, and what to do about it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ocwatchd.cli.escape import escape
from ocwatchd.cli.installed import installed_opencode
from ocwatchd.cli.render import iso, say, say_json, screen_width, tell, wrapped
from ocwatchd.doctor.bundle import write_bundle
from ocwatchd.doctor.checks import examine
from ocwatchd.doctor.gather import gather
from ocwatchd.doctor.values import Check, Severity
from ocwatchd.errors import ExitCode
from ocwatchd.paths import Paths

MARKS = {Severity.OK: "✓", Severity.INFO: "·", Severity.WARNING: "!", Severity.ERROR: "✗"}
INDENT = 2


def doctor(as_json: bool = False, bundle: str | None = None) -> int:
    """Examine this home; 1 if anything is an error. With `bundle`, write the archive for a bug report there.

    Raises:
        OcwatchError: the archive cannot be written.
    """
    paths, now = Paths.from_env(), time.time()
    facts = gather(paths, installed_opencode(), now)
    checks = examine(facts)
    names = write_bundle(Path(bundle), paths, facts, checks) if bundle else ()
    if as_json:
        say_json({"time": iso(now), "checks": [_view(check) for check in checks], "bundle": bundle})
    else:
        for check in checks:
            say(_text(check))
        say(f"\n{_summary(checks)}")
        if bundle:
            tell(
                f"Wrote {escape(bundle)}: {', '.join(names)}. Secrets are removed; look through it before you send it."
            )
    return ExitCode.FAILED if any(check.severity is Severity.ERROR for check in checks) else ExitCode.DONE


def _view(check: Check) -> dict[str, object]:
    return {"code": check.code, "severity": check.severity.value, "seen": check.seen, "remedy": check.remedy}


def _text(check: Check) -> str:
    width = screen_width()
    seen = wrapped(f"{check.code}: {escape(check.seen)}", INDENT, width)
    head = f"{MARKS[check.severity]} {seen[INDENT:]}"
    return f"{head}\n{wrapped(f'-> {escape(check.remedy)}', 2 * INDENT, width)}" if check.remedy else head


def _summary(checks: Sequence[Check]) -> str:
    counts = Counter(check.severity for check in checks)
    words = {Severity.ERROR: "error", Severity.WARNING: "warning"}
    said = [f"{counts[kind]} {word}{'' if counts[kind] == 1 else 's'}" for kind, word in words.items() if counts[kind]]
    if not said:
        return "All is well. Whether it works from end to end is shown by: ocwatch drill"
    return f"{' and '.join(said)}. What each code means: docs/doctor.md"
