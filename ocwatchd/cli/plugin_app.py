"""`ocwatch plugin` as typer sees it."""

from __future__ import annotations

import typer

from ocwatchd.cli.options import Json

plugin = typer.Typer(
    name="plugin", help="The companion plugin inside OpenCode.", rich_markup_mode=None, no_args_is_help=True
)


@plugin.command("install")
def plugin_install(json: Json = False) -> None:
    """Put the plugin into OpenCode's plugin directory. One that is there is brought up to date."""
    from ocwatchd.cli.plugin import install as command

    raise typer.Exit(command(json))


@plugin.command("uninstall")
def plugin_uninstall(json: Json = False) -> None:
    """Remove the companion plugin; a file that is not ours stays."""
    from ocwatchd.cli.plugin import uninstall as command

    raise typer.Exit(command(json))


@plugin.command("status")
def plugin_status(json: Json = False) -> None:
    """Whether the companion plugin is installed and up to date."""
    from ocwatchd.cli.plugin import status as command

    raise typer.Exit(command(json))
