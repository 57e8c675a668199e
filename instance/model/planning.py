"""The process that runs a file to see what it gives its `LitServer`, and plans an instance for it.

Started by the HTTP process as `python -m instance.model.planning`, before anything listens:
runs the file, and writes a plan of plain values to a pipe. What is given there is in the plan,
or named in a line, or refuses the start.
"""

import inspect
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from instance.model.server_file import FileError, ServerFile, api_key, run_file, shutdown_key
from instance.settings import SHUTDOWN_VARIABLE
from instance.telemetry.logs import configure_logging
from instance.wire import lifeline
from instance.wire.messages import PlanAnswer, PlanRequest, no_plan

Json = dict[str, Any]
KINDS = {
    "starlette.middleware.cors.CORSMiddleware": "cors",
    "starlette.middleware.trustedhost.TrustedHostMiddleware": "trusted_host",
    "starlette.middleware.httpsredirect.HTTPSRedirectMiddleware": "https_redirect",
}
GZIP = "starlette.middleware.gzip.GZipMiddleware"
MAX_SIZE = "litserve.middlewares.MaxSizeMiddleware"
# Arguments that change nothing here, or cannot: named when they are written, with what is instead.
ELSEWHERE = {
    "fast_queue": "no queue between processes is in the way",
    "num_api_servers": "one HTTP process serves all workers",
    "api_server_worker_type": "one HTTP process serves all workers",
    "log_level": "the log is what it is",
    "pretty_logs": "the log is what it is",
}
RUN = {"host", "port"}
SILENT = {"generate_client_file", "restart_workers"}  # nobody misses the file; always so
TLS_VARIABLES = ("LIGHTNING_CERT_PEM", "LIGHTNING_KEY_FILE")
TLS = re.compile(r"ssl_\w+")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?)(i?)B?", re.IGNORECASE)


class PlanError(Exception):
    """Something that a server was given cannot be honoured; one line."""


def plan_of(served: ServerFile) -> PlanAnswer:
    """The plan for what a file serves; PlanError names in one line all that stands against one."""
    server, run = served.server, served.run
    faults: list[str] = []
    settings: Json = {
        "host": str(run.get("host", "0.0.0.0")),  # noqa: S104  (LitServe's default)
        "health_path": server.healthcheck_path,
        "info_path": server.info_path,
        "documents": bool(server.app.openapi_url),
        "model_metadata": json.dumps(server.model_metadata),
        "server": json.dumps(_described(server), default=str),
    }
    if server.enable_shutdown_api:
        settings["shutdown_path"] = server._shutdown_path
        settings["shutdown_key"] = shutdown_key()
    with _noted(faults):
        _refuse_tls(run)
    with _noted(faults):
        settings["port"] = _port(run.get("port", 8000))
    with _noted(faults):
        settings["devices"] = [_device(device) for device in server.devices]
    with _noted(faults):
        _refuse_routes(server)
    middlewares = _middlewares(server, settings, faults)
    if faults:
        raise PlanError("; ".join(faults))
    # Before 0.2.18 there was one number for all.
    workers = getattr(server, "_workers_per_device_by_api_path", {})
    return {
        "apis": [
            {"path": api.api_path, "workers": workers.get(api.api_path, server.workers_per_device)}
            for api in served.apis
        ],
        "settings": settings,
        "middlewares": middlewares,
        "api_key": api_key(),
        "notices": list(_notices(served)),
        "failed": "",
    }


@contextmanager
def _noted(faults: list[str]) -> Iterator[None]:
    """Adds what is refused within to `faults`, that the rest may be looked at too."""
    try:
        yield
    except PlanError as error:
        faults.append(str(error))


def _refuse_tls(run: Json) -> None:
    tls = [f"run({name}=…)" for name in run if TLS.fullmatch(name)]
    if tls or all(map(os.environ.get, TLS_VARIABLES)):
        asks = tls[0] if tls else " and ".join(TLS_VARIABLES)
        raise PlanError(f"{asks} asks for TLS, which the gateway or a proxy has to end")


def _described(server: Any) -> Json:
    """What `/info` of LitServe says of a server, in its order."""
    return {
        "devices": server.devices,
        "workers_per_device": server.workers_per_device,
        "timeout": server.timeout,
        "stream": {api.api_path: api.stream for api in server.litapi_connector},
        "max_payload_size": server.max_payload_size,
        "track_requests": server.track_requests,
    }


def _port(port: Any) -> int:
    if not str(port).isdigit() or int(port) > 65535:
        raise PlanError(f"run(port={port!r}) is no port; use 0 to 65535")
    return int(port)


def _device(device: Any) -> str:
    """LitServe's name of one worker's device in ours."""
    names = [device] if isinstance(device, str) else list(device)
    if len(names) != 1:
        raise PlanError(f"devices={names!r}: a worker has one device here")
    name = str(names[0])
    return "mps" if name.startswith("mps") else name


def _refuse_routes(server: Any) -> None:
    """Raises PlanError for what was added to the server's application by hand."""
    own: list[str] = []
    for route in server.app.routes:
        endpoint = getattr(route, "endpoint", None)
        package = (getattr(endpoint, "__module__", None) or "").partition(".")[0]
        if package not in ("litserve", "fastapi", "starlette") and not _is_loggers(server, route):
            own += _paths(route)
    if own:
        say = f"server.app has a route of its own at {', '.join(own)}, which is not served here"
        raise PlanError(f"{say}; serve it beside the instance, or name the class to go without")


