"""`headgate completion`: a script that completes commands, options and names in a shell.

Commands and options are written into the script, so that completing them starts nothing.
Names of routes, backends and instances are asked of the running gateway when they are wanted;
without one there are no names and no noise.
"""

import argparse
from collections.abc import Iterable, Iterator

from gateway.cli.commands import SHOWN, Argument, Command, Option
from gateway.cli.parsing import Usage, suggestion

SHELLS = ("bash", "zsh", "fish")
LIVE = ("route", "backend", "instance", "weight")
MODEL = Argument("model", "package.module:Name or path/to/file.py:Name", "file")


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
    yield "  local line=${COMP_LINE:0:COMP_POINT} words= word before cut last at=0 i IFS=$' \\t\\n'"
    yield "  local -a typed"
    yield '  read -ra typed <<<"$line"'
    yield "  [[ $line == *[[:space:]] ]] && typed+=('')"
    yield "  last=$((${#typed[@]} - 1)); word=${typed[last]} before=${typed[last - 1]}"
    yield "  for ((i = 2; i < last; i++)); do"
    yield f'    case "${{typed[i]}}" in {"|".join(_valued())}) ((i++));; -*) ;; *) ((at++));; esac'
    yield "  done"
    yield '  if [[ $last -eq 1 ]]; then words="' + _words(c.name for c in SHOWN) + '"; else'
    yield '  case "$before" in'
    options = {option.name: option for command in SHOWN for option in command.options}
    for option in options.values():
        if option.metavar:
            yield f"    {'|'.join(_names(option))}) {_bash_action(option)};;"
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


def _bash_places(command: Command) -> str:
    """What completes each positional word of `command`; the last one where there may be many."""
    return " ".join(
        f"{'*' if argument.nargs == '*' else place}) {_bash_action(argument)};;"
        for place, argument in enumerate(_arguments(command))
    )


def _bash_action(of: Argument | Option) -> str:
    if of.of in ("file", "directory"):
        # As file names: a blank in one is no end, and a directory is followed by no blank.
        names = f'COMPREPLY=($(compgen -{of.of[0]} -- "$word"))'
        return f"IFS=$'\\n' {names}; compopt -o filenames 2>/dev/null"
    if of.of == "shell":
        return f'words="{_words(SHELLS)}"'
    if of.of in LIVE:
        return f'words="$(headgate _names {of.of} 2>/dev/null)"'
    return ":"


def zsh() -> Iterator[str]:
    """_arguments specifications per command: to be sourced, or a file `_headgate` in $fpath."""
    yield "#compdef headgate"
    yield "_headgate_names() {"
    yield "  local kind=${@[-1]}; local -a end  # before it stand what _arguments has for compadd"
    yield "  [[ $kind == weight ]] && end=(-S '')"
    yield '  compadd "${@[1,-2]}" "${end[@]}" -- ${(f)"$(headgate _names $kind 2>/dev/null)"}'
    yield "}"
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
    yield "if [[ $funcstack[1] == _headgate ]]; then _headgate; else compdef _headgate headgate; fi"


def _zsh_specs(command: Command) -> Iterator[str]:
    for option in command.options:
        names = _names(option)
        either = f"'({' '.join(names)})'{{{','.join(names)}}}" if len(names) > 1 else option.name
        value = f":{option.metavar}:{_zsh_action(option)}" if option.metavar else ""
        yield f"{either}'[{_quoted(option.help)}]{value}'"
    for argument in _arguments(command):
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
    """A function that knows a word's place; one `complete` line per command, option and place."""
    yield "function __headgate_at -d 'whether the word of COMMAND at PLACE (or later) is wanted'"
    yield "  set -l typed (commandline -opc)"
    yield '  test (count $typed) -ge 2; and test "$typed[2]" = "$argv[1]"; or return 1'
    yield "  set -e typed[1..2]; set -l at 0; set -l value no"
    yield "  for word in $typed"
    yield "    if test $value = yes; set value no; continue; end"
    yield f"    switch $word; case {_words(_valued())}; set value yes"
    yield "      case '-*'; case '*'; set at (math $at + 1); end"
    yield "  end"
    yield '  test $at -eq $argv[2]; or test "$argv[3]" = later -a $at -gt $argv[2]'
    yield "end"
    yield "complete -c headgate -f"
    for command in SHOWN:
        yield (
            f"complete -c headgate -n __fish_use_subcommand -a {command.name}"
            f" -d '{_quoted(command.summary)}'"
        )
        for option in command.options:
            yield _fish_line(
                command, "0 later", f"{_fish_option(option)} -d '{_quoted(option.help)}'"
            )
        for place, argument in enumerate(_arguments(command)):
            later = " later" if argument.nargs == "*" else ""
            if action := _fish_action(argument):
                yield _fish_line(command, f"{place}{later}", action)


def _fish_line(command: Command, place: str, completes: str) -> str:
    return f"complete -c headgate -n '__headgate_at {command.name} {place}'{completes}"


def _fish_option(option: Option) -> str:
    short = f" -s {option.short.removeprefix('-')}" if option.short else ""
    takes = f" -x{_fish_action(option)}" if option.metavar else ""
    return f" -l {option.name.removeprefix('--')}{short}{takes}"


def _fish_action(of: Argument | Option) -> str:
    if of.of == "file":
        return " -F"
    if of.of == "directory":
        return " -a '(__fish_complete_directories)'"
    if of.of == "shell":
        return f" -a '{_words(SHELLS)}'"
    return f" -a '(headgate _names {of.of} 2>/dev/null)'" if of.of in LIVE else ""


def _arguments(command: Command) -> tuple[Argument, ...]:
    """The positional words of `command`; an instance's own program reads a model from a file."""
    return (MODEL,) if command.name == "instance" else command.arguments


def _names(option: Option) -> list[str]:
    """How `option` can be written."""
    return [name for name in (option.short, option.name) if name]


def _valued() -> list[str]:
    """Every way to write an option that takes a value."""
    options = {option for command in SHOWN for option in command.options if option.metavar}
    return sorted({name for option in options for name in _names(option)})


def _words(words: Iterable[str]) -> str:
    return " ".join(words)


def _quoted(text: str) -> str:
    """`text` inside single quotes and zsh's brackets."""
    return text.replace("'", "’").replace("[", "(").replace("]", ")")
