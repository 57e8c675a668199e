"""The processes of a backend that `headgate up` serves: what they write, restart, start, stop.

They are no part of the table: what is asked here goes to whoever starts them. Edits of what is
served are edits of the backend.
"""

from collections.abc import Callable
from typing import Any

from aiohttp import web

from gateway.controlplane.admin.calls import Call, answer, etag
from gateway.controlplane.admin.problems import Problem
from gateway.controlplane.watch.fleet_view import FleetView
from gateway.core import edits
from gateway.core.faults import Conflict
from gateway.core.placement import on_demand

MAX_LINES = 500


async def get_logs(call: Call) -> web.Response:
    """The last lines that the instances of one backend wrote, or those after a number."""
    backend, fleet = _served(call)
    lines = call.number("lines", 100, most=MAX_LINES) or 100
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
    words = "each instance is ended and started again, one after the other"
    return _told(call, backend, "restart", fleet.restart, words)


async def start(call: Call) -> web.Response:
    """Loads a model that starts on demand, before any request asks for it."""
    backend, fleet = _on_demand(call)
    words = "it is loaded now, and unloaded again as its `idle` says"
    return _told(call, backend, "start", fleet.start, words)


async def stop(call: Call) -> web.Response:
    """Unloads a model that starts on demand, once it has finished what it has."""
    backend, fleet = _on_demand(call)
    if backend in call.parts.rollouts.canaries():
        raise Conflict(f"a rollout leads to backend {backend!r}: abort it first")
    words = "it finishes what it has; the next request loads it again"
    return _told(call, backend, "stop", fleet.stop, words)


def _told(
    call: Call, backend: str, word: str, tell: Callable[[str], None], words: str
) -> web.Response:
    """Tells whoever starts `backend`, and whoever follows the events."""
    spec = _spec(call, backend)
    call.guard(spec)
    if not call.dry_run:
        tell(backend)
        call.parts.events.publish(
            {"type": word, "backend": backend, "who": call.who, "why": call.why}
        )
    revision = call.publisher.table.revision
    body = {"revision": revision, "backend": backend, "serves": {backend: words}}
    return answer(call.tried(body), tag=etag(spec), revision=revision)


def _served(call: Call) -> tuple[str, FleetView]:
    """The backend that is meant, and who knows its processes; Conflict where nobody does."""
    backend = call.part("backend")
    spec = _spec(call, backend)
    if call.parts.fleet is None:
        raise Conflict("this gateway starts no instances; `headgate up` does")
    if not spec.get("serve"):
        raise Conflict(f"backend {backend!r} has no `serve`: its instances are somebody else's")
    return backend, call.parts.fleet


def _on_demand(call: Call) -> tuple[str, FleetView]:
    """The same; Conflict also where it does not start on demand."""
    backend, fleet = _served(call)
    if not on_demand(_spec(call, backend)):
        raise Conflict(
            f"backend {backend!r} is loaded as long as it is served; with `start: demand` it is"
            " loaded when it is asked for"
        )
    return backend, fleet


def _spec(call: Call, backend: str) -> Any:
    return edits.entry_of(call.publisher.table.document, "backends", backend)
