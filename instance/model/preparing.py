"""The thread that makes the next batch ready while the device computes the one before.

A second thread reads what the HTTP process sends, decodes each request and makes the batch;
the worker's first thread predicts, and encodes. `decode_request` and `batch` may so run
beside `predict`; no other two hooks ever run at once. Which requests are in a batch was
decided before: here one can only fall out, because its client left or its time is up.

Only for plain hooks without streams: async hooks overlap by themselves.
"""

import logging
import sys
import threading
import time
from queue import SimpleQueue
from types import TracebackType
from typing import Any

import instance.devices as devices
from instance.core.errors import Problem
from instance.model.lit_model import Model
from instance.model.pipeline import EXPIRED, UNMADE, Work, drive, works_of
from instance.wire.frames import Body
from instance.wire.links import BlockingLink
from instance.wire.marks import BEGUN, DECODED
from instance.wire.messages import BatchMessage, Check, FromWorker, Stop, ToWorker

log = logging.getLogger("instance")
# torch gives up the interpreter lock for every operation that predict starts, and must get it
# back from a decoder written in Python hundreds of times in a batch: soon, not after 5 ms.
SWITCH_S = 1e-4
LEFT = Problem("model_error", "the client left")


class HookLock:
    """Keeps the hooks of two threads apart. Who waits is next: the other cannot enter again
    before, so answers wait for the decoding of one request at most."""

    def __init__(self) -> None:
        self._next = threading.Lock()
        self._taken = threading.Lock()

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits to be next."""
        return self._next.locked()

    def __enter__(self) -> None:
        with self._next:
            self._taken.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._taken.release()


class Prepared:
    """A batch whose requests are decoded: groups that are predicted together, with what
    `batch` made of each. Kept until its answers are made: its tensors may still be read."""

    __slots__ = ("groups", "id", "received", "works")

    def __init__(self, id: int, works: list[Work], received: float) -> None:
        self.id = id
        self.works = works
        self.received = received
        self.groups: list[tuple[list[Work], Any]] = []


class Preparer:
    """The second thread of a worker."""

    def __init__(
        self, model: Model, link: BlockingLink[FromWorker, ToWorker], hook_lock: HookLock
    ) -> None:
        self._model = model
        self._link = link
        self._hook_lock = hook_lock
        self._queue: SimpleQueue[Prepared | Check | Stop | None] = SimpleQueue()
        sys.setswitchinterval(SWITCH_S)
        # A daemon: one that waits for a message must not hold the process.
        threading.Thread(target=self._run, name="prepare", daemon=True).start()

    def next(self) -> Prepared | Check | Stop | None:
        """What is to be done next, in the order it was sent; None when the HTTP process is
        gone."""
        return self._queue.get()

    def _run(self) -> None:
        try:
            if getattr(self._model.api, "inference_mode", True):
                devices.enter_inference_mode()
            with devices.beside(self._model.device) as synchronize:
                while (frame := self._link.receive()) is not None:
                    message, bodies = frame
                    if message[0] == "batch":
                        prepared = self._prepared(message, bodies)
                        synchronize()
                        self._queue.put(prepared)
                    elif message[0] == "check" or message[0] == "stop":
                        self._queue.put(message)
        except BaseException:
            log.exception("the thread that prepares batches has failed")
            raise
        finally:
            self._queue.put(None)

    def _prepared(self, message: BatchMessage, bodies: list[Body]) -> Prepared:
        pipeline = self._model.pipeline
        prepared = Prepared(message[1], works_of(message, bodies), time.perf_counter())
        for work in prepared.works:
            self._link.open(work.id)
        good = []
        for work in prepared.works:
            if not self._link.cancelled(work.id):
                with self._hook_lock:
                    pipeline.marks[DECODED] = work.id
                    if (rest := pipeline.decode_one(work)) is not None:
                        drive(rest)
            if work.reply is None:
                good.append(work)
        pipeline.marks[DECODED] = 0
        for group in pipeline.groups(good):
            try:
                with self._hook_lock:
                    prepared.groups.append((group, drive(pipeline.batched(group))))
            except BaseException:
                # Made again, and blamed, where the bad one of it can be told from the others.
                prepared.groups.append((group, UNMADE))
        return prepared


def compute(model: Model, prepared: Prepared, link: BlockingLink[FromWorker, ToWorker]) -> None:
    """Gives every request of `prepared` its reply. Who left, or whose time is up, is not
    computed."""
    now = time.monotonic()
    if model.hooks.max_batch_size > 1:
        model.pipeline.marks[BEGUN] = prepared.works[-1].id
    for group, batch in prepared.groups:
        for work in group:
            if link.cancelled(work.id):
                work.reply = LEFT
            elif work.request.deadline <= now:
                work.reply = EXPIRED
        wanted = [work for work in group if work.reply is None]
        if wanted:
            whole = len(wanted) == len(group)
            drive(model.pipeline.compute(wanted, batch if whole else UNMADE))
    for work in prepared.works:
        link.close(work.id)
