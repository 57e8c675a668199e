"""Which texts are durations, sizes, names, paths and addresses in what people write?

Types for pydantic models, shared by the settings and the route and backend schemas. Each
checks its text and says in one sentence what is wrong; none of them changes what was said,
except the two that settings use to get seconds and bytes.
"""

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)
from pydantic import WithJsonSchema as Shown
from pydantic_core import PydanticCustomError

from gateway.core.credentials import OURS, VARIABLE
from gateway.core.entries import MAX_BYTES, MAX_JSON_INTEGER, MAX_SECONDS, METHOD, NAME, is_path
from gateway.core.header_fields import TOKEN, is_header_value
from gateway.core.placement import FLEET
from gateway.core.reading import parse_instance
from gateway.core.units import parse_duration, parse_size, parse_time

DURATION = r"^[0-9]+(\.[0-9]+)?(ms|s|m|h)$"
NODE = r"^[A-Za-z0-9._-]{1,64}$"
PREFIX = r"^/[A-Za-z0-9._/-]{1,128}$"
NO_NUL = r"^[^\x00]*$"
SIZE = r"^[0-9]+(B|KiB|MiB|GiB)$"
_HOST_LABEL = r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(\*\.)?{_HOST_LABEL}(\.{_HOST_LABEL})*")


class Spec(BaseModel):
    """What every model of written configuration agrees on: strict, closed, immutable. Validators
    are built where they are first used: most models are only parts of others."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True
    )


def fault(code: str, detail: str) -> PydanticCustomError:
    """An error of ours for pydantic to collect; braces in `detail` are harmless."""
    return PydanticCustomError("headgate", "{detail}", {"detail": detail, "code": code})


def optional(description: str, **more: Any) -> Any:
    """A field that may be left out and may not be null."""
    return Field(default=None, description=description, **more)


def only(key: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON Schema of an object that has `key` and no other."""
    return {
        "type": "object",
        "properties": {key: value},
        "required": [key],
        "additionalProperties": False,
    }


def checked(parse: Callable[[Any], object], code: str) -> AfterValidator:
    """Leaves what was said as it is, where `parse` can read it."""

    def check(said: Any) -> Any:
        try:
            parse(said)
        except ValueError as error:
            raise fault(code, str(error)) from None
        return said

    return AfterValidator(check)


def _with_unit(unit: str, code: str) -> BeforeValidator:
    def check(value: Any) -> Any:
        if type(value) in (int, float):
            raise fault(code, f"{value} has no unit; write it like {value}{unit}")
        return value

    return BeforeValidator(check)


def _parsed(parse: Callable[[str], object], code: str) -> BeforeValidator:
    def convert(text: Any) -> Any:
        if not isinstance(text, str):
            raise fault(code, "must be text")
        try:
            return parse(text)
        except ValueError as error:
            raise fault(code, str(error)) from None

    return BeforeValidator(convert)


def _positive(text: str) -> float:
    if _duration(text) <= 0:
        raise ValueError("must be longer than 0")
    return parse_duration(text)


def _duration(text: str) -> float:
    if (seconds := parse_duration(text)) > MAX_SECONDS:
        raise ValueError("must be no longer than a year")
    return seconds


def _size(text: str) -> int:
    if (size := parse_size(text)) > MAX_BYTES:
        raise ValueError("must be no larger than a pebibyte")
    return size


_SHOWN_DURATION = {"type": "string", "pattern": DURATION, "examples": ["250ms", "2s", "5m"]}
_SHOWN_SIZE = {"type": "string", "pattern": SIZE, "examples": ["64KiB", "64MiB"]}

_IN_SECONDS, _IN_BYTES = _with_unit("s", "duration"), _with_unit("B", "size")

Duration = Annotated[str, _IN_SECONDS, checked(_positive, "duration"), Shown(_SHOWN_DURATION)]
Pause = Annotated[str, _IN_SECONDS, checked(_duration, "duration"), Shown(_SHOWN_DURATION)]
"""A duration that may be none."""
Size = Annotated[str, _IN_BYTES, checked(_size, "size"), Shown(_SHOWN_SIZE)]
# Of two that look at what was written the last one looks first.
Seconds = Annotated[float, _parsed(_positive, "duration"), _IN_SECONDS, Shown(_SHOWN_DURATION)]
Grace = Annotated[float, _parsed(_duration, "duration"), _IN_SECONDS, Shown(_SHOWN_DURATION)]
"""Seconds, maybe none."""
Bytes = Annotated[int, _parsed(_size, "size"), _IN_BYTES, Shown(_SHOWN_SIZE)]


Time = Annotated[str, checked(parse_time, "time"), Shown({"type": "string", "format": "date-time"})]
"""A moment, with the zone that it is said in."""


def _name(text: str) -> str:
    if not re.fullmatch(NAME, text) or text in {".", ".."}:
        raise fault(
            "name",
            f"{_short(text)} is no name: up to 128 letters, digits, '.', '_' and '-', "
            "beginning and ending with a letter or digit",
        )
    return text


Name = Annotated[str, AfterValidator(_name), Shown({"type": "string", "pattern": NAME})]


def _path(text: str) -> str:
    if {".", ".."} & set(text.split("/")):
        raise fault("path", f"{_short(text)} has a '.' or '..' segment")
    if not is_path(text):
        raise fault(
            "path",
            f"{_short(text)} is no path: it begins with '/' and holds only what a URL path may, "
            "anything else percent-encoded, with no '?' or '#'",
        )
    return text


def _match_path(text: str) -> str:
    if _path(text) == "/-" or text.startswith("/-/"):
        raise fault("path", "paths under /-/ are the gateway's own")
    return text


