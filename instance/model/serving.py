"""How does a worker take batches and send what comes of them?

In one of three ways, by what the hooks of its model are: one batch after the other, the next one
prepared meanwhile, or, with async hooks, each a task of its own. Each returns when it is told to
stop (True), or when the HTTP process is gone (False).
"""

import asyncio
import logging
import os
import socket
import time
from functools import partial
from typing import Any

from instance.core.errors import Problem
from instance.model.lit_model import Model
from instance.model.pipeline import LOST, drive, works_of
from instance.model.preparing import HookLock, Prepared, Preparer, compute
from instance.wire.frames import Body, Frame
from instance.wire.links import AsyncLink, BlockingLink, Link
from instance.wire.messages import BatchMessage, FromWorker, PackedReply, ToWorker, pass_over
from instance.wire.replies import pack_reply

log = logging.getLogger("instance")
WorkerLink = BlockingLink[FromWorker, ToWorker]
# By us, when nobody waits for it any more; else by the model, whose client is told.
CANCELLED = Problem("model_error", "the task that computed this request was cancelled")


def finished(run: asyncio.Runner | None, result: Any) -> Any:
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
    """One message after the other."""
    while (frame := link.receive()) is not None:
        message, bodies = frame
        if message[0] == "batch":
            drive(run_batch(model, message, bodies, link))
        elif message[0] == "check":
            link.send(("checked", *finished(run, model.check())))
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
                link.send(("checked", *finished(run, model.check())))
        else:
            return True
    return False


async def serve_async(model: Model, sock: socket.socket, before: WorkerLink) -> bool:
    """As `serve_plain`, with every batch a task of its own; `before` has the link until now."""
    service = AsyncService(model)
    link = service.link = AsyncLink(service.on_frame, before.theirs, before.ours)
    os.register_at_fork(after_in_child=link.sever)
    sock.setblocking(False)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: link, sock)
    return await service.run()


class AsyncService:
    """The batches of an async model that are under way, each in a task."""

    link: AsyncLink[FromWorker, ToWorker]

    def __init__(self, model: Model) -> None:
        self._model = model
        self._loop = asyncio.get_running_loop()
        self._stop: asyncio.Future[bool] = self._loop.create_future()
        self._batches: dict[int, asyncio.Task[None]] = {}  # by each job of the batch
        self._checks: set[asyncio.Task[None]] = set()

    async def run(self) -> bool:
        """Returns when it is over, with all that was under way cancelled."""
        told = await self._stop
        for task in set(self._batches.values()) | self._checks:
            task.cancel()
        await asyncio.gather(*self._batches.values(), *self._checks, return_exceptions=True)
        return told

    def on_frame(self, frame: Frame[ToWorker] | None) -> None:
        """Takes one message of the HTTP process; None when it is gone."""
        if frame is None:
            self._leave(False)
            return
        message, bodies = frame
        if message[0] == "batch":
            task = self._loop.create_task(run_batch(self._model, message, bodies, self.link))
            self._batches.update(dict.fromkeys((job[0] for job in message[2]), task))
            task.add_done_callback(partial(self._batch_over, message))
        elif message[0] == "cancel":
            self._cancel(message[1])
        elif message[0] == "check":
            check = self._loop.create_task(self._check())
            self._checks.add(check)
            check.add_done_callback(self._checked)
        elif message[0] == "stop":
            self._leave(True)
        elif message[0] != "ack" and message[0] != "left":  # the link's
            pass_over(message)

    def _leave(self, told: bool) -> None:
        if not self._stop.done():
            self._stop.set_result(told)

    def _cancel(self, job: int) -> None:
        """A batch whose only client left is cancelled, perhaps before it began."""
        task = self._batches.get(job)
        if task is not None and sum(task is other for other in self._batches.values()) == 1:
            task.cancel()

    def _batch_over(self, message: BatchMessage, task: asyncio.Task[None]) -> None:
        """Also one that was cancelled, or failed, has its end."""
        _, id, jobs = message
        for job in jobs:
            self._batches.pop(job[0], None)
        failed = None if task.cancelled() else task.exception()
        if failed is not None:  # not a hook's fault: those have their answers
            log.error("a batch failed outside of its hooks", exc_info=failed)
        if task.cancelled() or failed is not None:
            reply = CANCELLED if failed is None else LOST
            packed = [] if self._model.hooks.stream else [pack_reply(reply, []) for _ in jobs]
            self.link.send(("answers", id, 0.0, packed))

    async def _check(self) -> None:
        healthy, used, total = await self._model.check()
        self.link.send(("checked", healthy, used, total))

    def _checked(self, task: asyncio.Task[None]) -> None:
        self._checks.discard(task)
        if not task.cancelled() and (failed := task.exception()) is not None:
            log.error("the worker could not be checked", exc_info=failed)
            self.link.send(("checked", False, 0, 0))
