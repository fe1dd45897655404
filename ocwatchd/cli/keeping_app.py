"""What keeps the daemon well, as typer sees it: up, down, doctor, drill."""

from __future__ import annotations

from typing import Annotated

import typer

from ocwatchd.cli.options import DryRun, Json

keeping = typer.Typer(rich_markup_mode=None)


@keeping.command()
def up(
    dry_run: DryRun = False,
    foreground: Annotated[bool, typer.Option("--foreground", help="No service: the daemon here.")] = False,
    json: Json = False,
) -> None:
    """Set up and start: configuration, plugin, service. What is there already is kept.

    Where neither systemd nor launchd serves this user, the daemon runs here, in the foreground.
    """
    from ocwatchd.cli.up import up as command

    raise typer.Exit(command(dry_run=dry_run, foreground=foreground, as_json=json))


@keeping.command()
def down(
    purge: Annotated[
        bool, typer.Option("--purge", help="What was learnt too, and a configuration that nobody changed.")
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """End the daemon, remove service and plugin. What was learnt and configured stays."""
    from ocwatchd.cli.down import down as command

    raise typer.Exit(command(purge=purge, dry_run=dry_run, as_json=json))


@keeping.command()
def doctor(
    json: Json = False,
    bundle: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a tar.gz for a bug report, without secrets.")
    ] = None,
) -> None:
    """Say what is wrong here, and what to do about it. Exit 1 on any error."""
    from ocwatchd.cli.doctor import doctor as command

    raise typer.Exit(command(json, bundle))


@keeping.command()
def drill(
    version: Annotated[str | None, typer.Argument(metavar="VERSION", help="With --fetch: 1.18.33, or latest.")] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Get VERSION from npm into a cache; without VERSION only if none is found.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the drill's directory, for a bug report.")] = False,
    json: Json = False,
) -> None:
    """Show that all works with your OpenCode, in 20 seconds. Exit 0 if all steps passed.

    A limit is played in a private HOME, offline: nothing of yours is touched, and no provider is asked. Worth its time
    after an OpenCode upgrade.
    """
    from ocwatchd.cli.drill import Wish as DrillWish
    from ocwatchd.cli.drill import drill as command

    raise typer.Exit(command(DrillWish(fetch, version, keep, json)))
