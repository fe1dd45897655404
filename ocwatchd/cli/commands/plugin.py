"""`ocwatch plugin`: install, remove and check the companion plugin in OpenCode's plugin directory."""

from __future__ import annotations

from ocwatchd.cli.output.escape import escape
from ocwatchd.cli.output.render import say_json, tell, warn
from ocwatchd.errors import ExitCode
from ocwatchd.opencode.plugin import install as plugin_file
from ocwatchd.opencode.plugin.install import PluginFile, PluginState
from ocwatchd.paths import Paths
from ocwatchd.state import heartbeat

RESTART = "OpenCode loads plugins only when it starts, so restart the OpenCode processes that are running."


def install(as_json: bool = False) -> int:
    """Install or update the plugin.

    Raises:
        PluginFault: A file with the plugin's name exists and is not ours, or the plugin cannot be written.
    """
    paths = Paths.from_env()
    before, after = plugin_file.install(paths)
    heartbeat.remember_program(paths)
    changed = before.state is not PluginState.CURRENT
    if as_json:
        say_json({**_view(after), "changed": changed, "replaced_version": before.installed if changed else None})
    elif not changed:
        tell(f"Up to date: {_path(after)}, version {after.installed}.")
    else:
        tell(f"{_done(before)} {_path(after)}, version {after.installed}. {RESTART}")
    return ExitCode.DONE


def uninstall(as_json: bool = False) -> int:
    """Remove the plugin if it is installed. A file of the same name that is not ours is kept.

    Raises:
        PluginFault: The plugin cannot be removed.
    """
    paths = Paths.from_env()
    removed = plugin_file.uninstall(paths)
    left = plugin_file.find_plugin(paths)
    if as_json:
        say_json({**_view(left), "removed": [str(path) for path in removed]})
        return ExitCode.DONE
    for path in removed:
        tell(f"Removed {escape(str(path))}.")
    if removed:
        tell("Running OpenCode processes use it until they end.")
    if left.state is PluginState.FOREIGN:
        warn(f"{_path(left)} is kept: ocwatchd did not write it")
    elif not removed:
        tell("The companion plugin is not installed.")
    return ExitCode.DONE


def status(as_json: bool = False) -> int:
    """Print whether the plugin is installed and whether its version matches this ocwatchd.

    Raises:
        PluginFault: The plugin's file cannot be read.
    """
    found = plugin_file.find_plugin(Paths.from_env())
    if as_json:
        say_json(_view(found))
    else:
        tell(_phrase(found))
    return ExitCode.DONE


def _view(found: PluginFile) -> dict[str, object]:
    return {
        "path": str(found.path),
        "state": found.state.value,
        "installed": found.installed is not None,
        "installed_version": found.installed,
        "shipped_version": found.shipped,
    }


def _done(before: PluginFile) -> str:
    return "Updated" if before.installed else "Installed"


def _phrase(found: PluginFile) -> str:
    match found.state:
        case PluginState.CURRENT:
            return f"Installed: {_path(found)}, version {found.installed}."
        case PluginState.OUTDATED if found.installed == found.shipped:
            return f"Changed or incomplete: {_path(found)}. To restore it: ocwatch plugin install"
        case PluginState.OUTDATED:
            return (
                f"Outdated: {_path(found)} is version {found.installed}, this ocwatchd has version {found.shipped}. "
                "To update it: ocwatch plugin install"
            )
        case PluginState.FOREIGN:
            return f"Not installed: ocwatchd did not write {_path(found)}. Move that file, then: ocwatch plugin install"
        case PluginState.ABSENT:
            return "Not installed. To install it: ocwatch plugin install"


def _path(found: PluginFile) -> str:
    return escape(str(found.path))
