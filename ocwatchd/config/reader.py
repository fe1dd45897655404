"""Read JSON with comments, and find the line of each key, so that every message can name the file, line and key.

Comments and trailing commas are replaced by spaces, so that line numbers stay correct. The library json5 (0.17) takes
0.26 s for a configuration of 33 kB, so it is used only if the text is still not JSON after these replacements.
"""

from __future__ import annotations

import json
import os
import re
import stat
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence

from ocwatchd.errors import ConfigError

SIZE_CAP = 4 << 20
"""Maximum size, in bytes, of a configuration. Real configurations are a few kB long."""

_STRING = r'"(?:\\.|[^"\\])*"'
# These expressions are compiled only if a file is not plain JSON: compiling them takes 1 ms of the 25 ms of CPU time
# that `ocwatch pick` may use.
_COMMENTS = _STRING + r"|//[^\n]*|/\*.*?\*/"
_TRAILING_COMMAS = _STRING + r"|,(?=\s*[}\]])"


class Fault(ConfigError):
    """An error or warning about a configuration file. `line` is None if unknown, and `key` is empty if unknown."""

    def __init__(
        self, path: str, message: str, line: int | None = None, key: str = "", column: int | None = None
    ) -> None:
        """Store the values, and compose the message in the form `file, line 7: rateLimit.mode: message`."""
        self.path, self.message, self.line, self.key = path, message, line, key
        place = "".join((path, f", line {line}" if line else "", f", column {column}" if column else ""))
        super().__init__(": ".join(part for part in (place, key, message) if part))


class Document:
    """The content of a configuration file as an object and as text. The object is empty if the file is missing or
    empty.
    """

    __slots__ = ("_positions", "data", "exists", "path", "text")

    def __init__(self, path: str, text: str = "", data: dict[str, object] | None = None, exists: bool = False) -> None:
        """Store the file's content."""
        self.path = path
        self.text = text
        self.data = data if data is not None else {}
        self.exists = exists
        self._positions: Positions | None = None

    def fault(self, keys: Sequence[str | int], message: str) -> Fault:
        """Return the error or warning for the value under `keys`. A number in `keys` is an index in a list."""
        return Fault(self.path, message, self.positions().line(tuple(keys)), dotted(keys))

    def positions(self) -> Positions:
        """Return the line number of each key. The text is scanned on the first call."""
        if self._positions is None:
            self._positions = Positions(blank_comments(self.text))
        return self._positions


def dotted(keys: Sequence[str | int]) -> str:
    """Return a path of keys as text, such as `rateLimit.errorPatterns[2]`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def read_document(path: str | os.PathLike[str]) -> Document:
    """Read a configuration file.

    Raises:
        ConfigError: The file exists but cannot be read, or does not contain a JSON object.
    """
    name = os.fspath(path)
    text = read_text(name)
    if text is None:
        return Document(name)
    # A file that begins with an object is not searched for comments, because compiling two expressions takes 2 ms of
    # CPU time.
    written = text.lstrip().startswith("{") or blank_comments(text).strip()
    data = parse(text, name) if written else {}
    if not isinstance(data, dict):
        raise Fault(name, "the file must contain an object, { … }", 1)
    return Document(name, text, data, exists=True)


def read_text(name: str) -> str | None:
    """Return the text of a configuration file, or None if there is no file.

    Raises:
        ConfigError: The file cannot be read, is not a plain file, is too long, or is not UTF-8.
    """
    try:
        # symbolic links are followed, because many users link their dotfiles
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise Fault(name, f"cannot be read: {error.strerror}") from None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size > SIZE_CAP:
            raise Fault(name, f"is not a plain file of at most {SIZE_CAP} bytes")
        data = os.read(fd, SIZE_CAP)
    finally:
        os.close(fd)
    try:
        return data.removeprefix(BOM_UTF8).decode()  # decoding with utf-8-sig would import one more module
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Fault(name, "is not UTF-8 text; save the file as UTF-8", line) from None


def parse(text: str, name: str) -> object:
    """Return the value in `text`: JSON, JSON with comments and trailing commas, or JSON5.

    Raises:
        ConfigError: The text is none of these. The message names the file and the line.
    """
    try:
        return json.loads(text)
    except ValueError:
        pass
    except RecursionError:
        raise Fault(name, "nested too deeply") from None
    try:
        return json.loads(blank_comments(text))
    except (ValueError, RecursionError) as error:
        return _json5(text, name, error)


def blank_comments(text: str) -> str:
    """Return the text with comments and trailing commas replaced by spaces, so that line numbers stay the same."""
    without = re.sub(_COMMENTS, _blank, text, flags=re.DOTALL)
    return re.sub(_TRAILING_COMMAS, _blank, without, flags=re.DOTALL)


def _blank(found: re.Match[str]) -> str:
    part = found.group()
    return part if part.startswith('"') else re.sub(r"[^\n]", " ", part)


def _json5(text: str, name: str, first: Exception) -> object:
    import json5  # lazy import: rarely needed

    try:
        return json5.loads(text)
    except (ValueError, RecursionError):
        pass
    message = f"not JSON: {getattr(first, 'msg', None) or 'nested too deeply'}"
    raise Fault(name, message, getattr(first, "lineno", None), column=getattr(first, "colno", None)) from None


Path = tuple[str | int, ...]

_WORD = re.compile(r'"(?:\\.|[^"\\])*"|' r"'(?:\\.|[^'\\])*'|[{}\[\]:,]|[^\s{}\[\]:,\"']+|[\"']")


class Positions:
    """The line of each key in a text without comments. Unquoted and single-quoted keys (JSON5) are also recognized.

    `repeated` contains the path and line of each key that occurs twice in one object. The line is the line of the
    second occurrence, because JSON uses that value.
    """

    __slots__ = ("_lines", "repeated")

    def __init__(self, text: str) -> None:
        """Find the keys in `text`. The method never raises. In invalid JSON, keys are found up to the fault."""
        self._lines: dict[Path, int] = {}
        self.repeated: list[tuple[Path, int]] = []
        for path, line in _places(text):
            if path in self._lines and isinstance(path[-1], str):
                self.repeated.append((path, line))
            self._lines[path] = line

    def line(self, path: Path) -> int | None:
        """Return the line of a key or list item. If the path is unknown, return the line of its nearest known parent,
        or None.
        """
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return None


def _places(text: str) -> Iterator[tuple[Path, int]]:
    """Yield the path and line of each key and list item.

    The function is not recursive, because a hostile file may be nested very deeply.
    """
    above: list[str | int] = []
    # For each open bracket, `objects` stores whether it begins an object, and `above` stores the current key or index
    # inside it.
    objects: list[bool] = []
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
