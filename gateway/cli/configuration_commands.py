"""Which commands write, check, apply and bring back a configuration?"""

import click

from gateway.cli.declaring import command, option
from gateway.cli.parameters import (
    CLIENT,
    EDIT,
    FILE_OR_STDIN,
    FOLDER,
    HELD,
    OUTPUT,
    optional_file,
    whole,
)

STRICT = option(
    "--strict",
    help="apply nothing, and exit 1, where processes would have to be started and nobody does",
)

INIT = command(
    "init", "write a small project that runs, to begin with", "beginning:init",
    click.Argument(["folder"], metavar="[DIR]", type=FOLDER, required=False,
                   help="where to; left out: here"),
    example="init words",
)  # fmt: skip
CHECK = command(
    "check", "validate a file: every problem, with its line, and what of it this machine lacks",
    "serving:check",
    FILE_OR_STDIN, *OUTPUT, example="check headgate.yaml",
)  # fmt: skip
APPLY = command(
    "apply", "apply a file to a running gateway; the difference comes first", "editing:apply",
    FILE_OR_STDIN, STRICT, *HELD, *EDIT, example="apply headgate.yaml --dry-run",
)  # fmt: skip
EXPORT = command(
    "export", "print the live table, weights included, as a configuration file for git",
    "exporting:export",
    optional_file("the file whose `gateway:` section is kept; left out: the running one's"),
    *CLIENT, example="export > live.yaml",
)  # fmt: skip
HISTORY = command(
    "history", "the edits so far: who, when, why", "showing:history",
    click.Argument(
        ["revision"], type=whole, required=False, help="show this one and what it changed"
    ),
    option("-n", "--limit", metavar="N", type=whole, help="at most this many"),
    *CLIENT, example="history -n 5",
)  # fmt: skip
RESTORE = command(
    "restore", "go back to a revision, as a new one", "editing:restore",
    click.Argument(["revision"], type=whole, help="the revision to go back to"),
    *HELD, *EDIT, example="restore 41 -m 'the new version is slower'",
)  # fmt: skip
SCHEMA = command(
    "schema", "print the JSON Schema of a configuration file, for editors", "showing:schema",
    example="schema > headgate.schema.json",
)  # fmt: skip
