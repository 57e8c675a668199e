"""Which gateway is meant, and with which token?

The URL is --url, else HEADGATE_URL, else the default. A token found on this machine is sent to
this machine only: never to another host's URL, whoever wrote that into the environment.
"""

import argparse
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from gateway.cli.refusals import Refusal
from gateway.client import DEFAULT_URL, AdminClient

STATE_NAME = ".headgate"


def client(options: argparse.Namespace) -> AdminClient:
    """The client of the gateway that `options` and the environment mean."""
    url = find_url(options.url, os.environ)
    token = find_token(options.token, url, state_dir(options.state_dir), os.environ)
    return AdminClient(url, token)


def find_url(given: str | None, environment: Mapping[str, str]) -> str:
    url = given or environment.get("HEADGATE_URL") or DEFAULT_URL
    return url if "://" in url else f"http://{url}"


def find_token(
    given: str | None, url: str, directory: Path | None, environment: Mapping[str, str]
) -> str | None:
    """The token to use with the admin API at that URL; None when none is known."""
    token = given or environment.get("HEADGATE_TOKEN")
    if token:
        return token.strip()
    if directory is None or not is_here(url):
        return None
    try:
        return read_token(directory)
    except Refusal:
        return None


def read_token(directory: Path) -> str:
    """The admin token that `directory` keeps."""
    path = directory / "token"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        raise Refusal(
            f"{directory} holds no token: a gateway makes one when its admin API listens on"
            " more than this machine"
        ) from None
    except OSError as error:
        raise Refusal(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None


def state_dir(given: str | None, start: Path | None = None) -> Path | None:
    """The state directory: given, of the environment, or the nearest one upwards from here."""
    named = given or os.environ.get("HEADGATE_STATE_DIR")
    if named:
        return Path(named)
    here = (start or Path.cwd()).absolute()
    for folder in (here, *here.parents):
        if (folder / STATE_NAME).is_dir():
            return folder / STATE_NAME
    return None


def is_here(url: str) -> bool:
    """Whether `url` stays on this machine."""
    try:
        host = urlsplit(url).hostname or ""
        if host == "localhost":
            return True
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
