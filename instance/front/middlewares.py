"""What do the middlewares that a server was given say of a request?

Starlette's own, of the kinds whose word hangs on the head of a request alone: they run here as
they are, around an application that only notes that a request came through. What they add to
the head of an answer is kept for the real one. They wait for nothing, so no task is needed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from instance.front.door import client_of, scheme_of
from instance.front.incoming import Incoming

Pairs = list[tuple[str, str]]


class Middlewares:
    """The stack, from the outside in."""

    def __init__(self, described: Sequence[Mapping[str, Any]]) -> None:
        from starlette.middleware.cors import CORSMiddleware
        from starlette.middleware.httpsredirect import HTTPSRedirectMiddleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        kinds: dict[str, Any] = {
            "cors": CORSMiddleware,
            "https_redirect": HTTPSRedirectMiddleware,
            "trusted_host": TrustedHostMiddleware,
        }
        app: Any = _came_through
        for one in reversed(described):
            app = kinds[one["kind"]](app, **one["options"])
        self._app = app

    def ask(self, incoming: Incoming) -> tuple[bool, int, Pairs, bytes]:
        """(whether it came through, and then headers for its answer; else the answer's status,
        headers and body)."""
        scope = _scope(incoming)
        status, headers, body = 0, [], b""

        async def send(message: Any) -> None:
            """Takes one message of the answer; its length is made anew."""
            nonlocal status, headers, body
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [
                    (name.decode("latin-1"), value.decode("latin-1"))
                    for name, value in message.get("headers", ())
                    if name.lower() != b"content-length"
                ]
            else:
                body += message.get("body", b"")

        run = self._app(scope, _nothing, send)
        try:
            run.send(None)
            raise RuntimeError("a middleware waits for something")
        except StopIteration:
            return "came_through" in scope, status, headers, body
        finally:
            run.close()


async def _came_through(scope: Any, receive: Any, send: Any) -> None:
    scope["came_through"] = True
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _nothing() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


def _scope(incoming: Incoming) -> dict[str, Any]:
    path, _, query = incoming.target.partition(b"?")
    return {
        "type": "http",
        "method": incoming.method,
        "scheme": scheme_of(incoming),
        "path": incoming.path,
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": list(incoming.headers.items()),
        "client": client_of(incoming),
        "server": None,
    }
