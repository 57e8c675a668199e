"""`headgate completion`: a script that completes commands, options and names in a shell.

Commands and options are written into the script, so that completing them starts nothing.
Names of routes, backends and instances are asked of the running gateway when they are wanted;
without one there are no names and no noise.
"""

import argparse
from collections.abc import Iterator

from gateway.cli.commands import SHOWN, Argument, Command, Option
from gateway.cli.parsing import Usage, suggestion

SHELLS = ("bash", "zsh", "fish")
LIVE = ("route", "backend", "instance", "weight")


def completion(options: argparse.Namespace) -> int:
    """Prints the script for the shell that was named."""
    writers = {"bash": bash, "zsh": zsh, "fish": fish}
    if options.shell not in writers:
        raise Usage(f"no completion for {options.shell!r}{suggestion(options.shell, writers)}")
    print("\n".join(writers[options.shell]()))
    return 0


def names(options: argparse.Namespace) -> int:
    """Prints the live names of a kind, one a line; nothing at all when it cannot ask."""
    from gateway.cli import asking, finding

    try:
        found = asking.names(finding.client(options), options.kind)
    except Exception:
        return 1  # a completion that talks into the command line is worse than none
    print("\n".join(found))
    return 0


def bash() -> Iterator[str]:
    """A function that looks at the command, the word before and the place of the word itself.

    It reads the line and not COMP_WORDS: bash cuts words at `:` and `=`, which our names hold.
    """
    yield "_headgate() {"
    yield "  local line=${COMP_LINE:0:COMP_POINT} words= word before cut last at=0 i"
    yield "  local -a typed"
    yield '  read -ra typed <<<"$line"'
    yield "  [[ $line == *[[:space:]] ]] && typed+=('')"
    yield "  last=$((${#typed[@]} - 1)); word=${typed[last]} before=${typed[last - 1]}"
    yield "  for ((i = 2; i < last; i++)); do"
    yield f'    case "${{typed[i]}}" in {_bash_valued()}) ((i++));; -*) ;; *) ((at++));; esac'
    yield "  done"
    yield '  if [[ $last -eq 1 ]]; then words="' + _words(c.name for c in SHOWN) + '"; else'
    yield '  case "$before" in'
    options = {option.name: option for command in SHOWN for option in command.options}
    for option in options.values():
        if option.metavar:
            short = f"|{option.short}" if option.short else ""
            yield f"    {option.name}{short}) {_bash_action(option)};;"
    yield '    *) case "${typed[1]}" in'
    for command in SHOWN:
        switches = _words(option.name for option in command.options)
        yield f'      {command.name}) if [[ $word == -* ]]; then words="{switches}"; else'
        yield f"        case $at in {_bash_places(command)} *) ;; esac; fi;;"
    yield "      esac;;"
    yield "  esac; fi"
    yield '  [[ -n $words ]] && COMPREPLY=($(compgen -W "$words" -- "$word"))'
    yield "  [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null"
    yield '  cut=${word%"${word##*[:=]}"}'
    yield '  COMPREPLY=("${COMPREPLY[@]#"$cut"}")'
    yield "}"
    yield "complete -F _headgate headgate"


def _bash_valued() -> str:
    """The options that take a value, as one pattern."""
    valued = {option for command in SHOWN for option in command.options if option.metavar}
    return "|".join(sorted({n for o in valued for n in (o.name, o.short) if n}))


def _bash_places(command: Command) -> str:
    """What completes each positional word of `command`; the last one where there may be many."""
    return " ".join(
        f"{'*' if argument.nargs == '*' else place}) {_bash_action(argument)};;"
        for place, argument in enumerate(command.arguments)
    )


def _bash_action(of: Argument | Option) -> str:
    if of.of == "file":
        return 'COMPREPLY=($(compgen -f -- "$word"))'
    if of.of == "directory":
        return 'COMPREPLY=($(compgen -d -- "$word"))'
    if of.of == "shell":
        return f'words="{_words(SHELLS)}"'
    if of.of in LIVE:
        return f'words="$(headgate _names {of.of} 2>/dev/null)"'
    return ":"


def zsh() -> Iterator[str]:
    """_arguments specifications per command."""
    yield "#compdef headgate"
    yield '_headgate_names() { compadd -- ${(f)"$(headgate _names $1 2>/dev/null)"} }'
    yield "_headgate() {"
    yield "  if (( CURRENT == 2 )); then"
    yield "    local -a commands=("
    for command in SHOWN:
        yield f"      '{command.name}:{_quoted(command.summary)}'"
    yield "    )"
    yield "    _describe command commands; return"
    yield "  fi"
    yield '  local command=${words[2]}; words=("${(@)words[2,-1]}"); (( CURRENT-- ))'
    yield "  case $command in"
    for command in SHOWN:
        yield f"    {command.name}) _arguments {' '.join(_zsh_specs(command))};;"
    yield "  esac"
    yield "}"
    yield "compdef _headgate headgate"


def _zsh_specs(command: Command) -> Iterator[str]:
    for option in command.options:
        value = f":{option.metavar}:{_zsh_action(option)}" if option.metavar else ""
        yield f"'{option.name}[{_quoted(option.help)}]{value}'"
    for argument in command.arguments:
        many = "*" if argument.nargs == "*" else ""
        optional = ":" if argument.nargs == "?" else ""
        yield f"'{many}:{optional}{argument.name}:{_zsh_action(argument)}'"


def _zsh_action(of: Argument | Option) -> str:
    if of.of == "file":
        return "_files"
    if of.of == "directory":
        return "_files -/"
    if of.of == "shell":
        return f"({_words(SHELLS)})"
    return f"_headgate_names {of.of}" if of.of in LIVE else ""


def fish() -> Iterator[str]:
    """One `complete` line per command, option and argument."""
    yield "complete -c headgate -f"
    for command in SHOWN:
        name = command.name
        yield (
            f"complete -c headgate -n __fish_use_subcommand -a {name}"
            f" -d '{_quoted(command.summary)}'"
        )
        seen = f"-n '__fish_seen_subcommand_from {name}'"
        for option in command.options:
            takes = f" -x{_fish_action(option)}" if option.metavar else ""
            long = option.name.removeprefix("--")
            yield f"complete -c headgate {seen} -l {long}{takes} -d '{_quoted(option.help)}'"
        for argument in command.arguments:
            action = _fish_action(argument)
            if action:
                yield f"complete -c headgate {seen}{action}"


def _fish_action(of: Argument | Option) -> str:
    if of.of == "file":
        return " -F"
    if of.of == "directory":
        return " -a '(__fish_complete_directories)'"
    if of.of == "shell":
        return f" -a '{_words(SHELLS)}'"
    return f" -a '(headgate _names {of.of} 2>/dev/null)'" if of.of in LIVE else ""


def _words(words: Iterator[str] | tuple[str, ...]) -> str:
    return " ".join(words)


def _quoted(text: str) -> str:
    """`text` inside single quotes and zsh's brackets."""
    return text.replace("'", "’").replace("[", "(").replace("]", ")").replace(":", ",")
