"""Where each key of a configuration stands: for complaints that name the right line, whatever else the file holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

Path = tuple[str | int, ...]

_WORD = re.compile(r'"(?:\\.|[^"\\])*"|' r"'(?:\\.|[^'\\])*'|[{}\[\]:,]|[^\s{}\[\]:,\"']+|[\"']")


class Positions:
    """The lines of one text whose comments are blanked out; JSON5's bare and single-quoted keys are known too.

    `repeated` are the keys that stand twice in one object: the path and the line of the later one, which counts.
    """

    __slots__ = ("_lines", "repeated")

    def __init__(self, text: str) -> None:
        """Read `text`. Never raises: of a text that is no JSON the beginning is known."""
        self._lines: dict[Path, int] = {}
        self.repeated: list[tuple[Path, int]] = []
        for path, line in _places(text):
            if path in self._lines and isinstance(path[-1], str):
                self.repeated.append((path, line))
            self._lines[path] = line

    def line(self, path: Path) -> int | None:
        """The line on which this key, or item of a list, stands; of something unknown its parent's."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return None


def _places(text: str) -> Iterator[tuple[Path, int]]:
    """Each key and item with its line. One pass, no recursion: nesting may be hostile."""
    above: list[str | int] = []
    objects: list[bool] = []  # of what is open: whether it is an object; `above` holds its present key or index
    key_follows = False
    line, counted = 1, 0
    for found in _WORD.finditer(text):
        line += text.count("\n", counted, found.start())
        counted = found.start()
        word = found.group()
        if word in ("}", "]"):
            key_follows = False
            if objects:
                objects.pop()
                above.pop()
        elif word == ",":
            key_follows = bool(objects) and objects[-1]
            if objects and not key_follows:
                above[-1] = int(above[-1]) + 1
        elif key_follows:
            above[-1] = _name(word)
            key_follows = False
            yield tuple(above), line
        elif word != ":":
            if objects and not objects[-1]:
                yield tuple(above), line
            if word in ("{", "["):
                key_follows = word == "{"
                objects.append(key_follows)
                above.append("" if key_follows else 0)


def _name(word: str) -> str:
    if word.startswith('"'):
        try:
            return str(json.loads(word))
        except ValueError:
            return word[1:-1]
    return word.strip("'")
