"""Every check, in the order in which a person should read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ocwatchd.doctor import chains, machine
from ocwatchd.doctor.values import Check, Facts

CHECKS: tuple[Callable[[Facts], Iterator[Check]], ...] = (
    machine.opencode_program,
    machine.opencode_running,
    machine.daemon,
    machine.service,
    machine.logs,
    machine.doors,
    machine.plugin,
    machine.rivals,
    chains.config_file,
    chains.config_keys,
    chains.chains_lead_somewhere,
    chains.agents,
    chains.models_without_fallback,
    machine.file_modes,
    machine.our_files,
    machine.inotify,
    machine.clock,
)

CODES = (
    "opencode-program", "opencode-running", "daemon", "daemon-health", "service", "log-directory", "log-lines", "doors",
    "plugin", "plugin-errors", "rival-plugin", "config-file", "opencode-config", "config-key", "chain-none",
    "chain-circle", "chain-model", "chain-agent", "no-fallback", "file-mode", "register", "journal", "disk", "inotify",
    "clock",
)  # fmt: skip
"""Every code there is: a public contract, and each stands in docs/doctor.md."""


def examine(facts: Facts) -> list[Check]:
    """What all checks say."""
    return [found for check in CHECKS for found in check(facts)]
