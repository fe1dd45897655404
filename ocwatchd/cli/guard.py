"""Around every command: faults become one message and an exit code, never a traceback; a closed pipe is no fault."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from ocwatchd.cli.escape import escape
from ocwatchd.cli.render import warn
from ocwatchd.errors import ExitCode, OcwatchError

INTERRUPTED = 130
"""What a shell reports for a command ended by Ctrl-C."""


def guarded(work: Callable[[], int]) -> int:
    """Run `work` and return the exit code to end with."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a narrow locale must not turn an answer into a UnicodeEncodeError
            stream.reconfigure(errors="backslashreplace")
    try:
        code = work()
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a full disk or a closed pipe can still be answered
    except OcwatchError as fault:
        return _failed(escape(str(fault)), fault.exit_code)
    except BrokenPipeError:
        _drop_output()
        return ExitCode.DONE
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        _drop_output()
        return _failed(escape(f"{error.filename or 'standard output'}: {error.strerror or error}"), ExitCode.FAILED)
    return code


def _drop_output() -> None:
    """What could not be written is lost: else the interpreter tries once more at its end, and complains."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failed(message: str, code: int) -> int:
    try:  # noqa: SIM105 (contextlib costs a millisecond of the 25 that `pick` has)
        warn(message)
    except OSError:
        pass  # standard error is closed as well: the code has to do
    return code
