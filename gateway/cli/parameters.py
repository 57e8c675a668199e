"""Which options and arguments do several commands share, and how is what they are given read?"""

import math
import os
import re
from typing import Any

import click

from gateway.cli.declaring import option


class Place(click.Path):
    """A file or a folder, `~` at its start read as a shell does: that leaves `--option=~/file` and
    variables as they are."""

    def convert(self, value: Any, *more: Any) -> Any:
        """The path that `value` means."""
        return super().convert(os.path.expanduser(value), *more)


# Whether it can be read is for the command to find out: that is refused, and no wrong usage.
PATH, FOLDER = Place(readable=False), Place(file_okay=False, readable=False)
FOUND = "the gateway whose .headgate/ lies here or above, else http://127.0.0.1:8081"


def whole(text: str) -> int:
    """A revision, or how many of something."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ValueError(f"{text!r} is not a whole number above 0")
    return int(text)


def number(text: str) -> int:
    """How many of something, or none."""
    return whole(text) if text != "0" else 0


def port(text: str) -> int:
    """A port, or 0 for one that the system chooses."""
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 16):
        raise ValueError(f"{text!r} is not a whole number from 0 to 65535")
    return int(text)


def percents(text: str) -> list[float]:
    """Percents, as `1,5,25,50,100`; whether they rise is for the gateway to say."""
    try:
        found = [float(word.strip().removesuffix("%")) for word in text.split(",")]
        if not all(map(math.isfinite, found)):
            raise ValueError(text)
    except ValueError:
        raise ValueError(f"{text!r} is no list of percents, such as 1,5,25,50,100") from None
    return [int(each) if each == int(each) else each for each in found]


def seconds(text: str) -> float:
    """How long something takes."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise ValueError(f"{text!r} is not a number of seconds")
    return found


def duration(text: str) -> str:
    """A duration as a file writes it: as options of an instance read one, a bare number is of
    seconds. Whether it is one at all is for who reads the file to say."""
    return f"{text.strip()}s" if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text.strip()) else text


STATE_DIR = option(
    "--state-dir", metavar="DIR", type=FOLDER, envvar="HEADGATE_STATE_DIR",
    help="where state and token are; left out: .headgate/ beside the file, and without a file the"
    " nearest, here or above",
)  # fmt: skip
OUTPUT = (
    option(
        "-o", "--output", metavar="FORMAT", type=click.Choice(["table", "json", "yaml"]),
        default="table", help="table, json or yaml",
    ),
    click.Option(["--json", "output"], flag_value="json", help="the same as -o json"),
)  # fmt: skip
CLIENT = (
    *OUTPUT,
    option(
        "--url", metavar="URL", envvar="HEADGATE_URL", help=f"the admin API; left out: {FOUND}"
    ),
    option(
        "--token", metavar="TOKEN", envvar="HEADGATE_TOKEN",
        help="the admin token; left out: the one in the state directory",
    ),
    option(
        "--cacert", metavar="FILE", type=PATH, envvar="HEADGATE_CACERT",
        help="whom to trust at https://; left out: the system's CAs, and the gateway found here",
    ),
    option(
        "--client-cert", metavar="FILE", type=PATH, envvar="HEADGATE_CLIENT_CERT",
        help="a certificate to show where the admin API asks for one",
    ),
    option(
        "--client-key", metavar="FILE", type=PATH, envvar="HEADGATE_CLIENT_KEY",
        help="its key; left out: it is in the same file",
    ),
    STATE_DIR,
)  # fmt: skip
EDIT = (
    option("--dry-run", help="show what would change and change nothing"),
    option("-m", "--reason", metavar="TEXT", help="why, for the history"),
    option("--if-revision", metavar="N", type=whole, help="only if this is still the revision"),
    *CLIENT,
)
HELD = (
    option("--wait", help="until `headgate up` has started and stopped what the edit asks for"),
    option("--timeout", metavar="SECONDS", type=seconds, help="stop waiting after this long"),
)
FILE = click.Argument(["file"], type=PATH, help="the configuration file")
STDIN = "/dev/stdin"
FILE_OR_STDIN = click.Argument(
    ["file"], type=PATH, help="the configuration file; or - for what comes in on standard input"
)


def optional_file(help: str) -> click.Argument:
    return click.Argument(["file"], type=PATH, required=False, help=help)
