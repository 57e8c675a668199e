"""What does a client get that the gateway answers by itself, and how?

Refusals (`replies` has their words), preflights of browsers, and what is asked below `/-/`. What
instances answer is `exchange`.
"""

from abc import abstractmethod
from typing import Final
from urllib.parse import unquote

import orjson
from mypy_extensions import mypyc_attr

from gateway.core.access import Unauthorized
from gateway.core.errors import ClientFault, GatewayError, NoRoom
from gateway.core.openai import LISTED_BY, Listing, as_list, as_model, is_openai
from gateway.core.sampling import HEALTH
from gateway.core.strangers import HOLD_S
from gateway.dataplane import limiting
from gateway.dataplane.backend import LiveBackend
from gateway.dataplane.intake import Intake
from gateway.dataplane.replies import RESERVED, asks_for_page, problem, reply, signpost
from gateway.dataplane.route_table import Snapshot, WrongMethodFault, host_of

LOST: Final = "This gateway has lost its store, and may know an old table only."
WITHOUT_LEASE: Final = b"exclude=lease"
"""In the query of a health check: whether requests are answered, though the lease may be lost."""
_PLAIN = b"Content-Type: text/plain\r\nCache-Control: no-store\r\n"


@mypyc_attr(allow_interpreted_subclasses=True)
class Replying(Intake):
    """A request that the gateway may answer itself."""

    __slots__ = ("backend", "head_sent", "sent", "status")

    # Set by who inherits: each __init__ in a chain of them costs every request a call.
    backend: LiveBackend | None
    head_sent: bool
    sent: int
    status: int

    @abstractmethod
    def _finish(self, now: float, reason: str) -> None:
        """The answer is written."""

    def refuse(self, fault: GatewayError) -> None:
        """Answers `fault`. What of the request has not come is not waited for."""
        if isinstance(fault, Unauthorized):
            self._hold_stranger()
        allow = fault.allow if isinstance(fault, WrongMethodFault) else None
        head = self.head
        if fault.code == "no_route" and head.target in (b"/", RESERVED) and asks_for_page(head):
            options = self.plane.options
            lines, body = signpost(self.client.peer, options.listeners, options.admin_scheme)
        else:
            lines, body = problem(fault, self.request_id, allow, is_openai(head.target))
        if self.buckets:  # it was let in: what it took is told whatever came of it
            lines += limiting.standing(self.buckets, self.plane.now())
        if self.plane.options.expose:
            lines += self._decided()
        lines += self._dressed(lines, allow)
        self._reply(fault.kind.status, lines, body, fault.code)

    def _hold_stranger(self) -> None:
        """Holds up who asks again and again without a key; a proxy's connection is not one
        client's."""
        client, plane = self.client, self.plane
        if not client.trusted and plane.strangers.came(client.peer, plane.now()):
            client.stall(HOLD_S)

    def _dressed(self, lines: bytes, allow: str | None) -> bytes:
        """What goes with the `lines` of a refusal by the route's `cors` and `headers`. Of a request
        that was refused before its route was known for sure, a page may read why; and who asks
        from no page is told that one would read another answer: a cache may keep a 404."""
        head, snapshot, live = self.head, self.plane.snapshot, self.route
        if live is None and snapshot.has_cors:
            try:
                listing = snapshot.lists(head, head.method, head.get)
                if listing is not None:
                    return self._list_cors(snapshot, listing)
                others = allow.encode().split(b", ") if allow and head.method != b"OPTIONS" else ()
                for method in (head.method, *others):
                    live = live or snapshot.cors_route(head, method)
            except GatewayError:  # a host that is none
                return b""
        return live.shape.own(head, lines) if live is not None and live.shape is not None else b""

    def _list_cors(self, snapshot: Snapshot, asked: Listing) -> bytes:
        """The lines by which a page may read a list of models, or why there is none for it."""
        origin = self.head.get("origin")
        live = snapshot.list_cors(asked, origin)
        if live is None or live.shape is None or live.shape.cors is None:
            return b""
        return live.shape.cors.answer(origin)

    def _decided(self) -> bytes:
        """The response lines that say what was decided of a request before it failed."""
        if self.route is None:
            return b""
        lines = f"X-Headgate-Route: {self.route.route.name}\r\n"
        if self.backend is not None:
            lines += f"X-Headgate-Backend: {self.backend.name}\r\n"
        if self.attempt is not None:
            lines += f"X-Headgate-Instance: {self.attempt.instance.address}\r\n"
        return f"{lines}X-Headgate-Revision: {self.revision}\r\n".encode()

    def _reply(self, status: int, lines: bytes, body: bytes, reason: str) -> None:
        self.status = status
        self.head_sent = True
        if self.plane.options.expose:
            lines += b"X-Request-Id: %b\r\n" % self.request_id
        ending, is_bare = self.client.ending(self.head.minor), self.head.method == b"HEAD"
        date = self.plane.date()
        self.client.write(reply(status, date, lines, body, ending, is_bare))
        self.sent = 0 if is_bare else len(body)
        self._finish(self.plane.now(), reason)

    def answer_preflight(self) -> bool:
        """Answers a browser that asks whether a page may send its request, if the route that is
        meant has `cors`; whoever may ask, nobody has a key yet, nor is an instance asked."""
        head, snapshot = self.head, self.plane.snapshot
        wished = head.get("access-control-request-method")
        origin = head.get("origin")
        if head.method != b"OPTIONS" or not wished or origin is None:
            return False
        method = wished.encode("latin-1")
        listing = snapshot.lists(head, method, None)
        if listing is not None:
            live = snapshot.list_cors(listing, origin)
        else:
            live = snapshot.cors_route(head, method)
        if live is None or live.shape is None or live.shape.cors is None:
            return False
        cors = live.shape.cors
        if listing is not None:
            cors = cors.by(LISTED_BY)
        else:
            self.route, self.revision = live, snapshot.revision
        lines = cors.preflight(origin, head.get("access-control-request-headers"))
        if listing is None:
            lines += live.shape.beside(lines)
        if self.plane.options.expose:
            lines += self._decided()
        self._reply(204, lines, b"", "")
        return True

    def answer_reserved(self) -> None:
        """Answers what is asked below `/-/`: health, and the documents pushed from control."""
        host_of(self.head)
        path, _, query = self.head.target.partition(b"?")
        if self.head.method not in (b"GET", b"HEAD"):
            raise WrongMethodFault(("GET", "HEAD"))
        if path == HEALTH:
            plane = self.plane
            if plane.lame and not plane.is_replaced:
                raise NoRoom("This worker is shutting down.", "draining")
            is_lost = plane.lease_until < plane.now() and not plane.is_replaced
            if is_lost and not (plane.serves_lost and WITHOUT_LEASE in query.split(b"&")):
                raise NoRoom(LOST, "store_lost")
            self._reply(200, _PLAIN, b"ok\n", "")
            return
        document = self.plane.documents.get(path)
        if document is None:
            raise ClientFault("There is nothing at this path.", "no_route")
        kind, body = document
        self._reply(200, b"Content-Type: %b\r\n" % kind, body, "")

    def list_models(self, snapshot: Snapshot, asked: Listing) -> None:
        """Answers which of the models may be asked for with the key that came."""
        open_to, self.admitted = snapshot.door.opened(
            self.head, [snapshot.table.routes[model.route] for model in asked.models]
        )
        names = {model.name: None for model in asked.models if model.route in open_to}
        if asked.wanted and unquote(asked.wanted) not in names:
            raise ClientFault("There is no such model, or none for this key.", "no_route")
        if self.has_bucket and not self.is_within_limits(None):
            return
        said = as_model(unquote(asked.wanted)) if asked.wanted else as_list(names)
        lines = b"Content-Type: application/json\r\nCache-Control: no-store\r\n" + self.shown
        lines += self._list_cors(snapshot, asked)
        if self.plane.options.expose:
            lines += b"X-Headgate-Revision: %d\r\n" % self.revision
        self._reply(200, lines, orjson.dumps(said), "")
