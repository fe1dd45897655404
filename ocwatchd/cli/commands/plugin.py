"""`ocwatch plugin`: the companion plugin in OpenCode's plugin directory."""

from __future__ import annotations

from ocwatchd.cli.escape import escape
from ocwatchd.cli.render import say_json, tell, warn
from ocwatchd.errors import ExitCode
from ocwatchd.opencode import plugin_file
from ocwatchd.opencode.plugin_file import PluginFile, PluginState
from ocwatchd.paths import Paths

RESTART = "OpenCode loads plugins when it starts: sessions that run now follow after their next start."


def install(as_json: bool = False) -> int:
    """Install the plugin, or bring it up to date.

    Raises:
        PluginFault: a file of that name is not ours, or it cannot be written.
    """
    before, after = plugin_file.install(Paths.from_env())
    changed = before.state is not PluginState.CURRENT
    if as_json:
        say_json({**_view(after), "changed": changed, "replaced_version": before.installed if changed else None})
    elif not changed:
        tell(f"Up to date: {_path(after)}, version {after.installed}.")
    else:
        tell(f"{_done(before)} {_path(after)}, version {after.installed}. {RESTART}")
    return ExitCode.DONE


def uninstall(as_json: bool = False) -> int:
    """Remove the plugin; a file of that name that is not ours stays. None installed is no fault.

    Raises:
        PluginFault: it cannot be removed.
    """
    paths = Paths.from_env()
    removed = plugin_file.uninstall(paths)
    left = plugin_file.look(paths)
    if as_json:
        say_json({**_view(left), "removed": [str(path) for path in removed]})
        return ExitCode.DONE
    for path in removed:
        tell(f"Removed {escape(str(path))}.")
    if removed:
        tell("OpenCode processes that run now keep it until they end.")
    if left.state is PluginState.FOREIGN:
        warn(f"{_path(left)} is not ocwatchd's and stays as it is")
    elif not removed:
        tell("Not installed.")
    return ExitCode.DONE


def status(as_json: bool = False) -> int:
    """Say whether the plugin is installed, and whether it is the one that belongs to this ocwatchd.

    Raises:
        PluginFault: its place cannot be read.
    """
    found = plugin_file.look(Paths.from_env())
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
            return f"Changed by hand, or not whole: {_path(found)}. Restore it with: ocwatch plugin install"
        case PluginState.OUTDATED:
            return (
                f"Outdated: {_path(found)} has version {found.installed}, this ocwatchd brings {found.shipped}. "
                "Update it with: ocwatch plugin install"
            )
        case PluginState.FOREIGN:
            return f"Not installed: {_path(found)} is there and is not ocwatchd's."
        case PluginState.ABSENT:
            return "Not installed. Install it with: ocwatch plugin install"


def _path(found: PluginFile) -> str:
    return escape(str(found.path))
