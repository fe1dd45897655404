"""The command line as typer sees it: names, options and help. Every command hands over to a module of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from ocwatchd.cli.config_app import config
from ocwatchd.cli.keeping_app import keeping
from ocwatchd.cli.looking_app import looking
from ocwatchd.cli.main import version as print_version
from ocwatchd.cli.options import DryRun, Json
from ocwatchd.cli.plugin_app import plugin
from ocwatchd.cli.service_app import service

app = typer.Typer(
    name="ocwatch",
    help="OpenCode never stops because a model is rate limited.",
    epilog="Begin with: ocwatch up. Exit codes: 0 done, 1 failed, 2 usage, 3 daemon down or deaf, 4 bad configuration, "
    "5 OpenCode unreachable, 75 every model is cooling.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run_app(arguments: Sequence[str]) -> int:
    """Run one command line; usage errors are shown and end with 2."""
    try:
        # Standalone, for its handling of usage errors: what they are called differs between typer 0.12 and 0.28, which
        # brought a click of its own.
        app(list(arguments), prog_name="ocwatch")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _version(wanted: bool) -> None:
    if wanted:
        print_version()
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def status(json: Json = False) -> None:
    """Whether the daemon is up and hearing, and what it knows. Exit 0 if it is, else 3."""
    from ocwatchd.cli.listing import status as command

    raise typer.Exit(command(json))


@app.command()
def cooldowns(json: Json = False) -> None:
    """The models that may not be used now, and until when."""
    from ocwatchd.cli.listing import cooldowns as command

    raise typer.Exit(command(json))


@app.command()
def pick(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="provider/model or alias; else OpenCode's default.")
    ] = None,
    session: Annotated[
        str | None, typer.Option(metavar="SESSION", help="Pass over what could not take this session.")
    ] = None,
    json: Json = False,
) -> None:
    """The model to use now instead of MODEL. Exit 75 if it and its whole chain are cooling."""
    from ocwatchd.cli.pick import pick as command

    raise typer.Exit(command(model, json, session))


@app.command()
def block(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="provider/model, provider/* or alias.")],
    lasting: Annotated[str | None, typer.Option("--for", metavar="TIME", help="90s, 15m, 1h30m, 2d")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="14:20 or 2026-11-22T14:20:00Z")] = None,
    json: Json = False,
) -> None:
    """Keep MODEL from being used, for a time or until it is cleared."""
    from ocwatchd.cli.register import block as command

    raise typer.Exit(command(model, lasting, until, json))


@app.command()
def clear(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="provider/model, provider/* or alias.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every model.")] = False,
    json: Json = False,
) -> None:
    """Use MODEL again, whatever was said of it."""
    from ocwatchd.cli.register import clear as command

    raise typer.Exit(command(model, everything, json))


@app.command()
def redirect(
    session: Annotated[
        str | None, typer.Argument(metavar="SESSION", help="ses_…; else the one limited session.")
    ] = None,
    to: Annotated[str | None, typer.Option(metavar="MODEL", help="Where to; else the chain decides.")] = None,
    agent: Annotated[str | None, typer.Option(metavar="NAME", help="The agent that goes on.")] = None,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Move a limited session to another model now. Its whole context goes along, and no second prompt is sent."""
    from ocwatchd.cli.moving import Wish
    from ocwatchd.cli.redirect import redirect as command

    raise typer.Exit(command(Wish(session, to, agent, dry_run, json)))


@app.command()
def restart(
    session: Annotated[
        str | None, typer.Argument(metavar="SESSION", help="ses_…; else the one limited session.")
    ] = None,
    to: Annotated[str | None, typer.Option(metavar="MODEL", help="Where to; else the chain decides.")] = None,
    agent: Annotated[str | None, typer.Option(metavar="NAME", help="The agent that goes on.")] = None,
    pid: Annotated[int | None, typer.Option(metavar="PID", help="Which OpenCode, where it cannot be told.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "--force", help="End it even where it cannot be started again, or does more.")
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """End an OpenCode that `redirect` cannot reach, and go on anew.

    The session goes on, on another model, in the same terminal: under `oc-smart` or in tmux. Elsewhere the command
    to type is printed.
    """
    from ocwatchd.cli.moving import Wish
    from ocwatchd.cli.restart import Means
    from ocwatchd.cli.restart import restart as command

    raise typer.Exit(command(Wish(session, to, agent, dry_run, json), Means(yes, pid)))


@app.command()
def classify(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE...", help="Logs of OpenCode, xz too; - is standard input.")
    ] = None,
    text: Annotated[str | None, typer.Option(metavar="TEXT", help="A provider's message, or a log line.")] = None,
    messages: Annotated[str | None, typer.Option(metavar="FILE", help='JSON Lines of {"text": …}.')] = None,
    doubtful: Annotated[bool, typer.Option("--doubtful", help="Errors in doubtful and unknown words too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="JSON Lines, one object per limit.")] = False,
) -> None:
    """Which limits stand in a log or a text, by which rule, and why."""
    from ocwatchd.cli.classify import classify as command

    raise typer.Exit(command(files or [], text, messages, doubtful, json))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(context: typer.Context) -> None:
    """Start OpenCode with limited models out of its way. The same as `oc-smart`: ocwatch run -- ARGS…

    Everything goes to OpenCode as it is, but for three: --no-fallback moves nothing, --wait waits where every model is
    cooling (else: exit code 75), and --print-env only shows what would be changed.
    """
    import sys

    from ocwatchd.cli.smart import launch

    launch(context.args, sys.argv[0])


for part in (looking, keeping, service, plugin, config):
    app.add_typer(part)
