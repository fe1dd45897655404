"""Pieces of the page: text that is only text, and lengths of time for people."""

from __future__ import annotations

from html import escape as html_escape

from ocwatchd.cli.escape import escape


def text(value: object) -> str:
    """`value` as text of an element or an attribute: no tag, no entity, no control or direction-changing character."""
    return html_escape(escape(str(value)), quote=True)


def lasting(seconds: float | None) -> str:
    """A length of time as people say it: `0.6 s`, `45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    if seconds is None:
        return "–"
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return _two(minutes // 60, "h", minutes % 60, "min")
    hours = round(seconds / 3600)
    return _two(hours // 24, "d", hours % 24, "h")


def _two(large: int, unit: str, small: int, part: str) -> str:
    return f"{large} {unit} {small} {part}" if small else f"{large} {unit}"
