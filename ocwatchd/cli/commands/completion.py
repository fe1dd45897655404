"""`ocwatch completion SHELL`: print a script that completes commands, options, models, sessions and ids.

The script contains all commands and options of this version, so pressing Tab runs ocwatch only to complete a name
(`ocwatch __complete`, 25 ms of CPU time). typer's own script runs the whole program whenever Tab is pressed (100 ms of
CPU time).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from ocwatchd.cli.commands.statusline import FORMATS
from ocwatchd.cli.output.escape import escape
from ocwatchd.cli.output.render import say, tell
from ocwatchd.errors import ExitCode, OcwatchError, UsageError
from ocwatchd.ownership import make_directories
from ocwatchd.paths import base
from ocwatchd.state.files import write_named

KINDS = {"MODEL": "models", "SESSION": "sessions", "ID": "ids", "FILE": "files", "FILE...": "files"}
"""Maps a metavar to the kind of value to complete.

A metavar with vertical bars lists the words to choose from. The values of all other metavars cannot be completed.
"""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its words, a sentence of help, its options, and the kind of its argument.

    `options` maps each option to the kind of its value, or to an empty string if it takes no value. Kinds are `models`,
    `sessions`, `ids`, `files`, the words to choose from, or `?` for a value that cannot be completed.
    """

    words: str
    help: str
    options: Mapping[str, str]
    kind: str


BASH = r"""# ocwatch: completion for bash
# Names are data: they are read line by line, compared literally, and quoted when they are inserted.
_ocwatch() {
  local IFS=$' \t\n' rest=${COMP_LINE:0:$COMP_POINT} word= start=0 quote= open= begun= opaque= char
  local command= previous= kind= part name quoted common= shared=
  local -a words offer options
  while :; do
    # bash replaces the text after this position; without arguments, the text after the last separator.
    if [ $# -gt 1 ] && [ ${#rest} -eq ${#2} ]; then start=${#word} open=$quote; fi
    [ -n "$rest" ] || break
    char=${rest:0:1} rest=${rest:1}
    case $quote$char in
      \'\'|\"\") quote=;;
      \"\\) case ${rest:0:1} in [\$\`\"\\]) word+=${rest:0:1} rest=${rest:1};; *) word+=$char;; esac;;
      \"[\$\`]|[\$\`\<\>\|\&\;\(\)]) opaque=1 begun=1;;
      \'?|\"?) word+=$char;;
      \\) word+=${rest:0:1} rest=${rest:1} begun=1;;
      [\'\"]) quote=$char begun=1; [ $# -gt 1 ] || start=${#word} open=$char;;
      [[:blank:]]) [ -z "$begun" ] || words+=("$word"); word= start=0 open= begun= opaque=;;
      *) word+=$char begun=1
         [ $# -gt 1 ] || case $COMP_WORDBREAKS in *"$char"*) start=${#word} open=;; esac;;
    esac
  done
  COMPREPLY=()
  [ -z "$opaque" ] || return 0  # the value of such a word is known only when the line is run
  for part in ${words[@]+"${words[@]:1}"}; do
    previous=$part
    for name in @COMMANDS@; do
      [ "$name" = "${command:+$command }$part" ] && command=$name && break
    done
    case $command$part in -*) ;; *) command=${command:-$part};; esac
  done
  case $command in
@CASES@
  esac
  case $word in -*) kind=words; offer=("${options[@]}");; esac
  case $kind in
    ''|words) ;;
    files)
      # bash itself completes files best, but 3.2 has no compopt.
      if type compopt >/dev/null 2>&1; then compopt -o default 2>/dev/null; return 0; fi
      while IFS= read -r name; do offer+=("$name"); done < <(compgen -f -- "$word");;
    *) while IFS= read -r name; do offer+=("$name"); done < <(ocwatch __complete "$kind" 2>/dev/null);;
  esac
  for name in ${offer[@]+"${offer[@]}"}; do
    case $name in "$word"*) ;; *) continue;; esac
    case $open$name in \"*!*) continue;; esac  # within double quotes, bash would expand the !
    name=${name:$start}
    _ocwatch_quote
    if [ ${#COMPREPLY[@]} -eq 0 ]; then common=$name shared=$quoted; fi
    while case $name in "$common"*) false;; esac; do common=${common%?}; done
    while case $quoted in "$shared"*) false;; esac; do shared=${shared%?}; done
    COMPREPLY+=("$quoted")
  done
  # bash also inserts the common beginning of all candidates, which must not end within a quoted character.
  case ${COMP_TYPE-9} in 9|33|64) ;; *) return 0;; esac
  name=$common
  _ocwatch_quote
  [ "$quoted" = "$shared" ] || COMPREPLY+=("$quoted")
}
# Set `quoted` to `name`, quoted for a line in which the quote `open` is open.
_ocwatch_quote() {
  local rest=$name char
  quoted=$name
  case $name in *[![:alnum:]_./:@%+=-]*) quoted=;; *) return 0;; esac
  while [ -n "$rest" ]; do
    char=${rest:0:1} rest=${rest:1}
    case $open$char in
      \'\') quoted+="'\\''";;
      \"[\$\`\"\\]) quoted+=\\$char;;
      \'?|\"?|[[:alnum:]_./:@%+=-]) quoted+=$char;;
      *) quoted+=\\$char;;
    esac
  done
}
complete -F _ocwatch ocwatch"""


