"""What does a file serve that builds a `LitServer` and runs it?

The file is run as `python server.py` would, its main guard included, up to `LitServer.run`:
from there on an instance serves what the server was given. Runs where the user's code may run:
in the process that plans, and again in each worker, which takes its API from it.
"""

import importlib.util
import inspect
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from instance.api import Endpoint
from instance.model.making import told
from instance.model.observers import listed
from instance.settings import KEY_VARIABLE

log = logging.getLogger("instance")
FLOOR = (0, 2, 13)  # the first litserve whose servers have what is read here


class FileError(Exception):
    """The file cannot be run, or runs no LitServer; the message is one line."""


@dataclass(slots=True)
class ServerFile:
    """A server as it stood when it was run: the object, and the arguments that were written for
    it and for its `run`."""

    server: Any
    given: dict[str, Any]
    run: dict[str, Any]

    @property
    def apis(self) -> list[Any]:
        return list(self.server.litapi_connector)


def api_key() -> str:
    """The key that LitServe asks clients for, as far as this process knows it: also one that the
    user's code found in a file and put into the environment."""
    module = sys.modules.get("litserve.server")
    said = getattr(module, "LIT_SERVER_API_KEY", None) or os.environ.get(KEY_VARIABLE)
    return str(said or "")


def shutdown_key() -> str:
    """The key with which LitServe stops for a client; one that it made if none was given."""
    return str(getattr(sys.modules.get("litserve.server"), "SHUTDOWN_API_KEY", None) or "")


def api_of(model: str, arguments: Sequence[str], index: int) -> Any:
    """The API that is served as the `index`th, with what the server brings for all of them."""
    served = run_file(model, arguments)
    api = served.apis[index]
    callbacks, loggers = served.server._callback_runner, served.server._logger_connector
    api.callbacks = [*listed(getattr(api, "callbacks", None)), *callbacks._callbacks]
    api.loggers = [*listed(getattr(api, "loggers", None)), *loggers._loggers]
    api.track_requests = bool(served.server.track_requests)
    return api


def run_file(where: str, arguments: Sequence[str], starts: bool = False) -> ServerFile:
    """Runs the file until a LitServer runs. FileError says why there is none; the traceback of a
    fault in the file goes to the log. Where nothing `starts`, callbacks are not told that it does:
    the file runs in several processes."""
    path = Path(where)
    if not os.path.isfile(path):
        raise FileError(f"no file {where!r} can be read")
    if importlib.util.find_spec("litserve") is None:
        say = f"name what to serve, as in {where}:Name; to be run as it is it needs litserve"
        raise FileError(f"{say}, which is not installed")
    _refuse_old(where)
    caught: list[ServerFile] = []
    release = _catch(caught, starts)
    resume = _spare_torch()
    sys.path.insert(0, str(path.resolve().parent))
    sys.argv = [where, *arguments]
    module = ModuleType("__main__")
    module.__file__ = str(path)
    sys.modules["__main__"] = module
    try:
        exec(compile(path.read_bytes(), where, "exec"), vars(module))  # noqa: S102  (what it is for)
    except BaseException as error:
        if not caught:  # else it is how the file was left where it would have begun to serve
            if not isinstance(error, SystemExit):
                log.exception("running %s failed", where)
            raise FileError(f"running {where} failed: {told(error)}") from None
    finally:
        release()
        resume()
    if not caught:
        found = named(module, where)
        raise FileError(f"{where} never calls LitServer.run(); name what to serve: {found}")
    return caught[0]


def _refuse_old(where: str) -> None:
    """FileError when the litserve here is older than what a server is read from."""
    import litserve

    version = str(getattr(litserve, "__version__", ""))
    if tuple(map(int, re.findall(r"\d+", version)[:3])) < FLOOR:
        need = ".".join(map(str, FLOOR))
        say = f"to run {where} as it is takes litserve {need} or newer, and {version} is installed"
        raise FileError(f"{say}; or name what to serve, as in {where}:Name")


def named(module: ModuleType, where: str) -> str:
    """What of a module could be served, as MODEL names it."""
    candidates = [
        key
        for key, value in vars(module).items()
        if not key.startswith("_")
        and (isinstance(value, Endpoint) or callable(getattr(value, "predict", None)))
        and getattr(value, "__module__", None) in (module.__name__, None, "instance.api")
    ]
    return ", ".join(f"{where}:{key}" for key in candidates) or f"{where}:Name"


def _catch(caught: list[ServerFile], starts: bool) -> Callable[[], None]:
    """From here on what runs a LitServer is put into `caught` in place of being served; the
    function given ends that."""
    from litserve import LitServer
    from litserve.callbacks import CallbackRunner

    initialize, run, trigger = LitServer.__init__, LitServer.run, CallbackRunner.trigger_event
    written: dict[int, dict[str, Any]] = {}

    def initialized(self: Any, *given: Any, **named: Any) -> None:
        bound = inspect.signature(initialize).bind(self, *given, **named).arguments
        written[id(self)] = {k: v for k, v in bound.items() if k not in ("self", "lit_api")}
        initialize(self, *given, **named)

    def ran(self: Any, *given: Any, **named: Any) -> None:
        bound = inspect.signature(run).bind(self, *given, **named).arguments
        bound.pop("self")
        bound.update(bound.pop("kwargs", {}))
        caught.append(ServerFile(self, written.get(id(self), {}), bound))
        raise SystemExit  # a thread that it ends says nothing

    LitServer.__init__, LitServer.run = initialized, ran
    if not starts:
        CallbackRunner.trigger_event = lambda *given, **named: None

    def release() -> None:
        LitServer.__init__, LitServer.run, CallbackRunner.trigger_event = initialize, run, trigger

    return release


def _spare_torch() -> Callable[[], None]:
    """From here on LitServe looks for a GPU without torch; the function given ends that.

    Where nvidia-smi finds none, it imports torch to ask for Apple's: seconds in every process of
    an instance whose model may not use torch at all, and on any other system always in vain.
    """
    from litserve import connector

    finder: Any = getattr(connector, "_Connector", None)
    look = vars(finder or object).get("_choose_gpu_accelerator_backend")
    count = getattr(connector, "check_cuda_with_nvidia_smi", None)
    if sys.platform == "darwin" or look is None or count is None:
        return lambda: None
    finder._choose_gpu_accelerator_backend = staticmethod(lambda: "cuda" if count() > 0 else None)

    def resume() -> None:
        finder._choose_gpu_accelerator_backend = look

    return resume
