"""How does a request to the admin listener find its way, and what must it pass first?

One middleware, in this order: is the Host ours, is a browser asking for somebody else, did it
come through a proxy (our own data plane, when an instance's name leads here), is the token
good, may its role do this; then the operation; then every error as a problem. The order
matters: an unknown path answers a stranger as a known one does.
"""

import logging
import secrets
import time
from collections.abc import Callable
from functools import partial

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler as Next
from aiohttp.typedefs import Middleware

from gateway.controlplane.admin.calls import PARTS, REQUEST_ID, ROLE, AdminParts, Call
from gateway.controlplane.admin.listener import admit, note
from gateway.controlplane.admin.operations import OPERATIONS, Operation
from gateway.controlplane.admin.pages import PAGES, add_pages
from gateway.controlplane.admin.problems import Problem, problem_of
from gateway.controlplane.admin.security import HEADERS, Failures, Role, Site

log = logging.getLogger(__name__)

_READS = ("GET", "HEAD")
_PUBLIC = {operation.path for operation in OPERATIONS if operation.access == "public"}


def admin_application(
    parts: AdminParts, *, clock: Callable[[], float] = time.monotonic
) -> web.Application:
    """The admin listener's application; `clock` gives monotonic seconds."""
    gate = _Gate(parts, clock)
    application = web.Application(
        middlewares=[gate.pass_through], client_max_size=parts.settings.max_edit
    )
    application[PARTS] = parts
    for operation in OPERATIONS:
        handler = partial(_call, operation)
        application.router.add_route(operation.method, operation.path, handler)
        if operation.method == "GET" and operation.answer != "EventStream":
            application.router.add_route("HEAD", operation.path, handler)
    add_pages(application)
    application.on_response_prepare.append(_secure)
    application.on_shutdown.append(_end_streams)
    return application


async def _call(operation: Operation, request: web.Request) -> web.StreamResponse:
    call = Call(request)
    if operation.writes:
        call.check_query()
        if operation.body is None:
            await call.spare()
    return await operation.handler(call)


class _Gate:
    """What every request passes."""

    def __init__(self, parts: AdminParts, clock: Callable[[], float]) -> None:
        host, _ = parts.settings.admin_address
        self._site = Site.of(host, parts.settings.admin_hosts)
        self._tokens = parts.tokens
        self._failures = Failures()
        self._clock = clock

    @property
    def pass_through(self) -> Middleware:
        """The middleware that lets nobody in whom the rules keep out."""

        @web.middleware
        async def gate(request: web.Request, handler: Next) -> web.StreamResponse:
            request[REQUEST_ID] = secrets.token_hex(8)
            note(request)
            try:
                self._admit(request)
                return await handler(request)
            except Exception as error:
                return problem_of(error, request[REQUEST_ID]).response(request[REQUEST_ID])

        return gate

    def _admit(self, request: web.Request) -> None:
        page = request.method in _READS and request.path in PAGES
        if not self._site.knows_host(request.headers.get("Host")):
            raise Problem("forbidden", "this Host is not in gateway.admin_hosts")
        if not self._site.knows_origin(request.headers, page=page):
            raise Problem("forbidden", "requests from other sites are refused")
        if hdrs.VIA in request.headers:
            raise Problem(
                "forbidden",
                "this came through a proxy (Via); ask directly, or have the proxy leave Via out",
            )
        request[ROLE] = "public"
        if not (page or request.path in _PUBLIC):
            request[ROLE] = self._role(request)
            if request[ROLE] == "viewer" and request.method not in _READS:
                raise Problem("forbidden", "a viewer's token may read and not change")
            admit(request)

    def _role(self, request: web.Request) -> Role:
        said = request.headers.get("Authorization")
        # Judged before it is counted: others at this address, and what they got wrong, must not
        # keep the right token out.
        role = self._tokens.role(said)
        if role is not None:
            return role
        if said is not None:
            self._count_guess(request.remote or "")
        raise Problem(
            "unauthorized",
            "send `Authorization: Bearer TOKEN`",
            headers={"WWW-Authenticate": 'Bearer realm="headgate"'},
        )

    def _count_guess(self, address: str) -> None:
        """Takes note of a wrong token from `address`; 429 once it has used up its guesses."""
        now = self._clock()
        if self._failures.blocked(address, now):
            raise Problem(
                "too_many_failures",
                "too many wrong tokens came from this address; wait a minute",
                headers={"Retry-After": "60"},
            )
        if self._failures.note(address, now):
            log.warning("too many wrong tokens from %s", address)


async def _secure(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


async def _end_streams(application: web.Application) -> None:
    application[PARTS].events.close()
