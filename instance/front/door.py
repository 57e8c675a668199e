"""Who may come in: the key that a request needs, and the paths that need none.

The key of LIT_SERVER_API_KEY is looked at here, as soon as the head is there. A class's own
`authorize` is asked in a process of its own; where there is one, it is asked instead of the
key, as LitServe does it.
"""

import hmac
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from instance.core.deadlines import HEADER, deadline_of
from instance.core.errors import Problem
from instance.front.incoming import Incoming
from instance.settings import KEY_VARIABLE
from instance.wire.frames import Body
from instance.wire.messages import RequestHead

# Proxies whose word on their client counts, under the name that uvicorn has for it.
TRUSTED = frozenset(
    part.strip() for part in os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1").split(",")
)
TIMEOUT = HEADER.lower().encode()
WRONG_KEY = Problem(
    "unauthorized",
    "the header X-API-Key must hold this server's key",
    headers=[("WWW-Authenticate", "APIKey")],
)
NOT_TO_STOP = Problem(
    "unauthorized",
    "Authorization must be Bearer and the key of LIT_SHUTDOWN_API_KEY",
    headers=[("WWW-Authenticate", "Bearer")],
)
# What probes and scrapers ask, by an address and never by a name, and what it is.
PROBED = {
    **dict.fromkeys(("/health/live", "/health/ready"), "health"),
    **dict.fromkeys(("/v2/health/live", "/v2/health/ready"), "health"),
    "/metrics": "the metrics",
}
# Open to anybody: these, and what readers of documents ask. LitServe has not, or leaves open too.
OPEN = frozenset({*PROBED, "/openapi.json", "/docs"})


@dataclass(frozen=True, slots=True)
class Door:
    """The key that clients need, and the header that holds it; empty where none is asked for."""

    key: bytes = b""
    header: bytes = b"x-api-key"

    def lets_in(self, incoming: Incoming) -> bool:
        """Whether the request has the key, or none is asked for; in the same time whatever it has
        instead."""
        return not self.key or hmac.compare_digest(incoming.headers.get(self.header, b""), self.key)

    def secrets(self) -> dict[str, Any]:
        """What OpenAPI says of the key."""
        if not self.key:
            return {}
        scheme = {"type": "apiKey", "in": "header", "name": "X-API-Key"}
        return {"schemes": {"APIKeyHeader": scheme}, "security": [{"APIKeyHeader": []}]}


OPEN_DOOR = Door()


def door_of(environment: Mapping[str, str], key: str = "") -> Door:
    """The door with the key of the environment, or of the file that is served."""
    return Door((environment.get(KEY_VARIABLE) or key).encode())


def question_of(incoming: Incoming) -> tuple[RequestHead, Callable[[], Body], float]:
    """(the request as `authorize` is asked, its body when that is wanted, until when an answer is
    of use)."""
    path, query = incoming.path, incoming.target.partition(b"?")[2].decode("latin-1")
    headers = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in incoming.headers.items()]
    until = inf
    if TIMEOUT in incoming.headers:
        try:
            until = deadline_of(incoming.header(TIMEOUT), incoming.arrived)
        except ValueError:  # said when the request is taken
            until = time.monotonic() + 1.0
    request = (incoming.method, path, query, headers, client_of(incoming), scheme_of(incoming))
    return request, lambda: incoming.body, until


def client_of(incoming: Incoming) -> tuple[str, int] | None:
    """The client's address, as uvicorn has it: what a trusted proxy says, else the peer's."""
    peer = _peer(incoming)
    if peer is not None and _is_trusted(peer[0]):
        hops = (incoming.header(b"x-forwarded-for") or "").split(",")
        for host in (part.strip() for part in reversed(hops)):
            if host and not _is_trusted(host):
                return host, 0
    return peer


def scheme_of(incoming: Incoming) -> str:
    """`https` where a trusted proxy says that its client came so."""
    peer = _peer(incoming)
    scheme = (incoming.header(b"x-forwarded-proto") or "").strip().lower()
    trusted = peer is not None and _is_trusted(peer[0])
    return scheme if trusted and scheme in ("http", "https") else "http"


def _peer(incoming: Incoming) -> tuple[str, int] | None:
    transport = incoming.connection.transport
    peer = transport.get_extra_info("peername") if transport is not None else None
    return (str(peer[0]), int(peer[1])) if isinstance(peer, tuple) and len(peer) >= 2 else None


def _is_trusted(host: str) -> bool:
    return host in TRUSTED or "*" in TRUSTED
