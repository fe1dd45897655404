"""The faults we foresee, each with the exit code that a script can rely on. Messages say what, where and what to do."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every command (a public contract)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    DAEMON_DOWN = 3
    BAD_CONFIG = 4
    OPENCODE_UNREACHABLE = 5
    ALL_COOLING = 75


class OcwatchError(Exception):
    """A foreseeable fault: shown as one message, never as a traceback."""

    exit_code = ExitCode.FAILED


class UsageError(OcwatchError):
    """The caller named something that does not exist or is not unique."""

    exit_code = ExitCode.USAGE


class DaemonDown(OcwatchError):
    """The daemon is not running, or is deaf."""

    exit_code = ExitCode.DAEMON_DOWN


class ConfigError(OcwatchError):
    """The configuration cannot be used; the message names file, line and key."""

    exit_code = ExitCode.BAD_CONFIG


class OpenCodeUnreachable(OcwatchError):
    """No running OpenCode answers for this session."""

    exit_code = ExitCode.OPENCODE_UNREACHABLE


class AllCooling(OcwatchError):
    """A model and its whole chain are cooling."""

    exit_code = ExitCode.ALL_COOLING
