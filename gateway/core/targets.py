"""Is this host a host, and is this request target fit to be routed?

A host is brought into its one form, so that a route cannot be missed or met by spelling. A
target is only judged, never changed: the path a route was chosen by is the path that is
asked for, byte for byte. Which route that is, `matching` decides.
"""

import ipaddress
import re
from typing import Final, Literal

from gateway.core.kept import Kept

_NAME: Final = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_PORT: Final = re.compile(r"[0-9]{0,5}")


def normalise_host(raw: str) -> str:
    """The one form of a Host value or authority: lower case, no port, no trailing dot.

    IPv6 literals stay bracketed. ValueError when it is no host (empty, user info, a port
    past 65535, characters that no name has).
    """
    host, port = raw, ""
    if raw.startswith("["):
        literal, bracket, rest = raw.partition("]")
        if not bracket or "%" in literal or (rest and not rest.startswith(":")):
            raise ValueError(f"{raw!r} is no host")
        ipaddress.IPv6Address(literal[1:])
        host, port = literal.lower() + "]", rest[1:]
    else:
        host, _, port = raw.lower().partition(":")
        host = host.removesuffix(".")
        if not _NAME.fullmatch(host):
            raise ValueError(f"{raw!r} is no host")
        last = host.rpartition(".")[2]
        if last.isdigit() or last.startswith("0x"):
            ipaddress.IPv4Address(host)  # no octal, hexadecimal or short forms of an address
    if not _PORT.fullmatch(port) or int(port or 0) > 65535:
        raise ValueError(f"{raw!r} has no valid port")
    return host


_MAX_HOSTS: Final = 16_384  # are kept in their normal form,
_MAX_HOST_LENGTH: Final = 255  # of so many bytes at most
HOST_FORMS: Final[Kept[str]] = Kept(_MAX_HOSTS)


def host_form(written: bytes) -> str:
    """As `normalise_host`, of what stands in a request; known by its bytes when it comes again."""
    form = HOST_FORMS.find(written)
    if form is None:
        form = normalise_host(written.decode("latin-1"))
        if len(written) <= _MAX_HOST_LENGTH:
            HOST_FORMS.keep(written, form)
    return form


_CONTROL: Final = re.compile(r"[\x00-\x20\x7f]|%00")
_DOTS = re.compile(r"(?:^|/|%2f|\\|%5c)(?:\.|%2e){1,2}(?:$|[/?;\\]|%2f|%5c|%3b)", re.IGNORECASE)


def target_fault(target: str) -> Literal["form", "control", "fragment", "dots"] | None:
    """Why a request target must not be routed, or None.

    Only origin form is routed. Control characters, raw or `%00`, and fragments belong to no
    target. Dot segments, however written, may be resolved differently behind the gateway:
    the path a route was chosen by must be the path that is asked for.
    """
    if not target.startswith("/"):
        return "form"
    if _has_control(target):
        return "control"
    if "#" in target:
        return "fragment"
    return "dots" if _has_dots(target) else None


def read_target_fault(target: str) -> Literal["form", "control", "dots"] | None:
    """As `target_fault`, of a target that was read from a request line: `heads` let none pass that
    holds a fragment or a control character but as `%00`."""
    if not target.startswith("/"):
        return "form"
    if "%" in target:
        if "%00" in target:
            return "control"
    elif "." not in target:
        return None  # what holds neither, as most, holds no dot segment
    return "dots" if _has_dots(target) else None


def _has_dots(target: str) -> bool:
    path = target.partition("?")[0]
    return ("/." in path or "%" in path or "\\." in path) and _DOTS.search(path) is not None


def _has_control(target: str) -> bool:
    if target.isascii() and target.isprintable():  # as most are, and sooner said
        return " " in target or "%00" in target
    return _CONTROL.search(target) is not None
