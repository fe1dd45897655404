"""Text from logs, files and providers on its way to a terminal: nothing in it may move the cursor or reverse a line.

Done here and not left to rich, whose table cells let OSC and CSI sequences through (15.0).
"""

from __future__ import annotations

_RANGES = (
    (0x00, 0x1F),  # C0: escape, carriage return, backspace, newline, tab
    (0x7F, 0x9F),  # delete, and C1: U+009B alone starts a sequence on some terminals
    (0xAD, 0xAD),  # soft hyphen
    (0x61C, 0x61C),  # Arabic letter mark
    (0x180E, 0x180E),
    (0x200B, 0x200F),  # zero width, and the marks of direction
    (0x2028, 0x202E),  # line and paragraph separator, bidirectional embedding and override
    (0x2060, 0x206F),  # invisible operators, bidirectional isolates
    (0xD800, 0xDFFF),  # lone surrogates: they cannot be encoded
    (0xFEFF, 0xFEFF),
    (0xFFF9, 0xFFFB),
    (0xE0000, 0xE007F),  # tags: invisible text
)


def escape(text: str) -> str:
    """`text` with every control, invisible and direction-changing character written as `\\x1b`, `\\u202e` and so on."""
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
