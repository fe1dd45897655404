"""The command line as typer sees it: names, options and help. Every command hands over to a module of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from ocwatchd.cli.main import version as print_version
from ocwatchd.cli.options import DryRun, Json
from ocwatchd.cli.service_app import service

app = typer.Typer(
    name="ocwatch",
    help="OpenCode never stops because a model is rate limited.",
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
    """Whether the daemon is up and hearing (exit 0, else 3), and what it knows."""
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
    json: Json = False,
) -> None:
    """The model to use now instead of MODEL; exit 75 if it and its whole chain are cooling."""
    from ocwatchd.cli.pick import pick as command

    raise typer.Exit(command(model, json))


@app.command()
def block(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="provider/model, provider/* or alias.")],
    lasting: Annotated[str | None, typer.Option("--for", metavar="TIME", help="90s, 15m, 1h30m, 2d")] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="14:20 or 2026-11-22T14:20:00Z")] = None,
    json: Json = False,
) -> None:
    """Do not use MODEL until then; without a time, until it is cleared."""
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
    """Move a limited session to another model now, with its whole context and without a second prompt."""
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
    """End an OpenCode that `redirect` cannot reach and go on in a new one, on another model, in the same terminal."""
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
    """Show which limits stand in a log or a message, which rule fires, and why."""
    from ocwatchd.cli.classify import classify as command

    raise typer.Exit(command(files or [], text, messages, doubtful, json))


@app.command()
def watch(
    every: Annotated[float, typer.Option(metavar="SECONDS", help="Between two looks.")] = 1.0,
) -> None:
    """Sessions, cooldowns and events, live, until q or Ctrl-C."""
    from ocwatchd.cli.watch import watch as command

    raise typer.Exit(command(every))


@app.command()
def history(
    since: Annotated[str | None, typer.Option(metavar="TIME", help="2h, 14:20 or 2026-11-22T14:20Z; else 24h.")] = None,
    session: Annotated[str | None, typer.Option(metavar="SESSION", help="Only this one's; its end will do.")] = None,
    json: Json = False,
) -> None:
    """Every limit, wait, move and return, and why."""
    from ocwatchd.cli.history import history as command

    raise typer.Exit(command(since, session, json))


@app.command()
def explain(
    decision: Annotated[
        str | None, typer.Argument(metavar="ID", help="An id of `history`, or a session; else the latest.")
    ] = None,
    json: Json = False,
) -> None:
    """One decision in full: evidence, rule, hint, what the door showed, which targets were considered, outcome."""
    from ocwatchd.cli.explain import explain as command

    raise typer.Exit(command(decision, json))


@app.command()
def report(
    since: Annotated[str | None, typer.Option(metavar="TIME", help="2h, 30d or 2026-11-22T14:20Z; else 7d.")] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Where to; - is standard output.")] = None,
    form: Annotated[str, typer.Option("--format", metavar="html|json|prometheus", help="What to write.")] = "html",
    json: Json = False,
) -> None:
    """Limits, time lost and saved, how each fallback fared: one page to look at, or figures for machines."""
    from ocwatchd.cli.report import report as command

    raise typer.Exit(command(since, out, form, json))


@app.command()
def statusline(
    form: Annotated[
        str, typer.Option("--format", "-f", metavar="FORMAT", help="plain, tmux, waybar, starship, json or a template.")
    ] = "plain",
) -> None:
    """One line for a status bar, at once; exit 3 if the daemon is down. A template: '{model} {left}'."""
    from ocwatchd.cli.statusline import statusline as command

    raise typer.Exit(command(form))


@app.command()
def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="Which shell.")],
) -> None:
    """Print the completion script of a shell: eval "$(ocwatch completion bash)"."""
    from ocwatchd.cli.completion import completion as command

    raise typer.Exit(command(shell))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(context: typer.Context) -> None:
    """Start OpenCode with limited models out of its way, as `oc-smart` does: ocwatch run -- ARGS…

    Everything goes to OpenCode as it is, but: --no-fallback moves nothing; --wait waits where every model is cooling,
    instead of exit code 75; --print-env only shows what would be changed.
    """
    import sys

    from ocwatchd.cli.smart import launch

    launch(context.args, sys.argv[0])


@app.command()
def up(
    dry_run: DryRun = False,
    foreground: Annotated[bool, typer.Option("--foreground", help="No service: the daemon here.")] = False,
    json: Json = False,
) -> None:
    """Write a starter configuration if there is none, install the plugin and the service, and start it.

    Where neither systemd nor launchd serves this user, the daemon runs here, in the foreground.
    """
    from ocwatchd.cli.up import up as command

    raise typer.Exit(command(dry_run=dry_run, foreground=foreground, as_json=json))


@app.command()
def down(
    purge: Annotated[
        bool, typer.Option("--purge", help="What was learnt too, and a configuration that nobody changed.")
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """End the daemon, remove service and plugin; what was learnt and configured stays."""
    from ocwatchd.cli.down import down as command

    raise typer.Exit(command(purge=purge, dry_run=dry_run, as_json=json))


app.add_typer(service)


@app.command()
def doctor(
    json: Json = False,
    bundle: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write a tar.gz for a bug report, without secrets.")
    ] = None,
) -> None:
    """Say what is wrong here and what to do about it: OpenCode, logs, doors, plugin, chains, files; 1 on any error."""
    from ocwatchd.cli.doctor import doctor as command

    raise typer.Exit(command(json, bundle))


@app.command()
def drill(
    version: Annotated[str | None, typer.Argument(metavar="VERSION", help="With --fetch: 1.18.33, or latest.")] = None,
    fetch: Annotated[
        bool, typer.Option("--fetch", help="Get VERSION from npm into a cache; without VERSION only if none is found.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the drill's directory, for a bug report.")] = False,
    json: Json = False,
) -> None:
    """Show that all works with your OpenCode: a limit in a private HOME, offline, in 20 seconds; 0 if all steps passed.

    Nothing of yours is touched, and no provider is asked. Worth its time after an OpenCode upgrade.
    """
    from ocwatchd.cli.drill import Wish as DrillWish
    from ocwatchd.cli.drill import drill as command

    raise typer.Exit(command(DrillWish(fetch, version, keep, json)))


plugin = typer.Typer(
    name="plugin", help="The companion plugin inside OpenCode.", rich_markup_mode=None, no_args_is_help=True
)
app.add_typer(plugin)


@plugin.command("install")
def plugin_install(json: Json = False) -> None:
    """Put the companion plugin into OpenCode's plugin directory, or bring it up to date there."""
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


config = typer.Typer(
    name="config", help="The configuration, rate-limit-config.json.", rich_markup_mode=None, no_args_is_help=True
)
app.add_typer(config)


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
