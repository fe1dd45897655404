"""Tests of what stopped a run: its user, or the clean-up of the run before, by the order of real OpenCodes' events."""

from __future__ import annotations

import pytest

from ocwatchd.opencode.client.session_events import AbortTrace, Signal

C, P, B, I = Signal.CLOSED, Signal.PROMPT, Signal.BUSY, Signal.IDLE  # noqa: E741 (as in the sequences below)
OLD, NEW = "msg_old", "msg_new"
ABORTS = {
    "1.1.65": (I, I, (C, OLD), I),
    "1.3.2": (I, I, (C, OLD), I),
    "1.14.41": ((C, OLD), I),
    "1.18.33": ((C, OLD), I),
}
"""Recorded events that follow one of our aborts."""
STOPS = {
    "1.1.65": (I, I, (C, NEW), I),
    "1.18.33": (I, (C, NEW), I),
    "1.18.33, before its stream begins": ((C, NEW), I),
}


def told(trace: AbortTrace, *signals: Signal | tuple[Signal, str]) -> AbortTrace:
    for signal in signals:
        trace.see(*(signal if isinstance(signal, tuple) else (signal,)))
    return trace


def aborted(*signals: Signal | tuple[Signal, str]) -> AbortTrace:
    trace = told(AbortTrace(), B)
    trace.abort(OLD)
    return told(trace, *signals)


@pytest.mark.parametrize("version", ABORTS)
def test_an_idle_after_the_closed_answer_proves_that_the_old_run_is_over(version: str) -> None:
    *before, last = ABORTS[version]
    trace = aborted(*before)
    assert (trace.closed, trace.over, trace.end_to_come) == (True, False, True)
    told(trace, last)
    assert (trace.over, trace.ended) == (True, False)


def test_where_no_idle_comes_at_the_end_none_is_waited_for() -> None:
    trace = aborted(I, (C, OLD))  # 1.0.185
    assert (trace.closed, trace.over, trace.end_to_come) == (True, False, False)


def test_another_answer_that_is_closed_proves_nothing() -> None:
    """A step of the same turn was finished when the move aborted it."""
    trace = aborted((C, "msg_step"), I)
    assert (trace.closed, trace.over) == (False, False)


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("version", ABORTS)
def test_what_stops_the_new_run_after_that_is_its_user(version: str, stop: str) -> None:
    trace = aborted(*ABORTS[version])
    trace.post()
    told(trace, P, B, P, B)
    assert not trace.ended
    told(trace, *STOPS[stop])
    assert (trace.ended, trace.overruled) == (True, False)


def test_what_ends_before_our_abort_or_before_our_post_was_not_ended_by_us() -> None:
    assert told(AbortTrace(), B, I).ended
    trace = aborted(*ABORTS["1.3.2"], I)
    assert (trace.over, trace.ended) == (True, True)


def test_a_stop_while_the_new_run_begins_holds_whether_opencode_keeps_it_or_not() -> None:
    trace = aborted(*ABORTS["1.18.33"])
    trace.post()
    assert told(trace, P, I).ended
    assert not trace.overruled
    told(trace, B)
    assert (trace.ended, trace.overruled) == (False, True)


@pytest.mark.parametrize(("signals", "overruled"), [((I, P, B), False), ((P, I, B), True)])
def test_of_a_run_that_had_failed_an_idle_before_our_prompt_may_be_its_own_late_one(
    signals: tuple[Signal, ...], overruled: bool
) -> None:
    trace = AbortTrace()
    trace.post()
    assert told(trace, *signals).overruled is overruled
