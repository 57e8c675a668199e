"""Which web pages may ask, and what is their browser told (CORS, the Fetch standard §3.2)?

A browser asks beforehand (a preflight) whether a page of another origin may send what is no plain
form, and lets it read an answer only if that names its origin. Nobody else is kept out by this:
who is let in is `access`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from gateway.core.header_fields import is_token
from gateway.core.units import parse_duration

ANY: Final = "*"
HEADERS: Final = ("Authorization", "Content-Type", "X-API-Key")
"""What pages may send where nothing is said: what it takes to ask a model."""
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
ORIGIN: Final = (
    r"^[a-z][a-z0-9+.-]*://(\*\.)?(\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*)(:[1-9][0-9]{0,4})?$"
)
_USUAL_PORT: Final = re.compile(r"http://.*:80|https://.*:443")
_METHOD: Final = r"^[A-Z][A-Z0-9_-]{0,31}$"
_VARY: Final = b"Vary: Origin\r\n"
_PREFLIGHT_VARY: Final = (
    b"Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\r\n"
)
_OURS: Final = (
    b"access-control-allow-origin:",
    b"access-control-allow-credentials:",
    b"access-control-expose-headers:",
)
_MAX_WISH: Final = 2048


def origin_fault(text: str) -> str | None:
    """Why no browser calls a page's origin `text`; None if one may, or if it stands for any."""
    if text == ANY:
        return None
    if not re.fullmatch(ORIGIN, text):
        return (
            "is no origin: write scheme and host as browsers do, in lower case and without a path,"
            " like https://app.example.com, https://*.example.com or *"
        )
    if _USUAL_PORT.fullmatch(text):
        return "names the usual port of its scheme, which browsers leave out"
    return None


@dataclass(frozen=True, slots=True)
class Cors:
    """The `origins` whose pages may ask, with which `headers` and `methods` (none named: those of
    the route), what of an answer's headers they may read, whether with cookies, and for how many
    seconds a browser may keep to what it was told."""

    origins: tuple[str, ...]
    headers: tuple[str, ...] = HEADERS
    methods: tuple[str, ...] = ()
    expose: tuple[str, ...] = ()
    credentials: bool = False
    max_age_s: float | None = None

    def __post_init__(self) -> None:
        if not self.origins:
            raise ValueError("cors: origins: names none")
        for origin in self.origins:
            fault = "is no text" if not isinstance(origin, str) else origin_fault(origin)
            if fault is not None:
                raise ValueError(f"cors: origins: {origin!r} {fault}")
        named = self.headers + self.expose
        for name in named:
            if not is_token(name):
                raise ValueError(f"cors: {name!r} is no header's name")
        for method in self.methods:
            if not is_token(method, _METHOD):
                raise ValueError(f"cors: methods: {method!r} is no method in capitals")
        if type(self.credentials) is not bool:
            raise ValueError("cors: credentials must be true or false")
        if self.credentials and ANY in self.origins + named:
            raise ValueError(f"cors: {WITH_CREDENTIALS}")


WITH_CREDENTIALS: Final = (
    "`*` and `credentials: true` do not go together: no browser takes that. Name each one"
)


def read_cors(spec: Mapping[str, Any]) -> Cors:
    """What `spec` says; ValueError or TypeError if it cannot be."""
    said = dict(spec)
    age = said.pop("max_age", None)
    for key in ("origins", "headers", "methods", "expose"):
        if key in said:
            if not isinstance(said[key], list | tuple):
                raise ValueError(f"cors: {key}: must be a list")
            said[key] = tuple(said[key])
    return Cors(**said, max_age_s=None if age is None else parse_duration(age))


class CorsPolicy:
    """What `cors` has a gateway say at a route for `methods`, prepared."""

    __slots__ = (
        "_any", "_any_header", "_cors", "_exact", "_patterns", "_preflight", "_tail", "_takes",
    )  # fmt: skip

    def __init__(self, cors: Cors, methods: tuple[str, ...]) -> None:
        self._cors = cors
        self._any = ANY in cors.origins
        wild = [origin for origin in cors.origins if "://*." in origin]
        self._exact = frozenset(cors.origins) - {*wild}
        self._patterns = [
            re.compile(re.escape(origin).replace(r"\*", r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"))
            for origin in wild
        ]
        tail = "Access-Control-Allow-Credentials: true\r\n" if cors.credentials else ""
        self._tail = tail.encode()
        if cors.expose:
            self._tail += f"Access-Control-Expose-Headers: {', '.join(cors.expose)}\r\n".encode()
        allowed = cors.methods or methods or METHODS
        lines = f"{tail}Access-Control-Allow-Methods: {', '.join(allowed)}\r\n"
        if cors.max_age_s is not None:
            lines += f"Access-Control-Max-Age: {int(cors.max_age_s)}\r\n"
        self._preflight = lines.encode()
        self._any_header = ANY in cors.headers
        self._takes = ", ".join(cors.headers).encode()

    def by(self, methods: tuple[str, ...]) -> "CorsPolicy":
        """The same for what is asked for by `methods` alone."""
        return CorsPolicy(replace(self._cors, methods=methods), ())

    def names(self, origin: str | None) -> bool:
        """Whether pages of `origin` may ask."""
        if origin is None:
            return False
        return (
            self._any or origin in self._exact or any(p.fullmatch(origin) for p in self._patterns)
        )

    def answer(self, origin: str | None) -> bytes:
        """The lines that go with each answer to a request that came from `origin`."""
        if self._any:
            return b"Access-Control-Allow-Origin: *\r\n" + self._tail
        if not self.names(origin):
            return _VARY
        return self._allow(origin) + self._tail + _VARY

    def preflight(self, origin: str | None, wished: str | None) -> bytes:
        """The lines of the answer to a preflight of a page of `origin` that wants to send the
        headers `wished`; they allow nothing to a page that may not ask."""
        if not self.names(origin):
            return _PREFLIGHT_VARY
        lines = self._allow(origin) + self._preflight
        takes = self._takes
        if self._any_header:  # said by name: for browsers `*` does not mean Authorization
            names = [name.strip() for name in (wished or "").split(",") if name.strip()]
            is_sound = all(map(is_token, names)) and len(wished or "") <= _MAX_WISH
            takes = ", ".join(names).encode() if is_sound else b""
        if takes:
            lines += b"Access-Control-Allow-Headers: %b\r\n" % takes
        return lines + _PREFLIGHT_VARY

    def _allow(self, origin: str | None) -> bytes:
        said = b"*" if self._any or origin is None else origin.encode("latin-1")
        return b"Access-Control-Allow-Origin: %b\r\n" % said


def without_cors(lines: list[bytes]) -> list[bytes]:
    """`lines` of an instance's answer, less what the gateway says in its place: a browser takes an
    answer that says it twice for none."""
    return [line for line in lines if not line[:33].lower().startswith(_OURS)]
