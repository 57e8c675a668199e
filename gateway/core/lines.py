"""What does one header line say? A cache: most lines have been seen before.

A line is validated, split and sorted by its name the first time it is met. Lines of names that
never carry a secret and that all clients and instances repeat are then known by the very bytes
they came as, so that most of a head costs one look-up per line; of all other lines the name
alone is kept. What is kept is bounded (`kept`), and each worker process has its own.
"""

import re
from typing import Final

from gateway.core.kept import Kept

# Kinds of header names. PASS is 0, so that the common case is one truth test.
PASS: Final = 0
HOST: Final = 1
LENGTH: Final = 2
CODING: Final = 3
CONNECTION: Final = 4
DROP: Final = 5
EXPECT: Final = 6
UPGRADE: Final = 7
UNDERSCORE: Final = 8
FORWARDED_FOR: Final = 9
FORWARDED_PROTO: Final = 10
FORWARDED_HOST: Final = 11
TRUSTED: Final = 12
REQUEST_ID: Final = 13
TRACEPARENT: Final = 14
VIA: Final = 15
OVERRIDE: Final = 16
DEADLINE: Final = 17
LOAD: Final = 18
RETRY_AFTER: Final = 19
KEEP_ALIVE: Final = 20
AUTHORIZATION: Final = 21
API_KEY: Final = 22
PREFLIGHT: Final = 23
TRACESTATE: Final = 24
DATE: Final = 25

_REQUEST_KINDS: Final = {
    b"host": HOST,
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"connection": CONNECTION,
    b"expect": EXPECT,
    b"upgrade": UPGRADE,
    b"keep-alive": DROP,
    b"proxy-connection": DROP,
    b"proxy-authorization": DROP,
    b"proxy": DROP,  # no header at all: what runs by CGI takes it for the variable HTTP_PROXY
    b"te": DROP,
    b"trailer": DROP,
    b"http2-settings": DROP,
    b"x-forwarded-for": FORWARDED_FOR,
    b"x-forwarded-proto": FORWARDED_PROTO,
    b"x-forwarded-host": FORWARDED_HOST,
    b"x-request-id": REQUEST_ID,
    b"traceparent": TRACEPARENT,
    b"tracestate": TRACESTATE,
    b"via": VIA,
    b"x-headgate-backend": OVERRIDE,
    b"x-request-timeout": DEADLINE,
    b"authorization": AUTHORIZATION,
    b"x-api-key": API_KEY,
    b"access-control-request-method": PREFLIGHT,
}
# What only a proxy in front may say: who the client is, how it came, what it asked for before
# somebody rewrote it. Frameworks take these for the truth (a path to route by, a prefix to build
# links with, a user who was let in). Names of one family come together, as `_CLAIMS` has them.
_CLAIM_FAMILIES: Final = (
    b"x-forwarded-",  # -port -prefix -server -uri -method -user -tls-client-cert and others
    b"x-envoy-",
    b"x-ssl-",
    b"x-client-cert",
    b"x-auth-request-",
    b"x-appengine-",
    b"x-arr-",
    b"cf-connecting-ip",
    # Who was let in, and by which certificate, as proxies say it that ask for that.
    b"remote-",  # Authelia: -user -groups -name -email
    b"ssl-client-",  # ingress-nginx
    b"x-amzn-oidc-",
    b"x-amzn-mtls-",
    b"x-goog-authenticated-user-",
    b"x-ms-client-principal",
    b"cf-access-",
    b"tailscale-user-",
    b"x-authentik-",
    b"x-azure-clientip",
    b"x-azure-socketip",
)
_CLAIMS: Final = frozenset(
    {
        b"forwarded", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip", b"x-remote-ip",
        b"x-remote-addr", b"x-originating-ip", b"x-proxyuser-ip", b"true-client-ip",
        b"fastly-client-ip", b"client-ip", b"x-real-host", b"x-host", b"x-http-host-override",
        b"x-scheme", b"x-url-scheme", b"x-script-name", b"x-forwarded", b"front-end-https",
        b"client-cert", b"client-cert-chain", b"x-remote-user", b"x-webauth-user", b"forwarded-for",
        b"x-replaced-path", b"x-rewrite-url", b"x-rewrite-uri", b"x-rewrite-path",
        b"x-original-url", b"x-original-uri", b"x-original-path", b"x-original-host",
        b"x-original-method", b"x-original-proto", b"x-original-port", b"x-original-for",
        b"x-original-to", b"x-original-remote-addr", b"x-original-forwarded-for",
    }
)  # fmt: skip
_RESPONSE_KINDS: Final = {
    b"content-length": LENGTH,
    b"transfer-encoding": CODING,
    b"connection": CONNECTION,
    b"upgrade": UPGRADE,
    b"keep-alive": KEEP_ALIVE,
    b"proxy-connection": DROP,
    b"proxy-authenticate": DROP,
    b"te": DROP,
    b"trailer": DROP,
    b"x-request-id": DROP,
    b"endpoint-load-metrics": LOAD,
    b"retry-after": RETRY_AFTER,
    b"date": DATE,
}


