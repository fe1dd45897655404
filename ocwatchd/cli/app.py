"""The typer application: names, options and help texts of every command.

This module is long because it lists every command and option in one place. Each command imports its module only when it
is called, so `--help` takes no longer than typer itself.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from ocwatchd import __version__
from ocwatchd.errors import ExitCode, UsageError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Force = Annotated[bool, typer.Option("--force", help="Accept a model that OpenCode does not offer.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and change nothing.")]


class PlainUsage(TyperCommand):
    """A command with a required argument. Its usage line shows the argument without the braces that typer 0.28 adds."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line after the name of the command."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]


EXTRA_WORDS = re.compile(r"got unexpected extra arguments?(?:\(s\))? \((.*)\)", re.IGNORECASE)
"""Matches click's error message for arguments that a command does not accept."""
NUMBER_WORDS = re.compile(r"is not a valid int(?:eger)?(?: range)?")
"""Matches click's error message for a value that is not an integer."""
OPTION_NAMES = re.compile(r"^no such command '(help|version)'", re.IGNORECASE)
"""Matches click's error message for an option that was typed as a command."""

app = typer.Typer(
    name="ocwatch",
    help="Keep OpenCode working when a model is limited: move the session to a fallback model, and back.",
    epilog="Start with: ocwatch up. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 daemon not running or stalled, "
    "4 bad configuration, 5 OpenCode cannot be reached or served, 75 every model is cooling down.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run_app(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    Raises:
        UsageError: The command or option does not exist, or an argument is missing.
    """
    try:
        code = app(list(arguments), prog_name="ocwatch", standalone_mode=False)
    except Exception as fault:
        # Usage errors are recognized by their methods: typer 0.28 contains its own copy of click, so its exception
        # classes differ from those of typer 0.12.
        if not hasattr(fault, "format_message") or not hasattr(fault, "show"):
            raise
        if type(fault).__name__ == "NoArgsIsHelpError":  # this exception's message is the whole help text
            fault.show()
            return ExitCode.USAGE
        raise UsageError(_usage_message(fault, arguments)) from None
    return code if isinstance(code, int) else ExitCode.DONE


def _usage_message(fault: Any, arguments: Sequence[str]) -> str:
    """Return the message for a usage error: the error, the usage line, and the command that prints the help."""
    context = getattr(fault, "ctx", None)
    path = context.command_path if context is not None else _path(arguments)
    usage = f" {_ended(' '.join(context.get_usage().split()))}" if context is not None else ""
    message = NUMBER_WORDS.sub("is not a whole number", fault.format_message().strip())
    message = EXTRA_WORDS.sub(r"unexpected argument: \1", message)
    message = _ended(message[:1].lower() + message[1:])
    option = OPTION_NAMES.search(message)
    if option:
        return f"{message} Use: {path if option[1] == 'help' else 'ocwatch'} --{option[1]}"
    return f"{message}{usage} For help: {path} --help"


def _path(arguments: Sequence[str]) -> str:
    """Return the name of the command in `arguments`, for errors that do not contain it."""
    command: Any = typer.main.get_command(app)
    names = ["ocwatch"]
    for word in arguments:
        command = getattr(command, "commands", {}).get(word)
        if command is None:
            break
        names.append(word)
    return " ".join(names)


def _ended(sentence: str) -> str:
    """Return the sentence with a period added, unless it already ends with a punctuation mark."""
    return sentence if sentence.endswith((".", "?", "!")) else f"{sentence}."


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ocwatch {__version__}")
        raise typer.Exit


MAX_LINES = 100_000
"""Maximum value of `--lines`."""


def _checked(lines: int | None, least: int) -> int | None:
    # `min` and `max` of typer.Option would add "[0<=x<=100000]" to the help text
    if lines is not None and not least <= lines <= MAX_LINES:
        raise typer.BadParameter(f"{lines} is not in the range from {least} to {MAX_LINES}")
    return lines


def _at_least_one(lines: int | None) -> int | None:
    return _checked(lines, 1)


def _at_least_none(lines: int | None) -> int | None:
    return _checked(lines, 0)


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def status(json: Json = False) -> None:
    """Show the daemon, cooldowns, sessions and problems.

    Exit 0 if the daemon is running and reading logs, 3 if it is stalled or not running, 4 if the configuration cannot
    be used, a model in use has no fallback, or OpenCode does not offer a configured model, 5 if ocwatchd cannot serve a
    running OpenCode process.
    """
    from ocwatchd.cli.commands.status import status as command

    raise typer.Exit(command(json))


@app.command()
def cooldowns(json: Json = False) -> None:
    """List the models that are cooling down, with reset times."""
    from ocwatchd.cli.commands.status import cooldowns as command

    raise typer.Exit(command(json))


@app.command()
def pick(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", help="provider/model, alias or pool. Default: OpenCode's default model."),
    ] = None,
    session: Annotated[
        str | None, typer.Option(metavar="SESSION", help="Skip models that cannot continue this session.")
    ] = None,
    agent: Annotated[str | None, typer.Option(metavar="AGENT", help="Try the chain of this agent first.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Print the model to use now instead of MODEL.

    This is MODEL itself if it is available, otherwise its first available fallback. Exit 75 if MODEL and all its
    fallbacks are cooling down.
    """
    from ocwatchd.cli.commands.pick import pick as command

    raise typer.Exit(command(model, json, session, force, agent))


@app.command(cls=PlainUsage)
def block(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="provider/model, provider/*, alias or pool.")],
    lasting: Annotated[
        str | None, typer.Option("--for", metavar="TIME", help="How long to block the model: 90s, 15m, 1h30m, 2d.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="When the block ends: 14:20 or 2026-11-22T14:20:00Z.")
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Block MODEL for some time, or until it is cleared."""
    from ocwatchd.cli.commands.block import block as command

    raise typer.Exit(command(model, lasting, until, json, force))


@app.command()
def clear(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="provider/model, provider/*, alias or pool.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Clear every model.")] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """End the cooldown of MODEL, whatever started it."""
    from ocwatchd.cli.commands.block import clear as command

    raise typer.Exit(command(model, everything, json, force))


@app.command()
def redirect(
    session: Annotated[
        str | None,
        typer.Argument(metavar="SESSION", help="Part of the session's id or title. Default: the limited session."),
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model to move to. Default: the next model in the chain.")
    ] = None,
    agent: Annotated[str | None, typer.Option(metavar="NAME", help="The agent that continues the session.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Accept a model that is unknown or cooling down.")] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Move a limited session to another model now.

    The session keeps its whole context, and no second prompt is sent.
    """
    from ocwatchd.cli.commands.redirect import MoveOptions
    from ocwatchd.cli.commands.redirect import redirect as command

    raise typer.Exit(command(MoveOptions(session, to, agent, dry_run, json, force)))


@app.command()
def restart(
    session: Annotated[
        str | None,
        typer.Argument(metavar="SESSION", help="Part of the session's id or title. Default: the limited session."),
    ] = None,
    to: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model to move to. Default: the next model in the chain.")
    ] = None,
    agent: Annotated[str | None, typer.Option(metavar="NAME", help="The agent that continues the session.")] = None,
    pid: Annotated[
        int | None, typer.Option(metavar="PID", help="The OpenCode process to stop, if there are several candidates.")
    ] = None,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            help="Stop OpenCode even if ocwatch cannot start it again, or if other sessions may be busy in it.",
        ),
    ] = False,
    force: Force = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Reopen a session that `redirect` cannot reach.

    The session's OpenCode process is stopped, and the session is reopened on another model: in the same terminal if
    OpenCode is running under `oc-smart` or in tmux. Elsewhere, ocwatch prints the command that reopens the session.
    """
    from ocwatchd.cli.commands.redirect import MoveOptions
    from ocwatchd.cli.commands.restart import RestartOptions
    from ocwatchd.cli.commands.restart import restart as command

    raise typer.Exit(command(MoveOptions(session, to, agent, dry_run, json, force), RestartOptions(yes, pid)))


@app.command()
def classify(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE...", help="OpenCode logs, plain or xz-compressed; - is standard input."),
    ] = None,
    text: Annotated[str | None, typer.Option(metavar="TEXT", help="A provider's message or a log line.")] = None,
    messages: Annotated[
        str | None, typer.Option(metavar="FILE", help='A JSON Lines file with {"text": …} on each line.')
    ] = None,
    doubtful: Annotated[
        bool, typer.Option("--doubtful", help="Also show doubtful errors and errors that no rule matches.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON Lines, one object per limit.")] = False,
) -> None:
    """Show the limits in a log or text, with rules and reasons."""
    from ocwatchd.cli.commands.classify import classify as command

    raise typer.Exit(command(files or [], text, messages, doubtful, json))


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def run(context: typer.Context) -> None:
    """Start OpenCode as `oc-smart` does: ocwatch run -- ARGS…

    All arguments are passed to OpenCode except three: --no-fallback never changes the model, --wait waits if every
    model is cooling down (otherwise: exit code 75), and --print-env only prints what would be changed.
    """
    import sys

    from ocwatchd.cli.commands.run import launch

    launch(context.args, sys.argv[0])


config = typer.Typer(
    name="config",
    help="Create, check or show the configuration.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


@config.command("init")
def config_init(
    write: Annotated[bool, typer.Option("--write", help="Write the file.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="With --write: replace an existing file; the old one is kept.")
    ] = False,
    json: Json = False,
) -> None:
    """Show or write a first configuration, based on opencode.json."""
    from ocwatchd.cli.commands.config import init as command

    raise typer.Exit(command(write, force, json))


@config.command("check")
def config_check(
    file: Annotated[
        str | None, typer.Argument(metavar="FILE", help="The file to check. Default: the file in use.")
    ] = None,
    json: Json = False,
) -> None:
    """List errors and warnings in the configuration. Exit 4 if there are errors."""
    from ocwatchd.cli.commands.config import check as command

    raise typer.Exit(command(file, json))


@config.command("show")
def config_show(json: Json = False) -> None:
    """Show the values in force and where each comes from.

    A value comes from the defaults, the file or the environment.
    """
    from ocwatchd.cli.commands.config import show as command

    raise typer.Exit(command(json))


@config.command("schema")
def config_schema() -> None:
    """Print the JSON Schema of the configuration."""
    from ocwatchd.cli.commands.config import print_schema as command

    raise typer.Exit(command())


keeping = typer.Typer(rich_markup_mode=None)


@keeping.command()
def up(
    dry_run: DryRun = False,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Run the daemon in this terminal instead of as a service.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Without systemd or launchd: run the daemon in the background.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Use the suggested fallbacks without asking.")] = False,
    json: Json = False,
) -> None:
    """Set everything up, and start the daemon.

    This writes a configuration and installs the companion plugin and the service. An existing configuration is kept.
    On a terminal, it asks once which fallbacks to use. If neither systemd nor launchd is available to this user, the
    daemon runs in the foreground of this terminal.
    """
    from ocwatchd.cli.commands.up import up as command

    raise typer.Exit(command(dry_run=dry_run, foreground=foreground, detach=detach, yes=yes, as_json=json))


@keeping.command()
def down(
    purge: Annotated[
        bool, typer.Option("--purge", help="Also remove the state, and the configuration if you have not changed it.")
    ] = False,
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Stop the daemon; remove the service and the plugin.

    Your configuration and ocwatchd's state are kept.
    """
    from ocwatchd.cli.commands.down import down as command

    raise typer.Exit(command(purge=purge, dry_run=dry_run, as_json=json))


