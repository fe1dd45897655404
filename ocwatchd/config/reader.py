"""JSON with comments, read so that every complaint can name file, line and key.

Comments and trailing commas are blanked out in place, so line numbers stay right; json5 is asked only about what is
then still no JSON: its parser needs 0.26 s for a configuration of 33 kB (0.17).
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Sequence

from ocwatchd.errors import ConfigError

SIZE_CAP = 4 << 20
"""Bytes of a configuration that are read; a real one has a few kB."""

_STRING = r'"(?:\\.|[^"\\])*"'
# Compiled only when a file is no plain JSON: compiling costs a millisecond of the 25 that `ocwatch pick` has.
_COMMENTS = _STRING + r"|//[^\n]*|/\*.*?\*/"
_TRAILING_COMMAS = _STRING + r"|,(?=\s*[}\]])"


class Document:
    """A configuration file's object, and the text it came from. A missing or empty file is an empty object."""

    __slots__ = ("data", "exists", "path", "text")

    def __init__(self, path: str, text: str = "", data: dict[str, object] | None = None, exists: bool = False) -> None:
        """Hold what was read."""
        self.path = path
        self.text = text
        self.data = data if data is not None else {}
        self.exists = exists

    def fault(self, keys: Sequence[str], message: str) -> ConfigError:
        """The error to raise about the value under `keys`."""
        return ConfigError(f"{self.where(keys)}: {message}")

    def where(self, keys: Sequence[str]) -> str:
        """`file, line 7: rateLimit.mode`, without the line if the key cannot be found in the text."""
        line = self._line(keys)
        place = f"{self.path}, line {line}" if line else self.path
        return f"{place}: {'.'.join(keys)}" if keys else place

    def _line(self, keys: Sequence[str]) -> int | None:
        at = 0
        for key in keys:
            found = re.compile(re.escape(json.dumps(key, ensure_ascii=False)) + r"\s*:").search(self.text, at)
            if found is None:
                return None
            at = found.start()
        return self.text.count("\n", 0, at) + 1 if keys else None


def read_document(path: str | os.PathLike[str]) -> Document:
    """Read a configuration file.

    Raises:
        ConfigError: it exists but cannot be read, or holds no JSON object.
    """
    name = os.fspath(path)
    text = read_text(name)
    if text is None:
        return Document(name)
    data = parse(text, name) if blank_comments(text).strip() else {}
    if not isinstance(data, dict):
        raise ConfigError(f"{name}: the file has to hold an object, {{ … }}")
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
        raise ConfigError(f"{name} cannot be read: {error.strerror}") from None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode) or info.st_size > SIZE_CAP:
            raise ConfigError(f"{name} is not a plain file of at most {SIZE_CAP} bytes")
        data = os.read(fd, SIZE_CAP)
    finally:
        os.close(fd)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}, line {line}: not UTF-8 text; save it as UTF-8") from None


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
        raise ConfigError(f"{name}: nested too deeply") from None
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
    line = getattr(first, "lineno", None)
    place = f"{name}, line {line}, column {getattr(first, 'colno', 0)}" if line else name
    raise ConfigError(f"{place}: not JSON: {getattr(first, 'msg', None) or 'nested too deeply'}") from None
