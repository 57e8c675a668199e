"""A model's own `authorize`, as a gate that requests are asked at.

FastAPI solves what the hook depends on, in a small application of its own that knows nothing
but this hook: whatever form FastAPI has for a dependency, its answers and its errors are
FastAPI's. A hook that takes an `instance.Request`, or nothing, needs no FastAPI. Runs in the
process that authorizes, where the model is made but never set up.
"""

import asyncio
import inspect
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any
from urllib.parse import unquote

import orjson

from instance.api import type_hints
from instance.core.errors import Problem
from instance.model.blame import Blame, is_litserves, raise_if_cancelled
from instance.requests import Headers, Request, RequestError

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
FAILED = Problem("model_error", "authorize() failed on this request; the instance's log says why")
NO = Problem("unauthorized", "authorize() said no")
CODES = {401: "unauthorized", 403: "forbidden", 422: "invalid_request"}
Pairs = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Asked:
    """What is known of a request before its body is looked at; `body` fetches that, if a hook
    wants to see it."""

    method: str
    path: str
    query: str
    headers: Pairs
    client: tuple[str, int] | None
    scheme: str
    body: Callable[[], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`problem` is None for who may come in; `headers` are for the answer then."""

    problem: Problem | None = None
    headers: Any = ()


Gate = Callable[[Asked], Awaitable[Verdict]]


def authorizes(api: Any) -> bool:
    """Whether `api` decides itself who may come in; ValueError when it only seems to."""
    hook = getattr(api, "authorize", None)
    if hook is not None and not callable(hook):
        raise ValueError(f"authorize must be a method, not {type(hook).__name__}")
    return hook is not None


def gate_of(api: Any) -> tuple[Gate, dict[str, Any]]:
    """(the gate that `api.authorize` is, what OpenAPI says of its secrets); ValueError, in one
    line, when it cannot be honoured."""
    parameters = list(inspect.signature(api.authorize).parameters.values())
    hints = type_hints(inspect.unwrap(getattr(api.authorize, "__func__", api.authorize)))
    ours = len(parameters) == 1 and hints.get(parameters[0].name) is Request
    is_plain = not inspect.isgeneratorfunction(api.authorize)
    if ours or (not parameters and is_plain and not inspect.isasyncgenfunction(api.authorize)):
        return PlainGate(api.authorize, ours, is_litserves(api)), {}
    try:
        import fastapi  # noqa: F401
    except ImportError:
        say = "needs FastAPI, which is not installed; or let it take one instance.Request"
        raise ValueError(f"authorize{inspect.signature(api.authorize)} {say}") from None
    gate = FastAPIGate(api.authorize, is_litserves(api))
    return gate, gate.secrets()


class PlainGate:
    """A hook that takes our own request, or nothing."""

    def __init__(self, hook: Callable[..., Any], wants_request: bool, bare: bool) -> None:
        self._hook = hook
        self._wants_request = wants_request
        self._blame = Blame(of_litserve=bare)

    async def __call__(self, asked: Asked) -> Verdict:
        given = [_request(asked)] if self._wants_request else []
        try:
            if inspect.iscoroutinefunction(self._hook):
                verdict = await self._hook(*given)
            else:
                verdict = await asyncio.to_thread(self._hook, *given)
        except BaseException as error:  # also a sys.exit() in it: others wait for their verdict
            raise_if_cancelled(error)
            problem = self._blame.problem(error, "authorize")
            if problem.status:  # the hook's own words
                return Verdict(_named(problem))
            return Verdict(FAILED)
        return Verdict(NO if verdict is False else None)


def _request(asked: Asked) -> Request:
    headers = Headers(asked.headers)
    kind = headers.get("content-type", "")
    return Request(asked.method, asked.path, asked.query, headers, b"", kind)


class FastAPIGate:
    """A hook whose arguments FastAPI provides."""

    def __init__(self, hook: Callable[..., Any], bare: bool) -> None:
        from fastapi import Depends, FastAPI, Request

        async def passed(request: Any, verdict: Any) -> None:
            request.scope["verdict"] = verdict

        # FastAPI reads what a parameter is from its annotation; these are known only here.
        passed.__annotations__.update(request=Request, verdict=Annotated[Any, Depends(hook)])
        self._blame = Blame()
        self._bare = bare
        self._app = FastAPI(openapi_url=None)
        self._app.add_exception_handler(RequestError, _refused)
        signature = f"authorize{inspect.signature(hook)}"
        try:
            self._app.add_api_route("/{_target:path}", passed, methods=METHODS, status_code=204)
        except Exception as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(f"{signature} cannot be honoured: {line}") from None
        if getattr(self._app.routes[-1], "body_field", None) is not None:
            say = "takes part of the body, which is not decoded before it; let it take the Request"
            raise ValueError(f"{signature} {say}")

    def secrets(self) -> dict[str, Any]:
        """What OpenAPI says of the secrets it asks for: `schemes` by name, and `security`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # one route for all methods has one id for all
            document = self._app.openapi()
        (path,) = document["paths"].values()
        schemes = document.get("components", {}).get("securitySchemes", {})
        return {"schemes": schemes, "security": path["post"].get("security", [])}

    async def __call__(self, asked: Asked) -> Verdict:
        scope = scope_of(asked)
        answer = _Answer()
        try:
            await self._app(scope, _receive(asked), answer.send)
        except BaseException as error:
            raise_if_cancelled(error)
            self._blame.problem(error, "authorize")
            return Verdict(FAILED)
        if "verdict" not in scope or answer.status != 204:
            return Verdict(answer.problem(self._bare))
        if scope["verdict"] is False:
            return Verdict(NO)
        return Verdict(None, answer.headers)


async def _refused(request: Any, error: Any) -> Any:
    from fastapi.responses import JSONResponse

    return JSONResponse({"detail": error.detail}, error.status_code, dict(error.headers or {}))


def scope_of(asked: Asked) -> dict[str, Any]:
    """`asked` as ASGI has it."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": asked.method,
        "scheme": asked.scheme,
        "path": unquote(asked.path),
        "raw_path": asked.path.encode("latin-1"),
        "query_string": asked.query.encode("latin-1"),
        "root_path": "",
        "headers": [(n.encode("latin-1"), v.encode("latin-1")) for n, v in asked.headers],
        "client": asked.client,
        "server": None,
        "state": {},
    }


def _receive(asked: Asked) -> Callable[[], Awaitable[dict[str, Any]]]:
    """The body in one piece, fetched when it is asked for; then nothing more ever comes."""
    given = False

    async def receive() -> dict[str, Any]:
        nonlocal given
        if given:
            await asyncio.get_running_loop().create_future()
        given = True
        return {"type": "http.request", "body": await asked.body(), "more_body": False}

    return receive


class _Answer:
    """What an ASGI application answers."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Pairs = []
        self.body = b""

    async def send(self, message: Any) -> None:
        """Takes one message of the application; its type and length are made anew."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [
                (name.decode("latin-1"), value.decode("latin-1"))
                for name, value in message.get("headers", ())
                if name not in (b"content-type", b"content-length")
            ]
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")

    def problem(self, bare: bool) -> Problem:
        """The refusal, in its own words, and nothing else if `bare`; who set a status and let the
        request pass is taken at that status."""
        try:
            answer = orjson.loads(self.body)
        except ValueError:
            answer = self.body.decode("utf-8", "replace") or None
        detail = answer["detail"] if isinstance(answer, dict) and "detail" in answer else answer
        status = self.status if self.status >= 300 else 401
        return _named(Problem("refused", detail, status, (), self.headers, None, bare))


def _named(problem: Problem) -> Problem:
    """`problem` with the code that its status has."""
    code = CODES.get(problem.status_code, "refused" if problem.status_code < 500 else "model_error")
    return replace(problem, code=code)