@keeping.command()
def doctor(
    json: Json = False,
    bundle: Annotated[
        str | None, typer.Option(metavar="FILE", help="Write an archive (tar.gz) for a bug report, without secrets.")
    ] = None,
) -> None:
    """Find problems and show how to fix them. Exit 1 if there is an error."""
    from ocwatchd.cli.commands.doctor import doctor as command

    raise typer.Exit(command(json, bundle))


@keeping.command()
def drill(
    version: Annotated[
        str | None, typer.Argument(metavar="VERSION", help="The version to fetch, with --fetch: 1.18.33 or latest.")
    ] = None,
    fetch: Annotated[
        bool,
        typer.Option(
            "--fetch", help="Fetch VERSION from npm into a cache. Without VERSION, fetch only if none is installed."
        ),
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the drill's directory, for a bug report.")] = False,
    json: Json = False,
) -> None:
    """Test ocwatchd with your OpenCode in under a minute. Exit 0 if all steps pass.

    The drill simulates a limit in a private HOME, offline: it changes none of your files and contacts no provider. Run
    it after you upgrade OpenCode.
    """
    from ocwatchd.cli.commands.drill import DrillOptions
    from ocwatchd.cli.commands.drill import drill as command

    raise typer.Exit(command(DrillOptions(fetch, version, keep, json)))


looking = typer.Typer(rich_markup_mode=None)


@looking.command()
def watch(
    every: Annotated[
        float, typer.Option(metavar="SECONDS", help="Interval between updates, in seconds (0.2 to 60).")
    ] = 1.0,
) -> None:
    """Show sessions, cooldowns and events live. Press ? for the keys, and q or Ctrl-C to quit."""
    from ocwatchd.cli.commands.watch import watch as command

    raise typer.Exit(command(every))


@looking.command()
def history(
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Start of the period: 2h (ago), 14:20 or 2026-11-22T14:20Z. Default: 24h."),
    ] = None,
    session: Annotated[
        str | None, typer.Option(metavar="SESSION", help="Show only this session: part of its id or title.")
    ] = None,
    lines: Annotated[
        int | None,
        typer.Option(
            "--lines",
            "-n",
            metavar="LINES",
            callback=_at_least_one,
            help="Maximum number of events to show (the latest ones).",
        ),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new events.")] = False,
    json: Json = False,
) -> None:
    """List limits, waits, moves and returns, with reasons."""
    from ocwatchd.cli.commands.history import history as command

    raise typer.Exit(command(since, session, json, lines, follow))


@looking.command()
def explain(
    decision: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="An id from `history`, or a session. Default: the latest decision."),
    ] = None,
    json: Json = False,
) -> None:
    """Explain one decision in full.

    It prints the evidence, the rule, the reset time, what OpenCode showed, the models considered, and the outcome.
    """
    from ocwatchd.cli.commands.history import explain as command

    raise typer.Exit(command(decision, json))


