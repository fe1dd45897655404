"""Build the text of the service's files from templates, with absolute paths and the relevant environment."""

from __future__ import annotations

import os
import plistlib
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from ocwatchd.paths import Paths
from ocwatchd.service.values import DAEMON, Service, ServiceFault

CARRIED = (
    "HOME",
    "PATH",  # needed to find notify-send, tmux and opencode; a service manager's own PATH lacks ~/.local/bin
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    "XDG_CACHE_HOME",
    "OPENCODE_CONFIG_DIR",
    "TMUX_TMPDIR",
    "TZ",
    "LANG",
)
"""Environment variables that the service needs. All other variables are left out, because environments may contain
keys.
"""

MARKER = "# Installed by `ocwatch"
_PATH_LINE = re.compile(r'^Environment="PATH=.*\n', re.MULTILINE)


def template(directory: str, name: str) -> str:
    """Return the text of a template, from the installed package or from the checkout of an editable installation."""
    package = resources.files("ocwatchd")
    shipped = package.joinpath("templates", name)
    if not shipped.is_file():
        return Path(str(package)).parent.joinpath(directory, name).read_text()
    return shipped.read_text()


def command_of(service: Service = DAEMON) -> list[str]:
    """Return the command of a service, with absolute paths. `-P` keeps Python from importing modules from the working
    directory.
    """
    script = Path(sys.executable).absolute().with_name(service.program)
    program = [str(script)] if os.access(script, os.X_OK) else [sys.executable, "-P", "-m", service.module]
    return [*program, *service.words]


def carried(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables for the service."""
    return {name: environ[name] for name in CARRIED if environ.get(name)}


def unit(environ: Mapping[str, str], command: Sequence[str], log: Path | None, service: Service = DAEMON) -> str:
    """Return the text of a service's unit. `log` is the file for standard error, or None for the journal.

    Raises:
        ServiceFault: A path or variable cannot be written in a unit.
    """
    settings = [f"Environment={word(f'{name}={value}')}" for name, value in carried(environ).items()]
    if log is not None:
        settings += ["StandardOutput=null", f"StandardError=append:{plain(str(log))}"]
    # The colon keeps systemd from expanding a dollar sign in a path.
    program = " ".join([word(f":{command[0]}"), *map(word, command[1:])])
    text = template("systemd", service.unit)
    return text.replace("@SETTINGS@", "\n".join(settings)).replace("@OCWATCHD@", program)


def sandbox(paths: Paths) -> str:
    """Return the text of ocwatchd.service.d/sandbox.conf.

    Raises:
        ServiceFault: A path cannot be written in a unit.
    """
    # OpenCode's data must also be writable, because a reader of an SQLite database in WAL mode writes its shared-memory
    # file.
    places = " ".join(word(f"-{place}") for place in (paths.state_dir, paths.opencode_data))
    return template("systemd", "sandbox.conf").replace("@WRITABLE@", places)


def plist(environ: Mapping[str, str], command: Sequence[str], log: Path, service: Service = DAEMON) -> bytes:
    """Return the content of a service's property list.

    Raises:
        ServiceFault: A path or variable cannot be written in a property list.
    """
    own = {
        "ProgramArguments": list(command),
        "EnvironmentVariables": carried(environ),
        "StandardErrorPath": str(log),
    }
    try:
        return plistlib.dumps({**plistlib.loads(template("launchd", f"{service.label}.plist").encode()), **own})
    except ValueError as fault:  # the value contains control characters or invalid UTF-8
        raise ServiceFault(f"launchd's property list cannot be written: {fault}") from fault


def word(text: str) -> str:
    """Return the text quoted as one word of a unit, with specifiers and escapes taken literally.

    Raises:
        ServiceFault: The text contains control characters or invalid UTF-8.
    """
    return '"' + plain(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def plain(text: str) -> str:
    """Return the text escaped for use as the rest of a line in a unit, with specifiers taken literally.

    Raises:
        ServiceFault: The text contains control characters or invalid UTF-8.
    """
    if not text.isprintable():
        raise ServiceFault(
            f"{text!a} cannot be written in a systemd unit: it contains control characters or is not valid UTF-8"
        )
    return text.replace("%", "%%")


def same_unit(one: str, other: str) -> bool:
    """Return whether two units are equal except for PATH.

    PATH may differ between terminals, and such a difference alone does not justify a restart of the service.
    """
    return _PATH_LINE.sub("", one) == _PATH_LINE.sub("", other)


def same_plist(one: bytes, other: bytes) -> bool:
    """Return whether two property lists are equal except for PATH."""
    return _without_path(one) == _without_path(other)


def _without_path(content: bytes) -> object:
    try:
        document = plistlib.loads(content)
        document["EnvironmentVariables"].pop("PATH", None)
    except (ValueError, KeyError, AttributeError, TypeError, plistlib.InvalidFileException):
        return content
    return document