def only(allowed: bytes) -> bytes:
    """The table with which `bytes.translate` changes exactly what is not all `allowed`; to look at
    bytes one by one in Python, or to delete what is allowed, takes several times as long."""
    other = allowed[0]
    return bytes(byte if byte in allowed else other for byte in range(256))


class Line:
    """Kind, value without white space around it, and its number where that is a length."""

    __slots__ = ("kind", "number", "value")

    def __init__(self, kind: int, value: bytes, number: int) -> None:
        self.kind = kind
        self.value = value
        self.number = number


FIELD_BYTES: Final = bytes([9, *range(0x20, 0x7F), *range(0x80, 0x100)])
_FIELD_BYTE: Final = only(FIELD_BYTES)
_is_token: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_MAX_KEPT: Final = 2048  # lines, and as many names, are kept,
_MAX_LENGTH: Final = 160  # of so many bytes at most
# Whose values come again from everybody and are nobody's secret. Any other may be one.
_KEPT: Final = frozenset(
    b"""accept accept-charset accept-encoding accept-language accept-ranges age allow
    cache-control connection content-encoding content-language content-length content-type date
    expect expires host keep-alive pragma retry-after server transfer-encoding upgrade
    upgrade-insecure-requests user-agent vary x-content-type-options x-request-timeout""".split()
)
_KEPT_FAMILIES: Final = (b"sec-ch-", b"sec-fetch-", b"access-control-", b"x-stainless-")


def has_control(line: bytes) -> bool:
    """Whether there is a byte in `line` that no header line may hold."""
    return line.translate(_FIELD_BYTE) != line


PASSING: Final = Line(PASS, b"", 0)  # every line that is just passed on


class Name:
    """What lines of a name are: their kind; whether they are kept; and what each is, its `entry`,
    where nobody asks for the value here: it passes, or is a credential or a date, which are known
    as lines.
    """

    __slots__ = ("entry", "is_kept", "kind")

    def __init__(self, kind: int, is_kept: bool) -> None:
        self.kind = kind
        self.is_kept = is_kept
        self.entry: Line | None = None
        if kind == PASS:
            self.entry = PASSING
        elif kind in (AUTHORIZATION, API_KEY, DATE):
            self.entry = Line(kind, b"", 0)


class Lines:
    """What header lines are, by their bytes: `kept` are those that may come again."""

    __slots__ = ("_kinds", "kept", "names")

    def __init__(self, kinds: dict[bytes, int]) -> None:
        self._kinds = kinds
        self.kept: Kept[Line] = Kept(_MAX_KEPT)
        self.names: Kept[Name] = Kept(_MAX_KEPT)

    def read(self, line: bytes) -> Line:
        """Understands `line`, which `kept.young` does not know, or raises ValueError."""
        if has_control(line):
            raise ValueError("control character in the head")
        name, colon, value = line.partition(b":")
        if not colon:
            raise ValueError("header line without a colon")
        known = self.names.young.get(name) or self.names.find(name) or self._name(name)
        entry = self.kept.old.get(line) if known.is_kept else known.entry
        if entry is None:
            entry = known.entry
            if entry is None:
                value = value.strip(b" \t")
                number = length(value) if known.kind == LENGTH else 0
                entry = Line(known.kind, value, number)
        if known.is_kept and len(line) <= _MAX_LENGTH:
            self.kept.keep(line, entry)
        return entry

    def _name(self, name: bytes) -> Name:
        """The kind of header that `name` is, and whether its lines are kept."""
        if not _is_token(name):
            raise ValueError("malformed header name")
        lower = name.lower()
        kind = self._kinds.get(lower, PASS)
        if kind == PASS:
            if lower.startswith(b"x-headgate-"):
                kind = DROP  # ours alone to say, on either side
            elif b"_" in lower:
                kind = UNDERSCORE
            elif self._kinds is _REQUEST_KINDS and is_claim(lower):
                kind = TRUSTED
        known = Name(kind, lower in _KEPT or lower.startswith(_KEPT_FAMILIES))
        if len(name) <= _MAX_LENGTH:
            self.names.keep(name, known)
        return known


def is_claim(name: bytes) -> bool:
    """Whether a request header, by its name in lower case, is for a proxy in front to say; `_`
    reads as `-`, for many servers make the same of both."""
    name = name.replace(b"_", b"-")
    return name in _CLAIMS or name.startswith(_CLAIM_FAMILIES)


def length(value: bytes) -> int:
    """The number of a Content-Length; ValueError for anything but digits."""
    if not value.isdigit() or len(value) > 18:
        raise ValueError("malformed Content-Length")
    return int(value)


REQUEST_LINES: Final = Lines(_REQUEST_KINDS)
RESPONSE_LINES: Final = Lines(_RESPONSE_KINDS)
