"""Drop root's privilege to open every file, for tests of permissions (Linux).

`mortal()` does so for this thread within a block. `python -m tests.support.privileges OPTIONS -- COMMAND …` does so for
a whole process, and can also disable inotify for it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 38, 22, 24
_FILTER, _ALLOW, _ERRNO = 2, 0x7FFF0000, 0x00050000
_INOTIFY = {"x86_64": ((253, 294), 254), "aarch64": ((26,), 27)}
"""System call numbers of inotify_init (and inotify_init1), and of inotify_add_watch."""

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def mortal() -> Iterator[None]:
    """Make file modes apply to this thread within the block, even for root."""
    if sys.platform != "linux" or os.geteuid() != 0:
        yield
        return
    before = _capabilities()
    effective, permitted, inheritable, *rest = before
    _set_capabilities((effective & ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH), permitted, inheritable, *rest))
    try:
        yield
    finally:
        _set_capabilities(before)


def _capabilities() -> tuple[int, ...]:
    data = (ctypes.c_uint32 * 6)()
    _check(_libc.capget(struct.pack("Ii", _CAPABILITY_VERSION_3, 0), data))
    return tuple(data)


def _set_capabilities(values: tuple[int, ...]) -> None:
    _check(_libc.capset(struct.pack("Ii", _CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)(*values)))


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def give_up_root() -> None:
    """Make file modes apply to this process and the programs that it executes, even for root."""
    if sys.platform == "linux" and os.geteuid() == 0:
        for capability in (_DAC_OVERRIDE, _DAC_READ_SEARCH):
            _check(_libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def refuse(call: int, error: int) -> None:
    """Make this system call fail with `error` in this process and the programs that it executes (seccomp; needs no
    privilege).
    """
    code = b"".join(
        (
            struct.pack("HBBI", 0x20, 0, 0, 0),  # load the call's number
            struct.pack("HBBI", 0x15, 0, 1, call),  # if it is not this one, skip the next
            struct.pack("HBBI", 0x06, 0, 0, _ERRNO | error),
            struct.pack("HBBI", 0x06, 0, 0, _ALLOW),
        )
    )
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    _check(_libc.prctl(_PR_SET_SECCOMP, _FILTER, ctypes.byref(_Program(len(code) // 8, code)), 0, 0))


def main(arguments: list[str]) -> None:
    """Execute the command after `--` with fewer privileges."""
    options, command = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    begin, add = _INOTIFY[platform.machine()]
    if "--no-inotify" in options:
        for call in begin:
            refuse(call, errno.EMFILE)
    if "--few-watches" in options:
        refuse(add, errno.ENOSPC)
    give_up_root()
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
