"""`ocwatch classify`: print which rules match a log, a text or a list of texts, with reasons. It changes nothing."""

from __future__ import annotations

import json
import lzma
import time
from collections.abc import Iterator, Mapping, Sequence
from io import BufferedReader, BytesIO

from ocwatchd.cli.output.escape import escape
from ocwatchd.cli.output.render import iso, say_json_line, tell
from ocwatchd.clock import from_rfc3339
from ocwatchd.config.active_rules import rules_of
from ocwatchd.core.classify.error_details import details_from_text
from ocwatchd.core.classify.rules import RuleSet
from ocwatchd.core.domain.types import Certainty, Hint, LimitEvent, Verdict
from ocwatchd.core.text.redact import reason_of
from ocwatchd.errors import ExitCode, OcwatchError, UsageError
from ocwatchd.logs.scan import limits_from, plain
from ocwatchd.paths import config_file
from ocwatchd.time_words import clock, span, stamp


def classify(
    files: Sequence[str],
    text: str | None = None,
    messages: str | None = None,
    doubtful: bool = False,
    as_json: bool = False,
) -> int:
    """Print the limits in log files, in one text, or in a JSON Lines file of texts, and return 0.

    Raises:
        UsageError: No input, or more than one kind of input, is given.
        OcwatchError: A file cannot be read.
        ConfigError: The configuration, whose `errorPatterns` are applied, cannot be read or used.
    """
    inputs = sum((bool(files), text is not None, messages is not None))
    if inputs != 1:
        kinds = "log files (- is standard input), --text TEXT, or --messages FILE.jsonl"
        raise UsageError(f"use only one of {kinds}" if inputs else f"give either {kinds}")
    rules = rules_of(config_file())
    if text is not None:
        _classify_text(text, rules, as_json)
    elif messages is not None:
        _classify_messages(messages, rules, as_json)
    else:
        for name in files:
            _classify_log(name, rules, doubtful, as_json)
    return ExitCode.DONE


# ---- logs


def _classify_log(name: str, rules: RuleSet, doubtful: bool, as_json: bool) -> None:
    counts: dict[Certainty, int] = {}
    for event in log_events(name, rules):
        certainty = event.verdict.certainty
        counts[certainty] = counts.get(certainty, 0) + 1
        if certainty is Certainty.SURE or doubtful:
            if as_json:
                say_json_line(event_json(event))
            else:
                tell(_event_text(event))
    if not as_json:
        tell(_summary(name, counts))


def log_events(name: str, rules: RuleSet) -> Iterator[LimitEvent]:
    """Yield the events of one log file; `-` is standard input, and xz files are decompressed.

    Raises:
        OcwatchError: The file cannot be read.
    """
    try:
        with _opened(name) as stream:
            yield from limits_from(stream, rules, file=name, mixed=name == "-")
    except (lzma.LZMAError, EOFError) as error:
        raise OcwatchError(f"{name}: the xz data is damaged ({error}); everything before the damage was read") from None
    except OSError as error:
        raise OcwatchError(f"{name} cannot be read: {error.strerror or error}") from None


def _opened(name: str) -> BufferedReader:
    return open(0 if name == "-" else name, "rb", closefd=name != "-")


# ---- texts


def _classify_text(text: str, rules: RuleSet, as_json: bool) -> None:
    """Print the events in the text if it is a log line; otherwise, classify it as a provider's message."""
    events = list(limits_from(BytesIO(text.encode(errors="surrogateescape") + b"\n"), rules))
    events = events or [message_event(text, time.time(), None, None, rules)]
    for event in events:
        if as_json:
            say_json_line(event_json(event))
        else:
            tell(_event_text(event))


def _classify_messages(name: str, rules: RuleSet, as_json: bool) -> None:
    try:
        with _opened(name) as stream:
            for number, line in enumerate(plain(stream), start=1):
                if line.strip():
                    _classify_message(f"{name}, line {number}", line, rules, as_json)
    except OSError as error:
        raise OcwatchError(f"{name} cannot be read: {error.strerror or error}") from None


def _classify_message(place: str, line: bytes, rules: RuleSet, as_json: bool) -> None:
    event = message_event(*_message(place, line), rules)
    if as_json:
        say_json_line(event_json(event))
    else:
        tell(_event_text(event))


