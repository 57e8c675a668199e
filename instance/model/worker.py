"""The process that holds the model: how it starts, serves and ends.

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
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import TextIOWrapper
from typing import Any, TypeVar

import instance.devices as devices
from instance.model.describe import describe
from instance.model.hooks import hooks_of
from instance.model.lit_model import Model
from instance.model.loader import load
from instance.model.making import LoadError
from instance.model.observers import Callbacks, Entries, refuse_loops
from instance.model.pipeline import LOST, drive, works_of
from instance.model.preparing import LEFT, HookLock, Prepared, Preparer, compute
from instance.settings import is_server_file
from instance.specs import spec_of
from instance.telemetry.logs import concerning, configure_logging
from instance.wire import lifeline
from instance.wire.arena import Arena
from instance.wire.frames import Body, Frame
from instance.wire.links import AsyncLink, BlockingLink, Link
from instance.wire.marks import DROPPED, mapped
from instance.wire.messages import (
    BatchMessage,
    FromWorker,
    PackedReply,
    StartOptions,
    ToWorker,
    pass_over,
)
from instance.wire.replies import pack_reply

T = TypeVar("T")
WorkerLink = BlockingLink[FromWorker, ToWorker]
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
    if isinstance(sys.stdout, TextIOWrapper):  # what a model prints is seen at once, in a pipe too
        sys.stdout.reconfigure(line_buffering=True)
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
            _finish(run, teardown())
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
            raise LoadError(f"{options['model']} cannot be served: {_line(error)}") from None
        raise
    needs_loop = hooks.is_async or any(map(model.waits, ("setup", "health", "teardown")))
    run = asyncio.Runner(loop_factory=_loop_factory()) if needs_loop else None
    try:
        callbacks.tell("on_before_setup")
        _finish(run, api.setup(device))
        callbacks.tell("on_after_setup")
        devices.use_threads(options["threads"])
        if getattr(api, "inference_mode", True):
            devices.enter_inference_mode()
    except BaseException as error:
        log.exception("setup of %s failed", options["model"], extra=concerning((), hook="setup"))
        raise LoadError(f"setup of {options['model']} failed: {_line(error)}") from None
    for problem in _finish(run, model.warm_up()):
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


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _finish(run: asyncio.Runner | None, result: Any) -> Any:
    """The value of a hook's result, whichever kind the hook is."""
    if not asyncio.iscoroutine(result):
        return result
    return drive(result) if run is None else run.run(result)


async def run_batch(model: Model, message: BatchMessage, bodies: list[Body], link: Link) -> None:
    """Computes one batch and sends what came of it."""
    works = works_of(message, bodies)
    started = time.perf_counter()
    blobs: list[Body] = []
    packed: list[PackedReply] = []
    if model.hooks.stream:
        await model.streams.run(works, link)
    else:
        replies = await model.pipeline.answer(works)
        packed = [pack_reply(reply, blobs) for reply in replies]
    seconds = time.perf_counter() - started
    link.send(("answers", message[1], seconds, packed), blobs)


def serve_plain(model: Model, link: WorkerLink, run: asyncio.Runner | None) -> bool:
    """One message after the other, until told to stop, or False: the parent is gone."""
    while (frame := link.receive()) is not None:
        message, bodies = frame
        if message[0] == "batch":
            drive(run_batch(model, message, bodies, link))
        elif message[0] == "check":
            link.send(("checked", *_finish(run, model.check())))
        elif message[0] == "stop":
            return True
    return False


def serve_ahead(model: Model, link: WorkerLink, run: asyncio.Runner | None) -> bool:
    """As `serve_plain`, with the next batch prepared while this one is computed."""
    hook_lock = model.pipeline.hook_lock = HookLock()
    preparer = Preparer(model, link, hook_lock)
    done = 0.0
    while (work := preparer.next()) is not None:
        if isinstance(work, Prepared):
            compute(model, work, link)
            blobs: list[Body] = []
            packed = [pack_reply(one.reply or LOST, blobs) for one in work.works]
            # What the device was kept for: what overlapped the batch before is not counted.
            began, done = max(work.received, done), time.perf_counter()
            link.send(("answers", work.id, done - began, packed), blobs)
        elif work[0] == "check":
            with hook_lock:
                link.send(("checked", *_finish(run, model.check())))
        else:
            return True
    return False


async def serve_async(model: Model, sock: socket.socket, before: WorkerLink) -> bool:
    """As `serve_plain`, with every batch a task of its own."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[bool] = loop.create_future()
    tasks: dict[int, asyncio.Task[None]] = {}  # by each job of the batch

    def on_frame(frame: Frame[ToWorker] | None) -> None:
        """Takes one message of the HTTP process."""
        if frame is None:
            leave(False)
            return
        message, bodies = frame
        if message[0] == "batch":
            task = loop.create_task(run_batch(model, message, bodies, link))
            tasks.update(dict.fromkeys((job[0] for job in message[2]), task))
            task.add_done_callback(partial(over, message))
        elif message[0] == "cancel":
            task_of = tasks.get(message[1])
            if task_of is not None and sum(task is task_of for task in tasks.values()) == 1:
                task_of.cancel()
        elif message[0] == "check":
            check = loop.create_task(_send_check(model, link))
            checks.add(check)
            check.add_done_callback(checked)
        elif message[0] == "stop":
            leave(True)
        elif message[0] != "ack" and message[0] != "left":  # the link's
            pass_over(message)

    def leave(told: bool) -> None:
        if not stop.done():
            stop.set_result(told)

    def over(message: BatchMessage, task: asyncio.Task[None]) -> None:
        """A batch whose only client left is cancelled, perhaps before it began, and still
        has its end."""
        _, id, jobs = message
        for job in jobs:
            tasks.pop(job[0], None)
        failed = None if task.cancelled() else task.exception()
        if failed is not None:  # not a hook's fault: those have their answers
            log.error("a batch failed outside of its hooks", exc_info=failed)
        if task.cancelled() or failed is not None:
            reply = LEFT if failed is None else LOST
            packed = [] if model.hooks.stream else [pack_reply(reply, []) for _ in jobs]
            link.send(("answers", id, 0.0, packed))

    def checked(task: asyncio.Task[None]) -> None:
        checks.discard(task)
        if not task.cancelled() and (failed := task.exception()) is not None:
            log.error("the worker could not be checked", exc_info=failed)
            link.send(("checked", False, 0, 0))

    checks: set[asyncio.Task[None]] = set()
    link: AsyncLink[FromWorker, ToWorker] = AsyncLink(on_frame, before.theirs, before.ours)
    os.register_at_fork(after_in_child=link.sever)
    sock.setblocking(False)
    await loop.connect_accepted_socket(lambda: link, sock)
    told = await stop
    for task in set(tasks.values()) | checks:
        task.cancel()
    await asyncio.gather(*tasks.values(), *checks, return_exceptions=True)
    return told


async def _send_check(model: Model, link: Link) -> None:
    link.send(("checked", *await model.check()))


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":  # as `multiprocessing` imports it in what it starts anew
    lifeline.end_with_parent()