def _paths(route: Any) -> list[str]:
    """Where a route is, or those of an included router are."""
    if path := getattr(route, "path", None):
        return [path]
    inner = getattr(getattr(route, "original_router", None), "routes", ())
    return [path for one in inner for path in _paths(one)] or [type(route).__name__]


def _is_loggers(server: Any, route: Any) -> bool:
    """Whether `route` is a page that a logger mounts: named elsewhere."""
    mounts = [(one._config or {}).get("mount") for one in server._logger_connector._loggers]
    return getattr(route, "path", None) in [mount["path"] for mount in mounts if mount]


def _middlewares(server: Any, settings: Json, faults: list[str]) -> list[Json]:
    """The middlewares that are honoured, from the outside in; the others are noted in `faults`."""
    honoured, others = [], []
    for one in server.app.user_middleware:
        kind = one.cls
        name = f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', kind)}"
        with _noted(faults):
            if name in KINDS:
                honoured.append({"kind": KINDS[name], "options": _options(one)})
            elif name == MAX_SIZE:
                settings["max_body"] = _size(one.kwargs["max_size"])
            elif name == GZIP:
                _pack(settings, **_options(one))
            else:
                others.append(_named(one))
    if others:
        say, them = f"the middleware {others[0]} is", "it"
        if len(others) > 1:
            say, them = f"the middlewares {', '.join(others)} are", "them"
        faults.append(
            f"{say} not run here: no code of yours is in the HTTP process; "
            f"put {them} into a proxy, or name the class to serve without {them}"
        )
    return honoured


def _named(middleware: Any) -> str:
    """What its author calls a middleware: a class, a function, what is under a decorator."""
    made = middleware.kwargs.get("dispatch", middleware.cls)
    made = getattr(made, "func", made)  # of functools.partial
    return str(getattr(made, "__name__", type(made).__name__))


def _options(middleware: Any) -> Json:
    """The arguments by name of one of Starlette's middlewares; PlanError when it refuses them, or
    they are no plain values."""
    kind = middleware.cls
    try:
        kind(None, *middleware.args, **middleware.kwargs)
        bound = inspect.signature(kind).bind(None, *middleware.args, **middleware.kwargs)
        bound.arguments.pop("app")
        plain: Json = json.loads(json.dumps(bound.arguments, default=list))
        return plain
    except Exception as error:
        raise PlanError(f"{kind.__name__} cannot have its arguments: {error}") from None


def _pack(settings: Json, minimum_size: int = 500, compresslevel: int | None = None) -> None:
    """From how many bytes, and how well, answers are packed: every GZipMiddleware packs what it
    finds plain, so the smallest size counts. LitServe adds one itself, and says no level."""
    settings["gzip_min"] = min(int(minimum_size), settings.get("gzip_min", sys.maxsize))
    if compresslevel is not None:
        settings["gzip_level"] = int(compresslevel)


def _size(size: Any) -> int:
    """Bytes in a number or in text such as "100MB"."""
    if isinstance(size, int) and size >= 0:
        return size
    match = _SIZE.fullmatch(str(size).strip())
    if match is None:
        raise PlanError(f"max_payload_size={size!r} is no size; write a number of bytes, or 100MB")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** ("KMG".find(match[2].upper()) + 1 if match[2] else 0))


def _notices(served: ServerFile) -> Iterator[str]:
    for name, value in {**served.given, **served.run}.items():
        if name in ELSEWHERE and value not in (None, False):
            yield f"{name}={value!r} is not used here: {ELSEWHERE[name]}"
        elif (
            name in served.run and name not in RUN and name not in ELSEWHERE and name not in SILENT
        ):
            yield f"run({name}={value!r}) is not used here: it is uvicorn's"
    if served.server.enable_shutdown_api and not os.environ.get(SHUTDOWN_VARIABLE):
        say = f"{SHUTDOWN_VARIABLE} is not set; what stops the server at"
        yield f"{say} {served.server._shutdown_path} is Authorization: Bearer {shutdown_key()}"
    yield from (f"{what} of server.app are not used here" for what in _added(served.server.app))


def _added(app: Any) -> Iterator[str]:
    """What was added to the application, and would be heard by nobody."""
    from fastapi import FastAPI

    if app.exception_handlers.keys() - FastAPI().exception_handlers.keys():
        yield "exception handlers"
    if any(getattr(app.router, name, None) for name in ("on_startup", "on_shutdown")):
        yield "handlers of startup and shutdown"
    if app.dependency_overrides:
        yield "dependency overrides"


def main() -> None:
    """Runs the file that the first argument names, and writes its plan, or why there is none."""
    options: PlanRequest = json.loads(sys.argv[1])
    lifeline.hang_on(options["lifeline"])
    outlet = configure_logging()
    try:
        plan = plan_of(run_file(options["model"], options["arguments"]))
    except (FileError, PlanError) as error:
        plan = no_plan(str(error))
    sys.stdout.flush()
    outlet.flush()
    with os.fdopen(options["answer"], "w") as pipe:
        json.dump(plan, pipe)
    lifeline.end_group()


if __name__ == "__main__":
    main()
