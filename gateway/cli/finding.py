"""Which gateway is meant, and with which token?

The URL is --url, else HEADGATE_URL, else that of the gateway whose state directory was named, or
lies beside the file that the command names, or is the nearest upwards from the working directory;
else the usual one. A URL that lies about is believed only where this user or root put it, and only
of this machine; a token that does is sent to this machine only, never to another host's URL,
whoever wrote that into the environment.
"""

import os
import ssl
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

from gateway.cli.refusals import Refusal
from gateway.clients.addresses import DEFAULT_URL, trust
from gateway.clients.admin import AdminClient
from gateway.controlplane.store.names import ADMIN, FILES, LOCK, OWNER, STATE_NAME, TOKEN
from gateway.processes import sockets


@dataclass(frozen=True, slots=True)
class Running:
    """A gateway that runs on this machine: where its admin API is, its configuration file (None
    where nobody knows in which folder that lies), its state directory, and the file of the
    certificate that it shows ("" where it speaks plain HTTP)."""

    url: str
    file: Path | None
    place: Path
    certificate: str = ""


def client(options: SimpleNamespace, timeout_s: float = 30.0) -> AdminClient:
    """The client of the gateway that `options` mean."""
    url, certificate = options.url, ""
    if not url:
        found = running(options)
        url, certificate = (found.url, found.certificate) if found else (DEFAULT_URL, "")
    url = url if "://" in url else f"http://{url}"
    tls = _trust(options, certificate) if url.startswith("https:") else None
    return AdminClient(url, find_token(options, url), timeout_s=timeout_s, tls=tls)


def _trust(options: SimpleNamespace, own: str) -> ssl.SSLContext:
    """Whom to trust: who was named, else a gateway that lies here and shows the certificate in the
    file `own`, else the system's CAs."""
    is_own = not options.cacert and bool(own) and os.access(own, os.R_OK)
    try:
        return trust(
            options.cacert or (own if is_own else None),
            options.client_cert,
            options.client_key,
            is_own=is_own,
        )
    except ValueError as error:
        raise Refusal(str(error)) from None


def running(options: SimpleNamespace) -> Running | None:
    """The gateway that runs with the state directory which `options` mean; Refusal for several."""
    directory, file = state_dir(options), getattr(options, "file", None)
    if directory is None:
        return None
    if options.state_dir:
        if not os.path.isdir(directory):  # a slip, which is not to reach another gateway
            raise Refusal(f"there is no state directory {directory}, or none that may be read")
        return next(_running(directory, None), None)
    if str(directory.stat().st_uid) not in {"0", f"{os.geteuid()}", os.environ.get("SUDO_UID")}:
        return None
    places = [directory, *sorted((directory / FILES).glob("*"))]
    found = [each for place in places for each in _running(place, directory.parent)]
    named = [each for each in found if file and each.file and each.file.name == Path(file).name]
    if len(named or found) > 1:
        all_of = ", ".join(f"{each.url} ({each.file and each.file.name})" for each in found)
        raise Refusal(f"several gateways run here: {all_of}; say which with --url")
    return next(iter(named or found), None)


def _running(place: Path, folder: Path | None) -> Iterator[Running]:
    """The gateway whose state is in `place` and whose file is in `folder`, if it runs."""
    try:
        holder, told = int((place / LOCK).read_text()), (place / ADMIN).read_text().splitlines()
        url, certificate = told[0].strip(), "".join(told[1:2])
        name = (place / OWNER).read_text().strip()
        with suppress(PermissionError):  # somebody else's: it lives
            os.kill(holder, 0)
        if is_here(url):
            yield Running(url, folder and folder / name, place, certificate)
    except (OSError, ValueError, IndexError):
        return


def find_token(options: SimpleNamespace, url: str) -> str | None:
    """The token to use with the admin API at that URL; None when none is known."""
    if options.token:
        return str(options.token).strip()
    directory = state_dir(options)
    if directory is None or not is_here(url):
        return None
    try:
        return read_token(directory)
    except Refusal:
        return None


def read_token(directory: Path) -> str:
    """The admin token that `directory` keeps: one for all files of a folder."""
    home = directory.parent.parent if directory.parent.name == FILES else directory
    path = home / TOKEN
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        raise Refusal(
            f"{directory} holds no token: a gateway makes one when its admin API listens on"
            " more than this machine"
        ) from None
    except OSError as error:
        raise Refusal(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None


def state_dir(options: SimpleNamespace) -> Path | None:
    """The state directory: named, beside the file of the command, or the nearest upwards."""
    if options.state_dir:
        return Path(options.state_dir)
    file = getattr(options, "file", None)
    beside = [Path(file).absolute().parent] if file else []
    here = Path.cwd()
    for folder in (*beside, here, *here.parents):
        if os.path.isdir(folder / STATE_NAME):  # not where we may not look
            return folder / STATE_NAME
    return None


def is_here(url: str) -> bool:
    """Whether `url` stays on this machine."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or sockets.is_here(str(ip_address(host)))
    except ValueError:
        return False
