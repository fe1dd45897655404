"""Install and run the daemon as a user service, with systemd or launchd behind one protocol.

`manager_for` returns the service manager for this user and this home.
"""

from ocwatchd.service.find import manager_for, stray_daemon
from ocwatchd.service.values import (
    DETACH,
    SHARE,
    FileState,
    Log,
    Manager,
    NoManager,
    ServiceFault,
    ServiceStatus,
)

__all__ = [
    "DETACH",
    "SHARE",
    "FileState",
    "Log",
    "Manager",
    "NoManager",
    "ServiceFault",
    "ServiceStatus",
    "manager_for",
    "stray_daemon",
]
