"""The text of the service's files, made from the templates: absolute paths, and the environment that matters."""

from __future__ import annotations

import os
import plistlib
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from ocwatchd.paths import Paths
from ocwatchd.service.values import ServiceFault

CARRIED = (
    "HOME",
    "PATH",  # where notify-send, tmux and opencode are; a manager's own PATH knows nothing of ~/.local/bin
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "XDG_CACHE_HOME",
    "OPENCODE_CONFIG_DIR",
    "TMUX_TMPDIR",
    "TZ",
    "LANG",
)
"""Variables that decide what the daemon serves. Nothing else is written down: environments hold keys."""

MARKER = "# Installed by `ocwatch"
_PATH_LINE = re.compile(r'^Environment="PATH=.*\n', re.MULTILINE)


def template(directory: str, name: str) -> str:
    """A template as shipped: from the wheel, or from the checkout that an editable installation points to."""
    package = resources.files("ocwatchd")
    shipped = package.joinpath("templates", name)
    if not shipped.is_file():
        return Path(str(package)).parent.joinpath(directory, name).read_text()
    return shipped.read_text()


def daemon_command() -> list[str]:
    """The daemon of this installation, absolute. `-P`: a module in the working directory is none of ours."""
    script = Path(sys.executable).absolute().with_name("ocwatchd")
    return [str(script)] if os.access(script, os.X_OK) else [sys.executable, "-P", "-m", "ocwatchd"]


def carried(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that the service gets as well."""
    return {name: environ[name] for name in CARRIED if environ.get(name)}


def unit(environ: Mapping[str, str], command: Sequence[str], log: Path | None) -> str:
    """ocwatchd.service. `log`: a file for standard error where there is no journal.

    Raises:
        ServiceFault: a path or variable cannot be written in a unit.
    """
    settings = [f"Environment={word(f'{name}={value}')}" for name, value in carried(environ).items()]
    if log is not None:
        settings += ["StandardOutput=null", f"StandardError=append:{plain(str(log))}"]
    # The colon: a dollar in a path is no variable.
    program = " ".join([word(f":{command[0]}"), *map(word, command[1:])])
    text = template("systemd", "ocwatchd.service")
    return text.replace("@SETTINGS@", "\n".join(settings)).replace("@OCWATCHD@", program)


def sandbox(paths: Paths) -> str:
    """ocwatchd.service.d/sandbox.conf.

    Raises:
        ServiceFault: a path cannot be written in a unit.
    """
    # OpenCode's own data too: a reader of an SQLite database in WAL mode writes its shared-memory file.
    places = " ".join(word(f"-{place}") for place in (paths.state_dir, paths.opencode_data))
    return template("systemd", "sandbox.conf").replace("@WRITABLE@", places)


def plist(environ: Mapping[str, str], command: Sequence[str], log: Path) -> bytes:
    """dev.ocwatchd.plist."""
    own = {
        "ProgramArguments": list(command),
        "EnvironmentVariables": carried(environ),
        "StandardErrorPath": str(log),
    }
    return plistlib.dumps({**plistlib.loads(template("launchd", "dev.ocwatchd.plist").encode()), **own})


def word(text: str) -> str:
    """One word of a unit's list, whatever stands in it: quoted, specifiers and escapes as they are.

    Raises:
        ServiceFault: control characters, or bytes that are no text.
    """
    return '"' + plain(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def plain(text: str) -> str:
    """The rest of a unit's line, specifiers as they are.

    Raises:
        ServiceFault: control characters, or bytes that are no text.
    """
    if not text.isprintable():
        raise ServiceFault(f"{text!a} cannot stand in a systemd unit: control characters, or no valid UTF-8")
    return text.replace("%", "%%")


def same_unit(one: str, other: str) -> bool:
    """Alike but for PATH, which differs from one terminal to the next and is no reason to restart anything."""
    return _PATH_LINE.sub("", one) == _PATH_LINE.sub("", other)


def same_plist(one: bytes, other: bytes) -> bool:
    """Alike but for PATH."""
    return _without_path(one) == _without_path(other)


def _without_path(content: bytes) -> object:
    try:
        document = plistlib.loads(content)
        document["EnvironmentVariables"].pop("PATH", None)
    except (ValueError, KeyError, AttributeError, TypeError, plistlib.InvalidFileException):
        return content
    return document
