"""Who may use the admin listener, and from where?

Tokens are compared as hashes in constant time; guesses are counted per address. A request
whose Host or Origin is not ours is refused whatever it carries, so that a web page cannot
reach an admin port on its reader's machine. Nothing here knows what a request wants to do.
"""

import hashlib
import hmac
import ipaddress
import os
import secrets
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from gateway.controlplane.configuration.settings import MIN_TOKEN_LENGTH, Settings
from gateway.controlplane.store.state_directory import refuse_shared_file, sync_directory
from gateway.controlplane.store.store import StateRefused
from gateway.core.addresses import behind

Role = Literal["viewer", "operator"]

MAX_FAILURES = 20  # wrong tokens of one address within the window
FAILURE_WINDOW_S = 60.0
_MAX_ADDRESSES = 4096  # whose failures are counted

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "object-src 'none'; img-src 'self' data:"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "headgate",
}
"""On every answer of the admin listener."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Which bearer token has which role. None at all: everybody is an operator."""

    hashes: tuple[tuple[bytes, Role], ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, operator: str | None, viewer: str | None = None) -> "Tokens":
        said: list[tuple[str | None, Role]] = [(operator, "operator"), (viewer, "viewer")]
        return cls(tuple((_hash(token), role) for token, role in said if token))

    @property
    def required(self) -> bool:
        return bool(self.hashes)

    def role(self, authorization: str | None) -> Role | None:
        """The role that the Authorization header gives; None for none.

        Takes the same time whether it is wrong in its first byte or in its last.
        """
        if not self.hashes:
            return "operator"
        scheme, _, token = (authorization or "").partition(" ")
        given = _hash(token.strip())
        found: Role | None = None
        for known, role in self.hashes:
            if hmac.compare_digest(given, known):
                found = role
        return found if scheme.lower() == "bearer" else None


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def admin_tokens(settings: Settings, token_file: Path) -> tuple[Tokens, str | None]:
    """The tokens to accept, and the operators' token if it was made just now (print it once).

    On a loopback address none is needed unless one is configured. Elsewhere the one in
    `token_file` stands in for a missing one, and is made when there is none yet.
    """
    operator = settings.token.get_secret_value() if settings.token else None
    viewer = settings.viewer_token.get_secret_value() if settings.viewer_token else None
    if operator or (settings.admin_is_loopback and not viewer):
        return Tokens.of(operator, viewer), None
    if os.path.lexists(token_file):
        return Tokens.of(read_token(token_file), viewer), None
    made = secrets.token_urlsafe(32)
    _keep_token(token_file, made)
    return Tokens.of(made, viewer), made


def read_token(path: Path) -> str:
    """The token in `path`; StateRefused when it is readable by others or too short."""
    try:
        refuse_shared_file(path)
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StateRefused(f"the token in {path} cannot be read: {error}") from None
    if len(token) < MIN_TOKEN_LENGTH:
        raise StateRefused(f"the token in {path} has fewer than {MIN_TOKEN_LENGTH} characters")
    return token


def _keep_token(path: Path, token: str) -> None:
    scrap = path.with_name(f"{path.name}.new")
    try:
        scrap.unlink(missing_ok=True)
        descriptor = os.open(scrap, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{token}\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(scrap, path)
        sync_directory(path.parent)
    except OSError as error:
        raise StateRefused(f"the token cannot be kept in {path}: {error.strerror}") from None


class Failures:
    """Wrong tokens by who is behind an address. `now` is monotonic seconds.

    The memory is bounded; who is quiet longest is forgotten first.
    """

    def __init__(self) -> None:
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def blocked(self, address: str, now: float) -> bool:
        """Whether `address` has used up the guesses of this minute."""
        times = self._times.get(behind(address))
        if times is None:
            return False
        while times and times[0] <= now - FAILURE_WINDOW_S:
            times.popleft()
        return len(times) >= MAX_FAILURES

    def note(self, address: str, now: float) -> bool:
        """Counts a wrong token; whether this is the one that blocks `address`."""
        counted = behind(address)
        times = self._times.setdefault(counted, deque(maxlen=MAX_FAILURES))
        times.append(now)
        self._times.move_to_end(counted)
        if len(self._times) > _MAX_ADDRESSES:
            self._times.popitem(last=False)
        return self.blocked(address, now)


@dataclass(frozen=True, slots=True)
class Site:
    """By which names the admin listener may be called."""

    names: frozenset[str]

    @classmethod
    def of(cls, host: str, further: Iterable[str] = ()) -> "Site":
        return cls(frozenset({"localhost", host.lower(), *further}))

    def knows_host(self, host: str | None) -> bool:
        """Whether a Host header names us. Any address literal does: no DNS can forge one."""
        if not host or "@" in host or "/" in host:
            return False
        try:
            parts = urlsplit(f"//{host}")
            name, _ = parts.hostname or "", parts.port
        except ValueError:
            return False
        name = name.rstrip(".")
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.names or any(
                known.startswith("*.") and name.endswith(known[1:]) for known in self.names
            )
        return True

    def knows_origin(self, headers: Mapping[str, str], *, page: bool) -> bool:
        """Whether a browser, if it is one, asks on behalf of our own pages.

        `page`: what is asked for is a page that a link elsewhere may lead to.
        """
        origin = headers.get("Origin")
        if origin is not None:
            parts = urlsplit(origin)
            return parts.scheme in ("http", "https") and parts.netloc == headers.get("Host")
        site = headers.get("Sec-Fetch-Site", "none")
        if site in ("same-origin", "none"):
            return True
        return page and headers.get("Sec-Fetch-Mode") == "navigate"