_SHOWN_PATH = {"type": "string", "pattern": "^/"}
Path = Annotated[str, AfterValidator(_path), Shown(_SHOWN_PATH)]
MatchPath = Annotated[str, AfterValidator(_match_path), Shown(_SHOWN_PATH)]


def _variable(text: str) -> str:
    if not re.fullmatch(VARIABLE, text):
        raise fault("variable", f"{_short(text)} is no name of a variable")
    return text


def passed_on(text: str) -> str:
    """`text`, the name of a variable of ours that a model may have; a fault if it may not."""
    # The gateway's own tokens are among them, and a model is code of somebody else's.
    if _variable(text).startswith(OURS):
        raise fault("variable", f"{text} is the gateway's own, and no model gets it")
    return text


_SHOWN_VARIABLE = {"type": "string", "pattern": f"^{VARIABLE}$"}
Variable = Annotated[str, AfterValidator(_variable), Shown(_SHOWN_VARIABLE)]


def _host(text: str) -> str:
    literal = text.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(literal)
    except ValueError:
        if len(text) > 253 or not _HOST.fullmatch(text):
            raise fault(
                "host",
                f"{_short(text)} is no host: lower case, no port, like example.com "
                "or *.example.com",
            ) from None
    return text


Host = Annotated[str, AfterValidator(_host), Shown({"type": "string"})]


def _header_value(text: str) -> str:
    if not is_header_value(text):
        raise fault("header_value", "a header's value is one line of at most 4096 characters")
    return text


HeaderName = Annotated[str, StringConstraints(pattern=TOKEN, max_length=256)]
HeaderValue = Annotated[str, AfterValidator(_header_value), StringConstraints(max_length=4096)]
Method = Annotated[str, StringConstraints(pattern=METHOD)]


def _json_scalar(value: Any) -> Any:
    if value is not None and type(value) not in {str, int, float, bool}:
        raise fault("json_value", "must be text, a number, true, false or null")
    if type(value) is int and abs(value) > MAX_JSON_INTEGER:
        raise fault("json_value", "is beyond the whole numbers that every program can hold")
    return value


_SCALARS = ["string", "number", "boolean", "null"]
JsonScalar = Annotated[Any, AfterValidator(_json_scalar), Shown({"type": _SCALARS})]


def _instance(url: str) -> None:
    if not url.startswith(FLEET):
        refuse_hidden_address(url)
    parse_instance(url)


def refuse_hidden_address(url: str) -> None:
    """ValueError when the host of `url` could be read as another address than it seems."""
    if not url.isascii() or re.search(r"[\x00-\x20\x7f\\%]", url):
        raise ValueError(f"{_short(url)} holds characters that no host has")
    host = urlsplit(url).hostname or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # inet_aton reads 2130706433, 0x7f.1 and 0177.0.0.1 as addresses; names never end so.
        if host and re.fullmatch(r"0x[0-9a-f]*|[0-9]+", host.rsplit(".", 1)[-1]):
            raise ValueError(f"{_short(url)}: write the address as four decimal numbers") from None
        if host and not _HOST.fullmatch(host):
            raise ValueError(f"{_short(url)}: {_short(host)} is no host name") from None


InstanceUrl = Annotated[
    str,
    checked(_instance, "instance"),
    Shown(
        {
            "type": "string",
            "pattern": r"^((dns\+)?https?|fleet)://",
            "examples": ["http://127.0.0.1:8001"],
        }
    ),
]


def _etcd_url(text: str) -> str:
    parts = urlsplit(text)
    try:
        is_one = parts.scheme in ("http", "https") and parts.hostname and parts.port
    except ValueError:
        is_one = None
    if not is_one or parts.path.strip("/") or parts.query or parts.username:
        raise fault("etcd", f"{_short(text)} must be like http://10.0.0.1:2379")
    return text


EtcdUrl = Annotated[
    str, AfterValidator(_etcd_url), Shown({"type": "string", "examples": ["http://10.0.0.1:2379"]})
]


FilePath = Annotated[str, StringConstraints(min_length=1, pattern=NO_NUL)]
OwnFile = Annotated[FilePath, AfterValidator(os.path.expanduser)]
"""A file of the gateway's own: `~` is the home of the user that it runs as."""


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise fault("network", f"{error}; write it like 10.0.0.0/8") from None
    return text


Network = Annotated[str, AfterValidator(_network), Shown({"type": "string"})]


def split_listener(text: str) -> tuple[str, int]:
    """Host and port of `host:port`, `:port` (every address) or `[ipv6]:port`; else ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"{_short(text)} must be host:port, like 127.0.0.1:8080")
    if host.startswith("[") and host.endswith("]"):
        return str(ipaddress.IPv6Address(host[1:-1])), int(port)
    if ":" in host:
        raise ValueError(f"{_short(text)}: put an IPv6 address in brackets, like [::1]:8080")
    return host or "0.0.0.0", int(port)  # noqa: S104 -- what `:8080` means everywhere


def _not_a_port_alone(value: Any) -> Any:
    if type(value) is int:
        raise fault("listener", f"{value} must be host:port, like 127.0.0.1:{value}")
    return value


Listener = Annotated[
    str,
    BeforeValidator(_not_a_port_alone),
    checked(split_listener, "listener"),
    Shown({"type": "string", "examples": ["127.0.0.1:8080"]}),
]


def one_of(spec: Mapping[str, Any], *keys: str) -> None:
    """A fault unless `spec` has exactly one of `keys`."""
    named = [key for key in keys if key in spec]
    if len(named) != 1:
        raise fault("one_of", f"must have exactly one of {' and '.join(keys)}")


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}…")
