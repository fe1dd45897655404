"""`ocwatch config` as typer sees it."""

from __future__ import annotations

from typing import Annotated

import typer

from ocwatchd.cli.options import Json

config = typer.Typer(
    name="config", help="The configuration, rate-limit-config.json.", rich_markup_mode=None, no_args_is_help=True
)


@config.command("init")
def config_init(
    write: Annotated[bool, typer.Option("--write", help="Really write it.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also in place of one that is there.")] = False,
    json: Json = False,
) -> None:
    """Show or write a first one, derived from your opencode.json."""
    from ocwatchd.cli.config import init as command

    raise typer.Exit(command(write, force, json))


@config.command("check")
def config_check(
    file: Annotated[str | None, typer.Argument(metavar="FILE", help="Else the one that is used.")] = None,
    json: Json = False,
) -> None:
    """Say what is wrong with it, and where; exit 4 on errors."""
    from ocwatchd.cli.config import check as command

    raise typer.Exit(command(file, json))


@config.command("show")
def config_show(json: Json = False) -> None:
    """The values that hold, and whence: default, file or environment."""
    from ocwatchd.cli.config import show as command

    raise typer.Exit(command(json))


@config.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of the configuration."""
    from ocwatchd.cli.config import print_schema as command

    raise typer.Exit(command())
