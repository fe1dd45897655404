"""Expected errors, each with its exit code for scripts. The message of an error states what failed, where it failed,
and what to do.
"""

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
    """Base class of expected errors, which are shown as one message and never as a traceback."""

    exit_code = ExitCode.FAILED


class UsageError(OcwatchError):
    """The caller named something that does not exist or is ambiguous."""

    exit_code = ExitCode.USAGE


class StateError(OcwatchError):
    """One of our files or directories cannot be read or written. The message names the path and the cause."""


class NotAFile(StateError):
    """The path is not a plain file of ours: it is a link, a directory, a pipe, another user's file, or too large."""


class HomeUnknown(OcwatchError):
    """HOME is missing or not absolute. This is not a ConfigError, because some commands continue after a ConfigError,
    but none may continue without HOME.
    """

    exit_code = ExitCode.BAD_CONFIG


class ConfigError(OcwatchError):
    """The configuration cannot be used. The message names the file, line and key."""

    exit_code = ExitCode.BAD_CONFIG


class OpenCodeUnreachable(OcwatchError):
    """No running OpenCode process responds for this session."""

    exit_code = ExitCode.OPENCODE_UNREACHABLE


class AllCooling(OcwatchError):
    """A model and its whole chain are cooling down."""

    exit_code = ExitCode.ALL_COOLING
