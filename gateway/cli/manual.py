"""`docs/commands.md`: the table of commands as people read it."""

from gateway.cli.commands import CLIENT, EDIT, SHOWN, Command, Option

_HEAD = """\
# Commands

<!-- Rendered by `python -m gateway.cli.manual > docs/commands.md`; a test compares. -->

Exit codes: 0 done, 1 refused, with one clear line on stderr (one for each fault of a file),
2 wrong usage. Tables are drawn on a terminal and plain columns elsewhere; `--json` prints what
the admin API answered. Ctrl-C ends a command without a word.

Completion, of the running gateway's names too, is a line in the settings of a shell:
`source <(headgate completion bash)` in `~/.bashrc`, `source <(headgate completion zsh)` in
`~/.zshrc` after `compinit`, `headgate completion fish | source` in `~/.config/fish/config.fish`.
"""

_CLIENT = """\
## Which gateway is meant

Every command that asks a running gateway takes:

{options}

Without `--url` and `HEADGATE_URL` it is `http://127.0.0.1:8081`. The token is `--token`, else
`HEADGATE_TOKEN`, else the one in the state directory: `--state-dir`, else `HEADGATE_STATE_DIR`,
else the nearest `.headgate/` upwards from the working directory. A token that was found on this
machine is sent to this machine only.

Every command that edits takes also:

{edits}
"""


def page() -> str:
    """The whole page."""
    general = _CLIENT.format(
        options=_list(CLIENT), edits=_list([each for each in EDIT if each not in CLIENT])
    )
    return "\n".join([_HEAD, general, *(_section(command) for command in SHOWN)])


def _section(command: Command) -> str:
    asks = set(CLIENT) <= set(command.options)
    own = [option for option in command.options if not (asks and option in EDIT)]
    words = ["headgate", command.name]
    for argument in command.arguments:
        name = argument.name.upper()
        words.append({"?": f"[{name}]", "*": f"[{name} …]"}.get(argument.nargs or "", name))
    if command.options:
        words.append("[options]")
    lines = [f"## `{' '.join(words)}`", "", f"{command.summary[0].upper()}{command.summary[1:]}."]
    if command.arguments:
        lines += ["", *(f"- `{a.name.upper()}`: {a.help}" for a in command.arguments)]
    if own:
        lines += ["", _list(own)]
    return "\n".join(lines) + "\n"


def _list(options: tuple[Option, ...] | list[Option]) -> str:
    return "\n".join(f"- `{_spelled(option)}`: {option.help}" for option in options)


def _spelled(option: Option) -> str:
    words = f"{option.short}, {option.name}" if option.short else option.name
    return f"{words} {option.metavar}" if option.metavar else words


if __name__ == "__main__":
    print(page(), end="")
