"""Who may come in, and by which key?

A *key* is a client's secret, a *consumer* the name behind it. Only the SHA-256 of a key is known
here: whoever reads the document, the history or this process's memory learns no key. A key is
found by its digest in a dictionary, so ten thousand cost what one does, and how long that takes
says nothing of how near a guess came. Where the clock is and what is counted is not known here.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from gateway.core.entries import MAX_COUNT, Limits, Route, is_name
from gateway.core.errors import ClientFault
from gateway.core.rate_limit import read_limits
from gateway.core.units import parse_time

PREFIX = b"hg_"
CRLF = b"\r\n"
HASH = r"^sha256:[0-9a-f]{64}$"
OF_NOTHING = f"sha256:{hashlib.sha256().hexdigest()}"
"""What comes of hashing a variable that is not set. A request without a key would have that one."""
MAX_HASHES = 8
_KNOWN = frozenset({"hashes", "routes", "expires", "limits"})
_CHALLENGE = b'WWW-Authenticate: Bearer realm="headgate"\r\n'


@dataclass(frozen=True, slots=True)
class Key:
    """One consumer: the digests of its keys, the routes that they open (None: all), when they
    cease to, in seconds since 1970 (None: never), and how much they may (None: as by default)."""

    name: str
    digests: tuple[bytes, ...]
    routes: frozenset[str] | None = None
    expires_at: float | None = None
    limits: Limits | None = None


def read_key(name: str, spec: Mapping[str, Any]) -> Key:
    """The key `name` that `spec` describes; ValueError, TypeError or KeyError if there is none."""
    if not is_name(name):
        raise ValueError(f"{name!r} is no name")
    for key in spec:
        if key not in _KNOWN:
            raise ValueError(f"unknown key {key!r}")
    hashes, routes = spec["hashes"], spec.get("routes")
    if not isinstance(hashes, list | tuple) or not 0 < len(hashes) <= MAX_HASHES:
        raise ValueError(f"hashes: from 1 to {MAX_HASHES} of them")
    if routes is not None and not (
        isinstance(routes, list | tuple) and len(routes) <= MAX_COUNT and all(map(is_name, routes))
    ):
        raise ValueError("routes: must be a list of names")
    return Key(
        name,
        tuple(map(_digest, hashes)),
        None if routes is None else frozenset(routes),
        parse_time(spec["expires"]) if "expires" in spec else None,
        read_limits(spec["limits"]) if "limits" in spec else None,
    )


def _digest(text: Any) -> bytes:
    if not isinstance(text, str) or not re.fullmatch(HASH, text):
        raise ValueError("hashes: each is sha256: and 64 hexadecimal digits in lower case")
    if text == OF_NOTHING:
        raise ValueError("hashes: one is of no key at all")
    return bytes.fromhex(text[7:])


def hash_of(secret: str) -> str:
    """How the document writes the key `secret`."""
    return f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}"


def minted(chance: bytes) -> str:
    """The key that 32 random bytes make: `hg_` and 43 characters that need no escape anywhere."""
    return PREFIX.decode() + base64.urlsafe_b64encode(chance).rstrip(b"=").decode()


class Unauthorized(ClientFault):
    """No key, or none that is known: the same words for both."""

    usual: ClassVar[str] = "unauthorized"

    def __init__(self) -> None:
        super().__init__(
            "A valid key is required, as `Authorization: Bearer KEY` or `X-API-Key: KEY`."
        )
        self.lines = _CHALLENGE


class Forbidden(ClientFault):
    """A key that is known and does not open this."""

    usual: ClassVar[str] = "forbidden"


class Keyring:
    """All keys of one table, by what is kept of them."""

    __slots__ = ("_by_digest", "keys")

    def __init__(self, keys: Mapping[str, Key]) -> None:
        self.keys = keys
        self._by_digest = {digest: key for key in keys.values() for digest in key.digests}

    def find(self, digest: bytes) -> Key | None:
        """Whose key it is that has this digest; None if nobody's."""
        return self._by_digest.get(digest)


def digest_of(secret: bytes) -> bytes:
    """What is kept of a key, and by what it is found."""
    digest = _nothing_digested.copy()  # costs half of what a new one does, which is looked up anew
    digest.update(secret)
    return digest.digest()


def secret_of(authorization: bytes, api_key: bytes) -> bytes:
    """The key that a request brings in its lines of these names, b"" for none. A Bearer token comes
    first: who sends one may have an X-API-Key for the instance beside it."""
    if authorization:
        value = authorization[_AUTHORIZATION:].strip(b" \t")
        if value[:7].lower() == b"bearer ":
            return value[7:].lstrip(b" ")
    return api_key[_API_KEY:].strip(b" \t")


_AUTHORIZATION: Final = 14  # characters of its name and the colon
_API_KEY: Final = 10
_nothing_digested: Final = hashlib.sha256()
_ends_in_key: Final = re.compile(rb"(?:^|[ \t:])" + PREFIX + rb"[^ \t:]*$").search


def without_credentials(
    forward: list[bytes], authorization: bytes, api_key: bytes, has_key: bool
) -> list[bytes]:
    """The header lines that pass, less those of these two names that hold the key of who was let
    in, who `has_key`, or any of a gateway's form: who sends a key twice does not give it away."""
    if not authorization and not api_key:
        return forward
    if has_key and not (authorization and api_key):  # as nearly all send it
        key = authorization or api_key
        left = forward.copy()
        if key in left:
            left.remove(key)
        return left
    left = forward.copy()
    secret = secret_of(authorization, api_key) if has_key else b""
    for lines in (authorization, api_key):
        for line in lines.split(CRLF) if lines else ():
            value = line.partition(b":")[2].strip(b" \t")
            _, _, after_scheme = value.partition(b" ")
            is_secret = has_key and secret in (value, after_scheme.lstrip(b" "))
            if (is_secret or _ends_in_key(value) is not None) and line in left:
                left.remove(line)
    return left


def check_opens(key: Key, route: Route, wall_s: float) -> None:
    """Raises Forbidden if `key` does not open `route` at `wall_s`, seconds since 1970."""
    if key.expires_at is not None and wall_s >= key.expires_at:
        raise Forbidden("The key has expired.")
    if key.routes is not None and route.name not in key.routes:
        raise Forbidden("The key does not open this route.")
