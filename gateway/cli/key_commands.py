"""Which commands make, show and take back the keys of clients, and the admin token?"""

import click

from gateway.cli.declaring import command, live, option
from gateway.cli.parameters import CLIENT, EDIT, STATE_DIR, optional_file

KEY_ACTIONS = ("add", "rotate", "retire", "revoke")

KEYS = command("keys", "who may ask, by name, and for which routes", "keys:keys", *CLIENT)
KEY = command(
    "key", "make a key, renew it, or take it back", "keys:key",
    click.Argument(
        ["action"], metavar="ACTION", type=click.Choice(KEY_ACTIONS),
        help="add prints a new key, once; rotate prints a further one, and both are valid until"
        " retire; revoke lets nobody in by it any more",
    ),
    click.Argument(["name"], shell_complete=live("key"), help="the consumer's name"),
    option(
        "--route", metavar="ROUTE", multiple=True, shell_complete=live("route"),
        help="a route that it opens, and no other; may be repeated",
    ),
    option("--expires", metavar="WHEN", help="after 90d, 12h, 30m, or at a time in ISO 8601"),
    *EDIT, example="key add acme --route digits --expires 90d",
)  # fmt: skip
TOKEN = command(
    "token", "print the admin token of a local state directory", "showing:token",
    optional_file("a configuration file: its state directory lies beside it"),
    STATE_DIR, example="token headgate.yaml",
)  # fmt: skip
