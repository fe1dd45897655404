"""Escape text from logs, files and providers: one function for each output format.

`escape` is for terminals, where text must not move the cursor or change the direction of a line. ocwatchd has its own
function, because rich (15.0) does not remove OSC and CSI sequences from table cells. HTML pages use
`cli/report/page.py`, and commands for a shell are quoted with `shlex`.
"""

from __future__ import annotations

_RANGES = (
    (0x00, 0x1F),  # C0: escape, carriage return, backspace, newline, tab
    (0x7F, 0x9F),  # delete, and C1: U+009B alone starts a sequence on some terminals
    (0xAD, 0xAD),  # soft hyphen
    (0x61C, 0x61C),  # Arabic letter mark
    (0x180E, 0x180E),
    (0x200B, 0x200F),  # zero-width characters and direction marks
    (0x2028, 0x202E),  # line and paragraph separator, bidirectional embedding and override
    (0x2060, 0x206F),  # invisible operators, bidirectional isolates
    (0xD800, 0xDFFF),  # lone surrogates: they cannot be encoded
    (0xFEFF, 0xFEFF),
    (0xFFF9, 0xFFFB),
    (0xE0000, 0xE007F),  # tags: invisible text
)


def escape(text: str) -> str:
    """Return `text` with control, invisible and direction-changing characters written as `\\x1b`, `\\u202e` etc."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if _harmless(ord(char)) else _written(ord(char)) for char in text)


def _harmless(code: int) -> bool:
    return not any(first <= code <= last for first, last in _RANGES)


def _written(code: int) -> str:
    if code in (0x09, 0x0A, 0x0D):
        return {0x09: r"\t", 0x0A: r"\n", 0x0D: r"\r"}[code]
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_MARKUP = frozenset("#%^$&<{}|\\`")
"""Characters that begin markup or a command in some status bar or prompt.

Examples: `#(…)` in tmux, `%{A1:…:}` in polybar and lemonbar, `^ca(…)` in dzen2, `<…>` and `&…;` in Pango,
` | bash=…` in argos and xbar; `$(…)`, a backquote and a backslash in a prompt.
"""


def neutral(text: str) -> str:
    """Return `text` escaped for an unknown status bar or prompt. Characters that it might interpret become question
    marks.
    """
    text = escape(text)
    return "".join("?" if char in _MARKUP else char for char in text) if not _MARKUP.isdisjoint(text) else text


def tmux(text: str) -> str:
    """Return `text` escaped for tmux, which also expands formats in the output of `#(…)` (3.3a)."""
    return escape(text).replace("#", "##")


def pango(text: str) -> str:
    """Return `text` escaped as Pango markup; line breaks are kept."""
    lines = "\n".join(map(escape, text.split("\n")))
    return lines.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def prometheus(text: str) -> str:
    """Return `text` as the value of a Prometheus label.

    Control characters are legal in a label, but are escaped, because users also read the text in terminals.
    """
    lines = (escape(line).replace("\\", "\\\\").replace('"', '\\"') for line in text.split("\n"))
    return "\\n".join(lines)
