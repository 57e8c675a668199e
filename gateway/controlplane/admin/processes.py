"""The processes of a backend that `headgate up` serves: what they write, and a restart.

They are no part of the table: what is asked here goes to whoever starts them. Edits of what is
served are edits of the backend.
"""

from aiohttp import web

from gateway.controlplane.admin.calls import Call, answer, etag
from gateway.controlplane.admin.problems import Problem
from gateway.controlplane.watch.fleet_view import FleetView
from gateway.core import edits
from gateway.core.faults import Conflict

MOST_LINES = 500


async def get_logs(call: Call) -> web.Response:
    """The last lines that the instances of one backend wrote, or those after a number."""
    backend, fleet = _served(call)
    lines = call.number("lines", 100, most=MOST_LINES) or 100
    after = call.number("after", None, most=2**53) or 0
    try:
        told = await fleet.logs(backend, after, lines)
    except TimeoutError:
        raise Problem("not_ready", "who starts the instances does not answer") from None
    found = [{"number": n, "instance": where, "text": text} for n, where, text in told["lines"]]
    return answer({"backend": backend, "lines": found})


async def restart(call: Call) -> web.Response:
    """Ends each instance of a backend and starts it again, one after the other."""
    backend, fleet = _served(call)
    spec = edits.entry_of(call.publisher.table.document, "backends", backend)
    call.guard(spec)
    if not call.dry_run:
        fleet.restart(backend)
        call.parts.events.publish(
            {"type": "restart", "backend": backend, "who": call.who, "why": call.why}
        )
    revision = call.publisher.table.revision
    words = "each instance is ended and started again, one after the other"
    body = {"revision": revision, "backend": backend, "serves": {backend: words}}
    return answer(body, tag=etag(spec), revision=revision)


def _served(call: Call) -> tuple[str, FleetView]:
    """The backend that is meant, and who knows its processes; Conflict where nobody does."""
    backend = call.part("backend")
    spec = edits.entry_of(call.publisher.table.document, "backends", backend)
    if call.parts.fleet is None:
        raise Conflict("this gateway starts no instances; `headgate up` does")
    if not spec.get("serve"):
        raise Conflict(f"backend {backend!r} has no `serve`: its instances are somebody else's")
    return backend, call.parts.fleet
