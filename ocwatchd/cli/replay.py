"""`ocwatch forecast --replay`: what the learnt rule would have said in the last week, beside a naive one."""

from __future__ import annotations

import time

from ocwatchd.cli.render import iso, say, say_json, screen_width, span, table, wrapped
from ocwatchd.core.forecast import separate
from ocwatchd.core.judge import SKIP, Verdict, judge, learnt_rule, naive_rule
from ocwatchd.errors import ExitCode
from ocwatchd.foresight import met
from ocwatchd.opencode.sessions import SessionStore
from ocwatchd.paths import Paths
from ocwatchd.state.journal import Journal

RULES = {"learnt": learnt_rule, "naive": naive_rule}
ABOUT = (
    'An alarm is "within two minutes", and right if a limit came within fifteen. Naive: four fifths of the least that '
    "was used in the hour before any limit. Each rule knows only what lay before."
)


def replay(json: bool = False) -> int:
    """Judge both rules for every model that met enough limits."""
    now, paths = time.time(), Paths.from_env()
    found: list[tuple[str, int, dict[str, Verdict]]] = []
    few: dict[str, int] = {}
    for name, (uses, limits) in sorted(met(SessionStore(paths.opencode_data), Journal(paths.journal), now).items()):
        verdicts = {rule: verdict for rule, by in RULES.items() if (verdict := judge(by, uses, limits))}
        if verdicts and uses:
            found.append((name, len(separate(limits)), verdicts))
        else:
            few[name] = len(separate(limits))
    if json:
        say_json({"time": iso(now), "replays": [_as_json(*one) for one in found], "too_few_limits": few})
        return ExitCode.DONE
    if found:
        rows = [_row(name, rule, verdict) for name, _, verdicts in found for rule, verdict in verdicts.items()]
        say(table(("MODEL", "RULE", "ALARMS", "PRECISION", "FORETOLD", "LEAD"), rows))
        say("\n" + wrapped(ABOUT, 0, screen_width()))
    for name, limits_met in few.items():
        say(f"{name}: {limits_met} limit{'s' if limits_met != 1 else ''} in a week; {SKIP} are for learning")
    if not found and not few:
        say("No limit was met within the last week.")
    return ExitCode.DONE


def _row(name: str, rule: str, verdict: Verdict) -> tuple[str, ...]:
    parts = (f"{verdict.alarms}", f"{verdict.precision:.2f}", f"{verdict.recall:.2f}", span(verdict.lead))
    return name, rule, *parts


def _as_json(name: str, limits: int, verdicts: dict[str, Verdict]) -> dict[str, object]:
    rules = {
        rule: {
            "alarms": verdict.alarms,
            "precision": round(verdict.precision, 4),
            "recall": round(verdict.recall, 4),
            "lead_seconds": round(verdict.lead, 3),
        }
        for rule, verdict in verdicts.items()
    }
    return {"model": name, "limits": limits, **rules}
