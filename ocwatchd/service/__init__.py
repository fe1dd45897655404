"""The daemon as a service of the user: systemd on Linux, launchd on macOS, or neither, behind one protocol.

`manager_for` finds out which one serves this user and this home.
"""

from ocwatchd.service.find import manager_for, stray_daemon
from ocwatchd.service.values import IN_FOREGROUND, FileState, Log, Look, Manager, NoManager, ServiceFault

__all__ = [
    "IN_FOREGROUND",
    "FileState",
    "Log",
    "Look",
    "Manager",
    "NoManager",
    "ServiceFault",
    "manager_for",
    "stray_daemon",
]
