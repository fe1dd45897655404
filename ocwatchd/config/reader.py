"""JSON with comments, read so that every complaint can name file, line and key.

Comments and trailing commas are blanked out in place, so line numbers stay right; json5 is asked only about what is
then still no JSON: its parser needs 0.26 s for a configuration of 33 kB (0.17).
"""

from __future__ import annotations

import json
import os
import re
import stat
from codecs import BOM_UTF8
from collections.abc import Sequence

from ocwatchd.errors import ConfigError

TYPE_CHECKING = False  # what `typing` calls so costs 5 CPU ms to import
if TYPE_CHECKING:
    from ocwatchd.config.positions import Positions

SIZE_CAP = 4 << 20
"""Bytes of a configuration that are read; a real one has a few kB."""

_STRING = r'"(?:\\.|[^"\\])*"'
# Compiled only when a file is no plain JSON: compiling costs a millisecond of the 25 that `ocwatch pick` has.
_COMMENTS = _STRING + r"|//[^\n]*|/\*.*?\*/"
_TRAILING_COMMAS = _STRING + r"|,(?=\s*[}\]])"


class Fault(ConfigError):
    """Something wrong in a configuration file, or a remark about it: `line` and `key` where they can be told."""

    def __init__(
        self, path: str, message: str, line: int | None = None, key: str = "", column: int | None = None
    ) -> None:
        """The text reads `file, line 7: rateLimit.mode: message`."""
        self.path, self.message, self.line, self.key = path, message, line, key
        place = "".join((path, f", line {line}" if line else "", f", column {column}" if column else ""))
        super().__init__(": ".join(part for part in (place, key, message) if part))


class Document:
    """A configuration file's object, and the text it came from. A missing or empty file is an empty object."""

    __slots__ = ("_positions", "data", "exists", "path", "text")

    def __init__(self, path: str, text: str = "", data: dict[str, object] | None = None, exists: bool = False) -> None:
        """Hold what was read."""
        self.path = path
        self.text = text
        self.data = data if data is not None else {}
        self.exists = exists
        self._positions: Positions | None = None

    def fault(self, keys: Sequence[str | int], message: str) -> Fault:
        """What to raise, or to remark, about the value under `keys`; a number among them is an item of a list."""
        return Fault(self.path, message, self.positions().line(tuple(keys)), dotted(keys))

    def positions(self) -> Positions:
        """Where each key stands."""
        if self._positions is None:
            from ocwatchd.config.positions import Positions  # late: only a complaint needs them

            self._positions = Positions(blank_comments(self.text))
        return self._positions


def dotted(keys: Sequence[str | int]) -> str:
    """`rateLimit.errorPatterns[2]`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).removeprefix(".")


def read_document(path: str | os.PathLike[str]) -> Document:
    """Read a configuration file.

    Raises:
        ConfigError: it exists but cannot be read, or holds no JSON object.
    """
    name = os.fspath(path)
    text = read_text(name)
    if text is None:
        return Document(name)
    # To look for comments compiles two expressions, 2 CPU ms: not where an object begins at once.
    written = text.lstrip().startswith("{") or blank_comments(text).strip()
    data = parse(text, name) if written else {}
    if not isinstance(data, dict):
        raise Fault(name, "the file has to hold an object, { … }", 1)
    return Document(name, text, data, exists=True)


def read_text(name: str) -> str | None:
    """The text of a configuration file; None if there is none.

    Raises:
        ConfigError: it cannot be read, is no plain file, too long, or not UTF-8.
    """
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a symlink is followed: people keep dotfiles so
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
        return data.removeprefix(BOM_UTF8).decode()  # the codec utf-8-sig would be one more module
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Fault(name, "not UTF-8 text; save it as UTF-8", line) from None


def parse(text: str, name: str) -> object:
    """The value in `text`: JSON, JSON with comments and trailing commas, or JSON5.

    Raises:
        ConfigError: none of them; names the file and the line.
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
    """The text with comments and trailing commas replaced by spaces; every line stays where it is."""
    without = re.sub(_COMMENTS, _blank, text, flags=re.DOTALL)
    return re.sub(_TRAILING_COMMAS, _blank, without, flags=re.DOTALL)


def _blank(found: re.Match[str]) -> str:
    part = found.group()
    return part if part.startswith('"') else re.sub(r"[^\n]", " ", part)


def _json5(text: str, name: str, first: Exception) -> object:
    import json5  # late: see above

    try:
        return json5.loads(text)
    except (ValueError, RecursionError):
        pass
    message = f"not JSON: {getattr(first, 'msg', None) or 'nested too deeply'}"
    raise Fault(name, message, getattr(first, "lineno", None), column=getattr(first, "colno", None)) from None
