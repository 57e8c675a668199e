"""By what does the gateway know a backend's instances, and by what do they know it?

Which certificates it believes and shows, and which header fields it sets on what it sends: as
names of files and variables, never what is in them. Nothing here reads one.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.core.header_fields import is_header_value, is_token
from gateway.core.header_rules import name_fault
from gateway.core.targets import normalise_host

VARIABLE = "[A-Za-z_][A-Za-z0-9_]*"
OURS = "HEADGATE_"  # the gateway's own tokens are among these variables


@dataclass(frozen=True, slots=True)
class Tls:
    """How instances are met by TLS: the files of the CA they must have (else the system's), of
    the certificate that they are shown, and its key; the name they must have, if another one than
    their URL's."""

    ca: str = ""
    server_name: str = ""
    cert: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        if bool(self.cert) != bool(self.key):
            raise ValueError("tls: cert and key go together")
        if self.server_name:
            name = self.server_name
            normalise_host(f"[{name}]" if ":" in name else name)


@dataclass(frozen=True, slots=True)
class SetHeader:
    """A header field that is set on each request; exactly one of its sources is not empty."""

    name: str
    text: str = field(default="", repr=False)
    env: str = ""
    file: str = ""


def refusal(name: str) -> str | None:
    """Why a header called `name` may not be set for instances; None if it may."""
    lower = name.lower()
    if not is_token(name) or "_" in name:
        return f"{name!r} is no header's name"
    if lower.startswith("sec-websocket-"):
        return f"{name} is a part of a WebSocket's handshake"
    if lower.startswith("x-forwarded-"):
        return f"{name} is the gateway's own to say"
    return name_fault(name)


def read_tls(spec: Mapping[str, Any]) -> Tls:
    """What `tls` of a backend says; ValueError or TypeError if that cannot be."""
    if not all(isinstance(each, str) and each for each in spec.values()):
        raise ValueError("tls: names files and a host")
    return Tls(**spec)


def read_set_headers(spec: Mapping[str, Any]) -> tuple[SetHeader, ...]:
    """What `headers` of a backend says; ValueError if that cannot be."""
    found, seen = [], set()
    for name, source in spec.items():
        if why := refusal(name):
            raise ValueError(f"headers: {why}")
        if name.lower() in seen:
            raise ValueError(f"headers: {name} stands here twice")
        seen.add(name.lower())
        found.append(_set_header(name, source))
    return tuple(found)


def source_fault(source: Any) -> str:
    """What is wrong with where a value is said to come from, as the end of a sentence, or ""."""
    if isinstance(source, str):
        return "" if source and is_header_value(source) else "holds no value of one line"
    if not isinstance(source, Mapping) or len(source) != 1:
        return "must be text, {env: NAME} or {file: PATH}"
    ((kind, where),) = source.items()
    if kind not in ("env", "file") or not isinstance(where, str) or not where:
        return "must be text, {env: NAME} or {file: PATH}"
    if kind == "env" and not re.fullmatch(VARIABLE, where):
        return f"names {where!r}, which is no name of a variable"
    if kind == "env" and where.startswith(OURS):
        return f"names {where}, which is the gateway's own, and no instance gets it"
    return "holds no path" if kind == "file" and "\0" in where else ""


def _set_header(name: str, source: Any) -> SetHeader:
    if why := source_fault(source):
        raise ValueError(f"headers: {name} {why}")
    return SetHeader(name, source) if isinstance(source, str) else SetHeader(name, **source)
