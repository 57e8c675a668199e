"""What does the admin listener answer to bytes that are no HTTP request?

aiohttp shows such bytes to the client and writes them to the log, with a traceback each. They
may hold a token or come in floods, so here they get one plain problem and leave no trace.
Requests that can be read go to the application and never come here.
"""

import asyncio
import logging
import secrets

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.controlplane.problems import Problem
from gateway.controlplane.security import HEADERS

log = logging.getLogger(__name__)


class _Connection(RequestHandler):
    """One client connection that keeps what it could not read to itself."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """A plain answer to bytes that are no request: no echo of them, no trace in the log."""
        if status >= 500:
            log.error("a connection failed outside of any request: %s", type(exc).__name__)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun already")
        code = "bad_request" if status < 500 else "internal"
        response = Problem(code, "this is not a request that can be read").response(
            secrets.token_hex(8)
        )
        response.headers.update(HEADERS)
        response.force_close()
        return response


class _Server(web.Server):
    """Makes a `_Connection` for each client."""

    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=asyncio.get_running_loop(), **self._kwargs)


class AdminRunner(web.AppRunner):
    """Runs the admin application: no access log (edits are audited), short farewells."""

    def __init__(self, application: web.Application, *, shutdown_timeout: float = 1.0) -> None:
        super().__init__(application, access_log=None, shutdown_timeout=shutdown_timeout)

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(
            made.request_handler,
            request_factory=made.request_factory,
            loop=asyncio.get_running_loop(),
            **made._kwargs,
        )
