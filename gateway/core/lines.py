"""What kind of header line is this?

A line is validated, split and sorted by its name the first time it is met. Lines of names that
never carry a secret and that all clients and instances repeat are then known by the very bytes
they came as, so that most of a head costs one look-up per line; of all other lines the name
alone is kept. What is kept is bounded, and each worker process has its own.
"""

import re
from collections.abc import Collection

# Kinds of header names. PASS is 0, so that the common case is one truth test.
(
    PASS, HOST, LENGTH, CODING, CONNECTION, DROP, EXPECT, UPGRADE, UNDERSCORE,
    FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST, TRUSTED, REQUEST_ID, TRACEPARENT,
    VIA, OVERRIDE, DEADLINE, LOAD, RETRY_AFTER, KEEP_ALIVE, AUTHORIZATION, API_KEY,
) = range(23)  # fmt: skip

_REQUEST_KINDS = {
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
    b"via": VIA,
    b"x-headgate-backend": OVERRIDE,
    b"x-request-timeout": DEADLINE,
    b"authorization": AUTHORIZATION,
    b"x-api-key": API_KEY,
}
# What only a proxy in front may say: who the client is, how it came, what it asked for before
# somebody rewrote it. Frameworks take these for the truth (a path to route by, a prefix to build
# links with, a user who was let in). Names of one family come together, as `_CLAIMS` has them.
_CLAIM_FAMILIES = (
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
_CLAIMS = frozenset(
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
_RESPONSE_KINDS = {
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
}

Line = tuple[int, bytes, int]
"""Kind, value without white space around it, and its number where that is a length."""

FIELD_BYTES = bytes([9, *range(0x20, 0x7F), *range(0x80, 0x100)])
_is_token = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_MOST = 2048
_LONGEST = 160
# Whose values come again from everybody and are nobody's secret. Any other may be one.
_KEPT = frozenset(
    b"""accept accept-charset accept-encoding accept-language accept-ranges age allow
    cache-control connection content-encoding content-language content-length content-type date
    expect expires host keep-alive pragma retry-after server transfer-encoding upgrade
    upgrade-insecure-requests user-agent vary x-content-type-options x-request-timeout""".split()
)
_KEPT_FAMILIES = (b"sec-ch-", b"sec-fetch-", b"access-control-", b"x-stainless-")


class Lines(dict[bytes, Line | None]):
    """Header lines by their bytes: None if the line is just passed on."""

    def __init__(self, kinds: dict[bytes, int]) -> None:
        super().__init__()
        self._kinds = kinds
        self._names: dict[bytes, tuple[int, bool]] = {}

    @property
    def names(self) -> Collection[bytes]:
        """The names of headers that are kept, with what each is."""
        return self._names.keys()

    def __missing__(self, line: bytes) -> Line | None:
        """Understands `line`, or raises ValueError."""
        name, colon, value = line.partition(b":")
        if line.translate(None, FIELD_BYTES):
            raise ValueError("control character in the head")
        if not colon:
            raise ValueError("header line without a colon")
        kind, is_kept = self._names.get(name) or self._name(name)
        value = value.strip(b" \t")
        entry = (kind, value, length(value) if kind == LENGTH else 0) if kind else None
        if is_kept and len(line) <= _LONGEST:
            if len(self) >= _MOST:
                self.clear()
            self[line] = entry
        return entry

    def _name(self, name: bytes) -> tuple[int, bool]:
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
        known = kind, lower in _KEPT or lower.startswith(_KEPT_FAMILIES)
        if len(name) <= _LONGEST:
            if len(self._names) >= _MOST:
                self._names.clear()
            self._names[name] = known
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


REQUEST_LINES = Lines(_REQUEST_KINDS)
RESPONSE_LINES = Lines(_RESPONSE_KINDS)