def completion(shell: str | None, app: typer.Typer, install: bool = False) -> int:
    """Print the completion script of `app` for `shell`, or, with `install`, write it to the directory where the shell
    looks for completions.

    `shell` defaults to the shell in the environment variable SHELL.

    Raises:
        UsageError: The shell is not bash, zsh or fish.
        OcwatchError: The file cannot be written.
    """
    scripts = {"bash": bash, "zsh": zsh, "fish": fish}
    name = shell or os.environ.get("SHELL", "").rpartition("/")[2]
    if name not in scripts:
        raise UsageError(f"there is no completion for the shell {name!r}. Use one of: bash, zsh, fish")
    script = scripts[name](commands(app))
    if not install:
        say(script)
        return ExitCode.DONE
    path, hint = _place(name)
    try:
        # The umask determines the mode, because the directory belongs to the shell and not to ocwatchd.
        make_directories(path.parent, 0o777)
        write_named(path, f"{script}\n".encode(), 0o666)
    except OSError as fault:
        raise OcwatchError(f"{path} cannot be written: {fault.strerror or fault}") from None
    tell(escape(f"Wrote {path}. {hint}"))
    return ExitCode.DONE


def _place(shell: str) -> tuple[Path, str]:
    """Return the file in which this shell looks for a user's completions, and a sentence that explains how to activate
    them.
    """
    data, config = base("XDG_DATA_HOME", ".local/share"), base("XDG_CONFIG_HOME", ".config")
    again = "It works in every new shell"
    if shell == "bash":
        needs = "if the package bash-completion is installed"
        return Path(data, "bash-completion/completions/ocwatch"), f"{again}, {needs}."
    if shell == "fish":
        return Path(config, "fish/completions/ocwatch.fish"), f"{again}."
    path = Path(data, "zsh/site-functions/_ocwatch")
    return path, f"Add this to ~/.zshrc before compinit: fpath=({path.parent} $fpath)"


def commands(app: typer.Typer) -> list[Command]:
    """Return every command of `app`, without the leading `ocwatch`."""
    return list(_walk(typer.main.get_command(app), ()))


def _walk(command: Any, words: tuple[str, ...]) -> Iterator[Command]:
    inner: Mapping[str, Any] = getattr(command, "commands", {})
    options: dict[str, str] = {"--help": ""}
    kind = " ".join(sorted(inner))
    for param in command.params:
        metavar = str(param.metavar or "")
        if param.param_type_name == "argument":
            kind = _kind(metavar, "")
        else:
            value = "" if param.is_flag else _kind(metavar, "?")
            options |= {name: value for name in param.opts if name.startswith("--")}
    sentence = " ".join(str(command.help or "").split("\n\n")[0].split())
    yield Command(" ".join(words), sentence, options, kind)
    for name, child in sorted(inner.items()):
        if not getattr(child, "hidden", False):
            yield from _walk(child, (*words, name))


def _kind(metavar: str, else_: str) -> str:
    if metavar == "FORMAT":
        return " ".join(FORMATS)
    return KINDS.get(metavar) or (metavar.replace("|", " ") if "|" in metavar else else_)


def _is_group(command: Command, known: list[Command]) -> bool:
    return any(one.words.startswith(f"{command.words} ".lstrip()) and one.words for one in known if one != command)


def _is_names(kind: str) -> bool:
    """Return whether the values of this kind are names that `ocwatch __complete` lists."""
    return kind in ("models", "sessions", "ids")