def _message(place: str, line: bytes) -> tuple[str, float, str | None, int | None]:
    """Return the text, time, provider and HTTP status in one line of JSON input.

    Raises:
        UsageError: The line is not a JSON object with these fields. The command then stops.
    """
    try:
        value = json.loads(line)
        text, moment = value["text"], value.get("time")
        when = time.time() if moment is None else from_rfc3339(moment)
        status, provider = value.get("status"), value.get("provider")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        raise UsageError(f'{place}: not an object of the form {{"text": …, "time"?: …, "status"?: …}}') from None
    known = isinstance(status, int) and not isinstance(status, bool)
    return str(text), when, provider if isinstance(provider, str) else None, status if known else None


def message_event(text: str, when: float, provider: str | None, status: int | None, rules: RuleSet) -> LimitEvent:
    """Return the event for a provider's message that does not come from a log. The session of the event is unknown."""
    from ocwatchd.core.classify.reset_times import find_hint  # lazy import: not needed to classify a log

    facts = details_from_text(text, status)
    verdict = rules.classify(facts)
    limit = verdict.certainty in (Certainty.SURE, Certainty.DOUBTFUL)
    return LimitEvent(
        time=when,
        provider=provider,
        model=None,
        session=None,
        agent=None,
        small=None,
        status=facts.status,
        verdict=verdict,
        hint=find_hint(facts, when, verdict.kind) if limit else None,
        reason=reason_of(facts.message or text),
    )


# ---- output


def event_json(event: LimitEvent) -> dict[str, object]:
    """Return an event as an object of the JSON contract. `kind` is null unless `certainty` shows that the event is a
    limit.
    """
    verdict, hint = event.verdict, event.hint
    sure = verdict.certainty is Certainty.SURE
    return {
        "file": event.file,
        "offset": event.offset,
        "time": iso(event.time),
        "provider": event.provider,
        "model": event.model,
        "session": event.session,
        "agent": event.agent,
        "small": event.small,
        "status": event.status,
        "kind": verdict.kind.value if sure and verdict.kind else None,
        "scope": verdict.scope.value if sure and verdict.scope else None,
        **_hint_json(hint if sure else None),
        "rule": verdict.rule,
        "reason": event.reason,
        "certainty": verdict.certainty.value,
        "why": verdict.why,
    }


def _hint_json(hint: Hint | None) -> Mapping[str, object]:
    if hint is None:
        return {"until": None, "after_seconds": None, "reset_source": None}
    return {
        "until": iso(hint.until),
        "after_seconds": round(hint.after, 3),
        "reset_source": hint.reset_source.value,
        "hint": hint.source,
        "estimated": hint.estimated,
        "tamed": hint.tamed,
    }


def _event_text(event: LimitEvent) -> str:
    """Return three lines: the limit with its model and session, the provider's message, and the rule."""
    at = stamp(event.time, time.time()) if event.file and event.time is not None else None
    head = [at, _verdict_text(event.verdict), _who(event)]
    rule = f"rule {event.verdict.rule or '-'}: {event.verdict.why}{_hint_text(event)}"
    return "\n".join(
        escape(line) for line in (" ".join(part for part in head if part), f"  {event.reason}", f"  {rule}")
    )


def _who(event: LimitEvent) -> str:
    model = f"{event.provider or '?'}/{event.model or '?'}" if event.provider or event.model else ""
    return " in ".join(part for part in (model, event.session) if part)


def _verdict_text(verdict: Verdict) -> str:
    kind = f"{verdict.kind.value} (scope {verdict.scope.value})" if verdict.kind and verdict.scope else "limit"
    words = {Certainty.SURE: kind, Certainty.DOUBTFUL: f"possibly {kind}", Certainty.UNKNOWN: "no rule matches"}
    return words.get(verdict.certainty, "no limit")


def _hint_text(event: LimitEvent) -> str:
    hint = event.hint
    if hint is None:
        return "; no reset time given" if event.verdict.certainty is Certainty.SURE else ""
    end = clock(hint.until, time.time())
    doubts = [word for word, holds in (("estimated", hint.estimated), (f"adjusted: {hint.tamed}", hint.tamed)) if holds]
    return f"; until {end}, {span(hint.after)} ({', '.join([hint.reset_source.value, *doubts])})"


def _summary(name: str, counts: Mapping[Certainty, int]) -> str:
    sure = counts.get(Certainty.SURE, 0)
    parts = [f"{sure} limit{'' if sure == 1 else 's'}"]
    others = [(Certainty.DOUBTFUL, "doubtful"), (Certainty.UNKNOWN, "matched by no rule")]
    parts += [f"{counts[certainty]} {words}" for certainty, words in others if counts.get(certainty)]
    more = " (to see these, add --doubtful)" if len(parts) > 1 else ""
    return f"# {escape(name)}: {', '.join(parts)}{more}"
