"""`docs/commands.md`: the table of commands as people read it."""

from collections.abc import Iterable

import click

from gateway.cli.commands import COMMANDS, HEADGATE
from gateway.cli.declaring import PROGRAM
from gateway.cli.parameters import CLIENT, EDIT

_HEAD = """\
# Commands

<!-- Rendered by `python -m gateway.cli.manual > docs/commands.md`; a test compares. -->

Exit codes: 0 done, 1 refused, with one clear line on stderr (one for each fault of a file),
2 wrong usage, 3 a rollout that went back. Tables are drawn on a terminal and plain columns
elsewhere; `-o json` and `-o yaml` print what the admin API answered. Ctrl-C ends a command
without a word.

Completion, of the running gateway's names too, is a line in the settings of a shell:
`source <(headgate completion bash)` in `~/.bashrc`, `source <(headgate completion zsh)` in
`~/.zshrc` after `compinit`, `headgate completion fish | source` in `~/.config/fish/config.fish`.
It asks the gateway that the line means, with what was typed of `--url`, `--token`, `--state-dir`.
"""

_CLIENT = """\
## Which gateway is meant

Every command that asks a running gateway takes:

{options}

Without `--url` and `HEADGATE_URL` it is the gateway that runs with the state directory which is
named (`--state-dir`, `HEADGATE_STATE_DIR`), lies beside the file that the command names, or is the
nearest `.headgate/` upwards from the working directory; several that run there are named, and one
is to be chosen. Else it is `http://127.0.0.1:8081`, but for a named directory that is not there,
which is refused. Only a `.headgate/` of the same user or of root counts, and only an address of
this machine. The token is `--token`, else `HEADGATE_TOKEN`, else
the one in that directory, which is sent to this machine only. A token on a command line can be
read by every user of the machine for as long as the command runs; one in the environment cannot.

Every command that edits takes also:

{edits}
"""

_SIGNALS = """\
## Signals

Send them to the process of `headgate up` or `headgate gateway`:

- SIGTERM drains and stops; a second one ends everything at once.
- SIGINT (Ctrl-C) does the same without the lame duck: a person waits for the prompt.
- SIGHUP reads the file again, as `headgate apply` does, opens the access log anew, and says in a
  line on stderr what came of it. Under `nohup` it is ignored. When the terminal that the command
  was started from is closed, it drains and stops.
- SIGUSR1 opens the access log anew, after it was moved away; that is noticed without it, too.
- SIGUSR2 does nothing.
- SIGKILL ends everything at once, but for what a model started in a session of its own (`setsid`, a
  daemon): the next `headgate up` with the same state directory ends that. Under systemd and in a
  container nothing is left.
"""


def page() -> str:
    """The whole page."""
    general = _CLIENT.format(
        options=_list(CLIENT), edits=_list(each for each in EDIT if each not in CLIENT)
    )
    return "\n".join([_HEAD, _SIGNALS, general, *map(_section, COMMANDS)])


def _section(command: click.Command) -> str:
    context = click.Context(command, info_name=f"{PROGRAM} {command.name}")
    arguments = [each for each in command.params if isinstance(each, click.Argument)]
    common = EDIT if set(CLIENT) <= set(command.params) else ()
    own = [each for each in command.params if each not in common and each not in arguments]
    words = [context.command_path, *(each.make_metavar(context) for each in arguments)]
    words += ["[OPTIONS]"] * any(isinstance(each, click.Option) for each in command.params)
    lines = [f"## `{' '.join(words)}`", "", str(command.help)]
    for parameters in (arguments, own):
        lines += ["", _list(parameters)] * bool(parameters)
    example = str(command.epilog).rpartition("Example: ")[2]
    return "\n".join([*lines, "", f"Example: `{example}`"]) + "\n"


def _list(parameters: Iterable[click.Parameter]) -> str:
    context = click.Context(HEADGATE)
    records = (each.get_help_record(context) or ("", "") for each in parameters)
    return "\n".join(f"- `{spelled}`: {help}" for spelled, help in records)


if __name__ == "__main__":
    print(page(), end="")
