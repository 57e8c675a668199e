"""The process that holds the model: how it starts and ends; how it serves is `serving`.

Started by the HTTP process as `python -m instance.model.worker`; talks to it over one socket.
Everything of the user's runs here and nowhere else. A model whose hooks are all plain gets
this thread to itself and no event loop; any async hook gives all of them a loop.
"""

import asyncio
import gc
import json
import logging
import os
import resource
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import instance.devices as devices
from instance.model.describe import describe
from instance.model.hooks import hooks_of
from instance.model.lit_model import Model
from instance.model.loader import load
from instance.model.making import LoadError, told
from instance.model.observers import Callbacks, Entries, refuse_loops
from instance.model.serving import WorkerLink, finished, serve_ahead, serve_async, serve_plain
from instance.settings import is_server_file
from instance.specs import spec_of
from instance.telemetry.logs import concerning, configure_logging
from instance.wire import lifeline
from instance.wire.arena import Arena
from instance.wire.links import BlockingLink
from instance.wire.marks import DROPPED, mapped
from instance.wire.messages import StartOptions

T = TypeVar("T")
log = logging.getLogger("instance")


def main() -> None:
    """Loads the model, then answers batches until its HTTP process is gone."""
    options: StartOptions = json.loads(sys.argv[1])
    lifeline.hang_on(options["lifeline"])
    # What the HTTP process has more than it was given is for clients: a model may `select`.
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (options["files"], resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    outlet = configure_logging()
    sock = socket.socket(fileno=options["socket"])
    link: WorkerLink = BlockingLink(sock, *(_taken(file, Arena) for file in options["arenas"]))
    marks = _taken(options["marks"], mapped)
    if marks is not None:
        outlet.told = partial(marks.__setitem__, DROPPED)
    os.register_at_fork(after_in_child=link.sever)
    try:
        model, run = prepare(options, link)
    except LoadError as error:
        link.send(("failed", str(error)))
        sys.exit(1)
    if marks is not None:
        model.pipeline.marks = marks
    with suppress(BrokenPipeError):  # the HTTP process is gone, as when we are not told
        if run is not None and model.hooks.is_async:
            told = run.run(serve_async(model, sock, link))
        elif model.prepares:
            told = serve_ahead(model, link, run)
        else:
            told = serve_plain(model, link, run)
        if told:
            end(model, run)
    outlet.flush()
    lifeline.end_group()


def end(model: Model, run: asyncio.Runner | None) -> None:
    """Tears the model down; what a library left running has no say in whether we end."""
    teardown = getattr(model.api, "teardown", None)
    try:
        if callable(teardown):
            finished(run, teardown())
    except BaseException:
        log.exception("teardown() raised", extra=concerning((), hook="teardown"))
    if model.entries is not None:
        model.entries.close()
    for stream in (sys.stdout, sys.stderr):
        with suppress(ValueError, OSError):  # closed, by the model or at the other end
            stream.flush()


def _taken(file: int | None, use: Callable[[int], T]) -> T | None:
    """What `use` makes of a file that the HTTP process gave, and that is only needed to map it."""
    if file is None:
        return None
    try:
        return use(file)
    finally:
        os.close(file)


def prepare(options: StartOptions, link: WorkerLink) -> tuple[Model, asyncio.Runner | None]:
    """The model, set up and warm. Tells the HTTP process what it is as soon as that is known.

    Raises LoadError, with the traceback in the log where the fault is in the user's code.
    """
    try:
        device = devices.inside(options["device"])
        devices.check(device)
        api = load(options["model"], options["arguments"], options["api"], options["args"])
        _apply(api, options, device)
        refuse_loops(api)
        callbacks = Callbacks(api)
        hooks = callbacks.around(hooks_of(api))
        model = Model(api, hooks, device)
        if callable(set_queue := getattr(api, "set_logger_queue", None)):
            model.entries = Entries(api)
            set_queue(model.entries)
        link.send(("loaded", describe(model, options["model"])))
    except ValueError as error:
        raise LoadError(str(error)) from None
    except Exception as error:
        if not isinstance(error, LoadError):
            log.exception("looking at %s failed", options["model"])
            raise LoadError(f"{options['model']} cannot be served: {told(error)}") from None
        raise
    needs_loop = hooks.is_async or any(map(model.waits, ("setup", "health", "teardown")))
    run = asyncio.Runner(loop_factory=_loop_factory()) if needs_loop else None
    try:
        callbacks.tell("on_before_setup")
        finished(run, api.setup(device))
        callbacks.tell("on_after_setup")
        devices.use_threads(options["threads"])
        if getattr(api, "inference_mode", True):
            devices.enter_inference_mode()
    except BaseException as error:
        log.exception("setup of %s failed", options["model"], extra=concerning((), hook="setup"))
        raise LoadError(f"setup of {options['model']} failed: {told(error)}") from None
    for problem in finished(run, model.warm_up()):
        failed = f"warm-up of {options['model']} with its example failed"
        raise LoadError(f"{failed}: {problem.message}; the log says why")
    # The model and its libraries stay for good: no later collection has to walk through them.
    gc.collect()
    gc.freeze()
    link.send(("ready",))
    return model, run


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loops, where there is uvloop."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _apply(api: Any, options: StartOptions, device: str) -> None:
    """Options given at start win over the class's own attributes."""
    for name, value in options["attributes"].items():
        setattr(api, "served_spec" if name == "spec" else name, value)
    spec = spec_of(api)
    if "api_path" in options["attributes"] and hasattr(getattr(api, "spec", None), "api_path"):
        api.spec.api_path = options["attributes"][
            "api_path"
        ]  # LitServe's specs hold the path of their API
    if spec is not None:
        api.stream = spec.streams  # a spec knows; an option cannot make vectors a stream
    if hasattr(type(api), "device") or not hasattr(api, "device"):
        try:
            api.device = device
        except AttributeError:
            pass
    pre_setup = getattr(api, "pre_setup", None)
    if callable(pre_setup) and not is_server_file(options["model"]):  # else its server has done it
        pre_setup()


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":  # as `multiprocessing` imports it in what it starts anew
    lifeline.end_with_parent()
