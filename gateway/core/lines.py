"""What kind of header line is this?

A line is validated, split and sorted by its name the first time it is met; then it is known
by the very bytes it came as. Clients and instances repeat nearly all of their header lines,
so that a head costs one look-up per line. What is kept is bounded, and of lines that carry
secrets or are never met twice the name alone is.
"""

import re

# Kinds of header names. PASS is 0, so that the common case is one truth test.
(
    PASS, HOST, LENGTH, CODING, CONNECTION, DROP, EXPECT, UPGRADE, UNDERSCORE,
    FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST, TRUSTED, REQUEST_ID, TRACEPARENT,
    VIA, OVERRIDE, DEADLINE, LOAD, RETRY_AFTER, KEEP_ALIVE,
) = range(21)  # fmt: skip

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
    b"te": DROP,
    b"trailer": DROP,
    b"http2-settings": DROP,
    b"x-forwarded-for": FORWARDED_FOR,
    b"x-forwarded-proto": FORWARDED_PROTO,
    b"x-forwarded-host": FORWARDED_HOST,
    b"x-forwarded-port": TRUSTED,
    b"forwarded": TRUSTED,
    b"x-real-ip": TRUSTED,
    b"x-request-id": REQUEST_ID,
    b"traceparent": TRACEPARENT,
    b"via": VIA,
    b"x-headgate-backend": OVERRIDE,
    b"x-request-timeout": DEADLINE,
}
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
_UNKEPT_KINDS = frozenset({REQUEST_ID, TRACEPARENT, FORWARDED_FOR, LOAD})
_SECRETS = frozenset(
    {b"authorization", b"cookie", b"set-cookie", b"x-api-key", b"api-key", b"x-auth-token"}
)


class Lines(dict[bytes, Line | None]):
    """Header lines by their bytes: None if the line is just passed on."""

    def __init__(self, kinds: dict[bytes, int]) -> None:
        super().__init__()
        self._kinds = kinds
        self._names: dict[bytes, tuple[int, bool]] = {}

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
        known = kind, lower not in _SECRETS and kind not in _UNKEPT_KINDS
        if len(name) <= _LONGEST:
            if len(self._names) >= _MOST:
                self._names.clear()
            self._names[name] = known
        return known


def length(value: bytes) -> int:
    """The number of a Content-Length; ValueError for anything but digits."""
    if not value.isdigit() or len(value) > 18:
        raise ValueError("malformed Content-Length")
    return int(value)


REQUEST_LINES = Lines(_REQUEST_KINDS)
RESPONSE_LINES = Lines(_RESPONSE_KINDS)