@looking.command()
def report(
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Start of the period: 2h (ago), 30d or 2026-11-22T14:20Z. Default: 7d."),
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="The file to write; - is standard output.")] = None,
    form: Annotated[
        str | None, typer.Option("--format", metavar="html|json|prometheus", help="The format to write.")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    json: Json = False,
) -> None:
    """Report limits, time lost and saved, and fallbacks.

    On a terminal, the report is a table. Otherwise it is an HTML page in ocwatchd's cache directory, or data for other
    programs (JSON, Prometheus).
    """
    from ocwatchd.cli.commands.report import report as command

    raise typer.Exit(command(since, out, form, json, open_page))


@looking.command()
def forecast(
    replay: Annotated[
        bool,
        typer.Option("--replay", help="Show how often the forecasts of the last week were right."),
    ] = False,
    json: Json = False,
) -> None:
    """Show how close each model is to its limit.

    It prints the usage so far, when the limit will be reached, and the source of this forecast.
    """
    if replay:
        from ocwatchd.cli.commands.forecast import replay as command
    else:
        from ocwatchd.cli.commands.forecast import forecast as command

    raise typer.Exit(command(json))


@looking.command()
def statusline(
    form: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            help="plain, tmux, waybar, starship, json, or a template like '{model} {left}'.",
        ),
    ] = "plain",
) -> None:
    """Print one line for a status bar.

    Exit 3 if the daemon is stalled or not running, 4 if a model in use has no fallback or OpenCode does not offer a
    configured model, 5 if ocwatchd cannot serve a running OpenCode process.
    """
    from ocwatchd.cli.commands.statusline import statusline as command

    raise typer.Exit(command(form))


