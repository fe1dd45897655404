"""`ocwatch up`: all that a fresh machine needs, without a question: a configuration, the plugin, then the daemon."""

from __future__ import annotations

import os
import sys
import time

from ocwatchd import daemon
from ocwatchd.cli.config import derived_setup
from ocwatchd.cli.listing import status
from ocwatchd.cli.places import state_file
from ocwatchd.cli.plugin import install_quietly
from ocwatchd.cli.render import say, warn
from ocwatchd.config import load
from ocwatchd.config.starter import starter_for
from ocwatchd.errors import ExitCode
from ocwatchd.paths import Paths
from ocwatchd.state import heartbeat
from ocwatchd.state.files import write_new


def up() -> int:
    """Run the daemon in the foreground until it is stopped; at once 0 if one is already up.

    Raises:
        ConfigError: our configuration is there and cannot be used.
        OcwatchError: the daemon cannot serve this home.
    """
    paths = Paths.from_env()
    if heartbeat.read(state_file("daemon.json")).state(time.time()) == heartbeat.State.UP:
        say("Already running.")
        return status()
    if not os.path.lexists(paths.config_file):
        _try_starter(paths)
    load(paths)  # a broken configuration is told before anything starts
    install_quietly(paths)
    sys.stdout.flush()  # what was said so far comes before what the daemon says, also in a file
    daemon.run(paths)
    return ExitCode.DONE


def _try_starter(paths: Paths) -> None:
    try:
        write_starter(paths)
    except OSError as error:  # a configuration kept read-only by its owner's tools is no reason not to watch
        warn(f"{paths.config_file} cannot be written ({error.strerror}): going on without a chain")


def write_starter(paths: Paths) -> None:
    """Write a first configuration, derived from the user's OpenCode, and show it.

    Raises:
        OSError: it cannot be written.
    """
    start = starter_for(derived_setup(paths))
    write_new(paths.config_file, start.text.encode())
    say(f"Wrote {paths.config_file}:\n\n{start.text}")
    if start.primary is None or not start.targets:
        warn(start.remark)
