"""`ocwatch completion SHELL`: a script that completes commands, options, models, sessions and ids.

Made from the commands as they are, so it cannot go stale; a Tab then costs the shell nothing but, where a name is due,
one `ocwatch __complete`, 25 CPU ms. (typer's own runs the whole program, 100 CPU ms, at every Tab.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import typer

from ocwatchd.cli.render import say
from ocwatchd.cli.statusline import FORMATS
from ocwatchd.errors import ExitCode, UsageError

KINDS = {"MODEL": "models", "SESSION": "sessions", "ID": "ids", "FILE": "files", "FILE...": "files"}
"""What a metavar stands for; one with bars lists the words, another one is for the person to type."""


@dataclass(frozen=True, slots=True)
class Command:
    """One command: its words, one sentence of help, its options with what each takes (empty: nothing), its argument.

    What is taken: `models`, `sessions`, `ids`, `files`, or the words to choose from; `?` is for the person to type.
    """

    words: str
    help: str
    options: Mapping[str, str]
    kind: str


BASH = r"""# ocwatch: completion for bash
_ocwatch() {
  local line=${COMP_LINE:0:$COMP_POINT} word= previous= command= options= offer=: kind= part known
  local -a words
  read -ra words <<<"$line"
  case $line in *' ') words+=('');; esac
  word=${words[${#words[@]}-1]}
  [ ${#words[@]} -gt 1 ] && previous=${words[${#words[@]}-2]}
  for part in "${words[@]:1:${#words[@]}-2}"; do
    for known in @COMMANDS@; do
      [ "$known" = "${command:+$command }$part" ] && command=$known && break
    done
    case $command$part in -*) ;; *) command=${command:-$part};; esac
  done
  case $command in
@CASES@
  esac
  case $word in -*) offer="printf '%s\\n' $options"; kind=;; esac
  COMPREPLY=()
  while IFS= read -r part; do
    # bash completes what follows the last colon, so what stands before it must not be said again
    case $COMP_WORDBREAKS in *:*) case $word in *:*) part=${part#"${word%"${word##*:}"}"};; esac;; esac
    COMPREPLY+=("$part")
  done < <(if [ "$kind" = files ]; then compgen -f -- "$word"; else compgen -W "$(eval "$offer")" -- "$word"; fi)
}
complete -F _ocwatch ocwatch"""


def completion(shell: str) -> int:
    """Print the script for `shell`.

    Raises:
        UsageError: another shell than bash, zsh and fish.
    """
    scripts = {"bash": bash, "zsh": zsh, "fish": fish}
    if shell not in scripts:
        raise UsageError(f"no completion for {shell!r}; there is bash, zsh and fish")
    say(scripts[shell](commands()))
    return ExitCode.DONE


def commands() -> list[Command]:
    """Every command, with `ocwatch` left away."""
    from ocwatchd.cli.app import app

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


def _offer(kind: str) -> str:
    """Shell words that print what may stand for `kind`, one a line."""
    if kind in ("models", "sessions", "ids"):
        return f"ocwatch __complete {kind} 2>/dev/null"
    return f"printf '%s\\n' {kind}" if kind not in ("", "?", "files") else ":"


def bash(known: list[Command]) -> str:
    """A script for bash 3.2 and later (macOS has no newer one)."""
    cases = []
    for command in known:
        takes = [(name, kind) for name, kind in command.options.items() if kind]
        inner = [f"      {name}) offer=\"{_offer(kind)}\"; kind='{kind}';;" for name, kind in takes]
        cases += [
            f"  '{command.words}')",
            f"    options='{' '.join(command.options)}'; offer=\"{_offer(command.kind)}\"; kind='{command.kind}'",
            *(["    case $previous in", *inner, "    esac;;"] if inner else ["    ;;"]),
        ]
    paths = " ".join(f"'{command.words}'" for command in known if command.words)
    return BASH.replace("@CASES@", "\n".join(cases)).replace("@COMMANDS@", paths)


def zsh(known: list[Command]) -> str:
    """A script for zsh, to be sourced after compinit or put into a directory of $fpath as `_ocwatch`."""
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
    return f'compadd -- ${{(f)"$({_offer(kind)})"}}' if kind not in ("", "?") else ":"


def _zsh_commands(command: Command, known: list[Command]) -> str:
    helps = {one.words: one.help for one in known}
    rows = [f"'{name}:{_plain(helps.get(f'{command.words} {name}'.strip(), ''))}'" for name in command.kind.split()]
    return f"local -a names; names=({' '.join(rows)}); _describe command names"


def fish(known: list[Command]) -> str:
    """A script for fish."""
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
            lines.append(f"complete -c ocwatch -n '{when}' -a \"({_offer(command.kind)})\"")
        for name, kind in command.options.items():
            value = "" if not kind else " -r -F" if kind == "files" else f' -x -a "({_offer(kind)})"'
            lines.append(f"complete -c ocwatch -n '{when}' -l {name.removeprefix('--')}{value}")
    return "\n".join(lines)


def _fish_when(command: Command, known: list[Command]) -> str:
    if not command.words:
        return "__fish_use_subcommand"
    seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in command.words.split())
    deeper = [one.words.split()[-1] for one in known if one.words.startswith(f"{command.words} ")]
    return f"{seen}; and not __fish_seen_subcommand_from {' '.join(deeper)}" if deeper else seen


def _plain(text: str) -> str:
    """Without what a shell's quotes or `_describe` would take for their own."""
    return text.replace("'", "").replace(":", ",").replace("`", "")