@keeping.command()
def logs(
    lines: Annotated[
        int,
        typer.Option(
            "--lines", "-n", metavar="LINES", callback=_at_least_none, help="Number of lines, counted from the end."
        ),
    ] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new lines.")] = False,
    json: Json = False,
) -> None:
    """Show the daemon's log, like `ocwatch service logs`."""
    from ocwatchd.cli.commands.service import logs as command

    raise typer.Exit(command(lines, follow, json))


@looking.command()
def completion(
    shell: Annotated[
        str | None, typer.Argument(metavar="bash|zsh|fish", help="The shell. Default: the one in SHELL.")
    ] = None,
    install: Annotated[bool, typer.Option("--install", help="Write the script where the shell looks for it.")] = False,
) -> None:
    """Print or install the completion script for a shell. For this shell only: eval "$(ocwatch completion bash)"."""
    from ocwatchd.cli.commands.completion import completion as command

    raise typer.Exit(command(shell, app, install))


plugin = typer.Typer(
    name="plugin",
    help="Install, remove or check the companion plugin.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


@plugin.command("install")
def plugin_install(json: Json = False) -> None:
    """Install or update the companion plugin."""
    from ocwatchd.cli.commands.plugin import install as command

    raise typer.Exit(command(json))


@plugin.command("uninstall")
def plugin_uninstall(json: Json = False) -> None:
    """Remove the plugin. A file of the same name that ocwatchd did not write is kept."""
    from ocwatchd.cli.commands.plugin import uninstall as command

    raise typer.Exit(command(json))


@plugin.command("status")
def plugin_status(json: Json = False) -> None:
    """Show whether the plugin is installed and up to date."""
    from ocwatchd.cli.commands.plugin import status as command

    raise typer.Exit(command(json))


service = typer.Typer(
    name="service",
    help="Manage the daemon as a systemd or launchd service.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


@service.command("install")
def service_install(
    sandbox: Annotated[
        bool | None,
        typer.Option(
            "--sandbox/--no-sandbox",
            help="systemd: also use the restrictions that need namespaces. Default: keep the current setting.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Also start the service now.")] = True,
    json: Json = False,
) -> None:
    """Install and start the service. It starts the daemon at every login."""
    from ocwatchd.cli.commands.service import install as command

    raise typer.Exit(command(sandbox, start, json))


@service.command("uninstall")
def service_uninstall(json: Json = False) -> None:
    """Stop the service and remove its files."""
    from ocwatchd.cli.commands.service import uninstall as command

    raise typer.Exit(command(json))


@service.command("start")
def service_start(json: Json = False) -> None:
    """Start the service."""
    from ocwatchd.cli.commands.service import start as command

    raise typer.Exit(command(json))


@service.command("stop")
def service_stop(json: Json = False) -> None:
    """Stop the service until the next login."""
    from ocwatchd.cli.commands.service import stop as command

    raise typer.Exit(command(json))


@service.command("status")
def service_status(json: Json = False) -> None:
    """Show whether the service is running. Exit 3 if it is not."""
    from ocwatchd.cli.commands.service import status as command

    raise typer.Exit(command(json))


@service.command("logs")
def service_logs(
    lines: Annotated[
        int,
        typer.Option(
            "--lines", "-n", metavar="LINES", callback=_at_least_none, help="Number of lines, counted from the end."
        ),
    ] = 100,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new lines.")] = False,
    json: Json = False,
) -> None:
    """Show the service's log."""
    from ocwatchd.cli.commands.service import logs as command

    raise typer.Exit(command(lines, follow, json))


share = typer.Typer(
    name="share",
    help="Share cooldowns with your other machines.\n\nThe machines must use the same accounts. Without a command, "
    "ocwatch shares cooldowns until you stop it.",
    rich_markup_mode=None,
    invoke_without_command=True,
)


@share.callback()
def share_serve(context: typer.Context) -> None:
    """Share cooldowns with other machines that use the same accounts, until stopped."""
    if context.invoked_subcommand is None:
        from ocwatchd.cli.commands.share import serve as command

        raise typer.Exit(command())


@share.command("status")
def share_status(json: Json = False) -> None:
    """Show whether sharing works. Exit 1 if the server or folder fails, 3 if `ocwatch share` is not running."""
    from ocwatchd.cli.commands.share import status as command

    raise typer.Exit(command(json))


@share.command("test")
def share_test(json: Json = False) -> None:
    """Send a test cooldown, and wait until it is received."""
    from ocwatchd.cli.commands.share import try_it as command

    raise typer.Exit(command(json))


@share.command("doctor")
def share_doctor(json: Json = False) -> None:
    """Check everything that sharing needs.

    It checks the accounts, the `ocwatch share` process, the server or folder, and the clocks. Exit 1 if there is an
    error.
    """
    from ocwatchd.cli.commands.share import doctor as command

    raise typer.Exit(command(json))


@share.command("install")
def share_install(json: Json = False) -> None:
    """Install and start the service that shares cooldowns."""
    from ocwatchd.cli.commands.share import install as command

    raise typer.Exit(command(json))


@share.command("uninstall")
def share_uninstall(json: Json = False) -> None:
    """Stop the service that shares cooldowns, and remove its files."""
    from ocwatchd.cli.commands.share import uninstall as command

    raise typer.Exit(command(json))


for part in (looking, keeping, service, share, plugin, config):
    app.add_typer(part)
