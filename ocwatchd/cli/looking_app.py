"""What has happened, as typer sees it: watch, history, explain, report, forecast, statusline, completion."""

from __future__ import annotations

from typing import Annotated

import typer

from ocwatchd.cli.options import Json

looking = typer.Typer(rich_markup_mode=None)


@looking.command()
def watch(
    every: Annotated[float, typer.Option(metavar="SECONDS", help="Between two looks.")] = 1.0,
) -> None:
    """Sessions, cooldowns and events, live, until q or Ctrl-C."""
    from ocwatchd.cli.watch import watch as command

    raise typer.Exit(command(every))


@looking.command()
def history(
    since: Annotated[str | None, typer.Option(metavar="TIME", help="2h, 14:20 or 2026-11-22T14:20Z; else 24h.")] = None,
    session: Annotated[str | None, typer.Option(metavar="SESSION", help="Only this one's; its end will do.")] = None,
    json: Json = False,
) -> None:
    """Every limit, wait, move and return, and why."""
    from ocwatchd.cli.history import history as command

    raise typer.Exit(command(since, session, json))


@looking.command()
def explain(
    decision: Annotated[
        str | None, typer.Argument(metavar="ID", help="An id of `history`, or a session; else the latest.")
    ] = None,
    json: Json = False,
) -> None:
    """One decision in full. Evidence, rule, hint, what OpenCode showed, which targets were considered, outcome."""
    from ocwatchd.cli.explain import explain as command

    raise typer.Exit(command(decision, json))


@looking.command()
def report(
    since: Annotated[str | None, typer.Option(metavar="TIME", help="2h, 30d or 2026-11-22T14:20Z; else 7d.")] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Where to; - is standard output.")] = None,
    form: Annotated[str, typer.Option("--format", metavar="html|json|prometheus", help="What to write.")] = "html",
    json: Json = False,
) -> None:
    """Limits, time lost and saved, how each fallback fared. One page to look at, or figures for machines."""
    from ocwatchd.cli.report import report as command

    raise typer.Exit(command(since, out, form, json))


@looking.command()
def forecast(
    replay: Annotated[
        bool,
        typer.Option("--replay", help="Judge it on your own last week: how often it would have been right."),
    ] = False,
    json: Json = False,
) -> None:
    """How near the limits are: what was used, when a limit will be reached, and how that is known."""
    if replay:
        from ocwatchd.cli.replay import replay as command
    else:
        from ocwatchd.cli.forecast import forecast as command

    raise typer.Exit(command(json))


@looking.command()
def statusline(
    form: Annotated[
        str, typer.Option("--format", "-f", metavar="FORMAT", help="plain, tmux, waybar, starship, json or a template.")
    ] = "plain",
) -> None:
    """One line for a status bar, at once. Exit 3 if the daemon is down. A template: '{model} {left}'."""
    from ocwatchd.cli.statusline import statusline as command

    raise typer.Exit(command(form))


@looking.command()
def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="Which shell.")],
) -> None:
    """Print the completion script of a shell. To use it: eval "$(ocwatch completion bash)"."""
    from ocwatchd.cli.completion import completion as command

    raise typer.Exit(command(shell))
