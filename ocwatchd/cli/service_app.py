"""`ocwatch service` as typer sees it: names, options and help."""

from __future__ import annotations

from typing import Annotated

import typer

from ocwatchd.cli.options import Json

service = typer.Typer(
    name="service", help="The daemon as a service of systemd or launchd.", rich_markup_mode=None, no_args_is_help=True
)


@service.command("install")
def service_install(
    sandbox: Annotated[
        bool | None,
        typer.Option(
            "--sandbox/--no-sandbox", help="systemd: also restrict what needs namespaces.", show_default=False
        ),
    ] = None,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Start it as well.")] = True,
    json: Json = False,
) -> None:
    """Have the daemon started at every login, and start it now."""
    from ocwatchd.cli.service import install as command

    raise typer.Exit(command(sandbox, start, json))


@service.command("uninstall")
def service_uninstall(json: Json = False) -> None:
    """End the service and remove its files."""
    from ocwatchd.cli.service import uninstall as command

    raise typer.Exit(command(json))


@service.command("start")
def service_start(json: Json = False) -> None:
    """Start the service."""
    from ocwatchd.cli.service import start as command

    raise typer.Exit(command(json))


@service.command("stop")
def service_stop(json: Json = False) -> None:
    """End the service until the next login."""
    from ocwatchd.cli.service import stop as command

    raise typer.Exit(command(json))


@service.command("status")
def service_status(json: Json = False) -> None:
    """Whether the service is installed, runs, and starts at login. Exit 3 if it does not run."""
    from ocwatchd.cli.service import status as command

    raise typer.Exit(command(json))


@service.command("logs")
def service_logs(
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=100000, help="How many of the last ones.")] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on showing what comes.")] = False,
    json: Json = False,
) -> None:
    """Show what the daemon has said as a service."""
    from ocwatchd.cli.service import logs as command

    raise typer.Exit(command(lines, follow, json))