def bash(known: list[Command]) -> str:
    """Return the completion script for bash 3.2 (the version in macOS) and later."""
    cases = []
    for command in known:
        inner = [f"      {name}) {_bash_kind(kind)};;" for name, kind in command.options.items() if kind]
        cases += [
            f"  '{command.words}')",
            f"    options=({' '.join(command.options)}); {_bash_kind(command.kind)}",
            *(["    case $previous in", *inner, "    esac;;"] if inner else ["    ;;"]),
        ]
    paths = " ".join(f"'{command.words}'" for command in known if command.words)
    return BASH.replace("@CASES@", "\n".join(cases)).replace("@COMMANDS@", paths)


def _bash_kind(kind: str) -> str:
    if kind in ("", "?"):
        return "kind="
    return f"kind={kind}" if _is_names(kind) or kind == "files" else f"kind=words; offer=({kind})"


def zsh(known: list[Command]) -> str:
    """Return the completion script for zsh, either to source after compinit or to install as `_ocwatch` in $fpath."""
    cases = []
    for command in known:
        inner = [f"      {name}) {_zsh_offer(kind)}; return;;" for name, kind in command.options.items() if kind]
        before = ["    case $words[CURRENT-1] in", *inner, "    esac"] if inner else []
        rest = _zsh_commands(command, known) if _is_group(command, known) else _zsh_offer(command.kind)
        options = " ".join(command.options)
        cases += [
            f"  '{command.words}')", *before,
            f"    if [[ $PREFIX == -* ]]; then compadd -- {options}; else {rest}; fi;;",
        ]  # fmt: skip
    paths = " ".join(f"'{command.words}'" for command in known if command.words)
    return "\n".join([
        "#compdef ocwatch",
        "_ocwatch() {",
        "  local command= part known",
        "  for part in ${words[2,CURRENT-1]}; do",
        f"    for known in {paths}; do",
        '      [[ $known == "${command:+$command }$part" ]] && command=$known && break',
        "    done",
            "    [[ $command$part == -* ]] || command=${command:-$part}",
        "  done",
        "  case $command in",
        *cases,
        "  esac",
        "}",
        'if [ "$funcstack[1]" = _ocwatch ]; then _ocwatch "$@"; else compdef _ocwatch ocwatch; fi',
    ])  # fmt: skip


def _zsh_offer(kind: str) -> str:
    if kind == "files":
        return "_files"
    if _is_names(kind):
        return f'compadd -- ${{(f)"$(ocwatch __complete {kind} 2>/dev/null)"}}'
    return f"compadd -- {kind}" if kind not in ("", "?") else ":"


def _zsh_commands(command: Command, known: list[Command]) -> str:
    helps = {one.words: one.help for one in known}
    rows = [f"'{name}:{_plain(helps.get(f'{command.words} {name}'.strip(), ''))}'" for name in command.kind.split()]
    return f"local -a names; names=({' '.join(rows)}); _describe command names"


def fish(known: list[Command]) -> str:
    """Return the completion script for fish."""
    lines = ["# ocwatch: completion for fish", "complete -c ocwatch -f"]
    for command in known:
        when = _fish_when(command, known)
        helps = {one.words: one.help for one in known}
        if _is_group(command, known):
            lines += [
                f"complete -c ocwatch -n '{when}' -a {name} -d '{_plain(helps[f'{command.words} {name}'.strip()])}'"
                for name in command.kind.split()
            ]
        elif command.kind == "files":
            lines.append(f"complete -c ocwatch -n '{when}' -F")
        elif command.kind:
            lines.append(f"complete -c ocwatch -n '{when}' -a '{_fish_offer(command.kind)}'")
        for name, kind in command.options.items():
            value = "" if not kind else " -r -F" if kind == "files" else f" -x -a '{_fish_offer(kind)}'"
            lines.append(f"complete -c ocwatch -n '{when}' -l {name.removeprefix('--')}{value}")
    return "\n".join(lines)


def _fish_offer(kind: str) -> str:
    """Return the expression that fish evaluates when Tab is pressed: fixed words, or a command that prints one
    candidate per line.
    """
    if _is_names(kind):
        return f"(ocwatch __complete {kind} 2>/dev/null)"
    return "" if kind == "?" else kind


def _fish_when(command: Command, known: list[Command]) -> str:
    if not command.words:
        return "__fish_use_subcommand"
    seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in command.words.split())
    deeper = [one.words.split()[-1] for one in known if one.words.startswith(f"{command.words} ")]
    return f"{seen}; and not __fish_seen_subcommand_from {' '.join(deeper)}" if deeper else seen


def _plain(text: str) -> str:
    """Return the text without characters that are special inside shell quotes or to zsh's `_describe`."""
    return text.replace("'", "").replace(":", ",").replace("`", "")
