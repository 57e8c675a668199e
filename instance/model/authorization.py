"""The process that is asked who may come in, where a model's class decides that itself.

Started by the HTTP process as `python -m instance.model.authorization`. The model is made
here as in its workers but never set up, so that an answer waits for no model, and so that a
class that can be asked while LitServe's server asks it can be asked here.
"""

import asyncio
import json
import logging
import os
import socket
import sys
from functools import partial
from typing import Any

import orjson

from instance.core.errors import Problem
from instance.model.gates import Asked, Gate, gate_of
from instance.model.loader import load
from instance.model.making import LoadError
from instance.settings import is_server_file
from instance.telemetry.logs import configure_logging
from instance.wire import lifeline
from instance.wire.frames import Frame
from instance.wire.links import AsyncLink, BlockingLink
from instance.wire.messages import (
    FromAuthorizer,
    RequestHead,
    StartOptions,
    ToAuthorizer,
    pass_over,
)
from instance.wire.replies import pack_reply

log = logging.getLogger("instance")
FAILED = Problem("model_error", "whether the request may come in could not be found out")


def main() -> None:
    """Makes the model, then answers what the HTTP process asks until that is gone."""
    options: StartOptions = json.loads(sys.argv[1])
    lifeline.hang_on(options["lifeline"])
    outlet = configure_logging()
    sock = socket.socket(fileno=options["socket"])
    for file in (*options["arenas"], options["marks"]):
        if file is not None:
            os.close(file)
    link: BlockingLink[FromAuthorizer, ToAuthorizer] = BlockingLink(sock)
    try:
        gate, secrets = prepare(options)
    except LoadError as error:
        link.send(("failed", str(error)))
        outlet.flush()
        sys.exit(1)
    link.send(("ready", orjson.dumps(secrets, default=str)))
    asyncio.run(Authorization(gate).serve(sock))
    outlet.flush()
    lifeline.end_group()


def prepare(options: StartOptions) -> tuple[Gate, dict[str, Any]]:
    """(the gate of the model, the secrets it asks for); LoadError, in one line, otherwise."""
    api = load(options["model"], options["arguments"], options["api"], options["args"])
    pre_setup = getattr(api, "pre_setup", None)
    if callable(pre_setup) and not is_server_file(options["model"]):  # else its server has done it
        pre_setup()
    try:
        return gate_of(api)
    except ValueError as error:
        raise LoadError(f"{options['model']}: {error}") from None


class Authorization:
    """Answers each question in a task of its own."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._over = asyncio.Event()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._bodies: dict[int, asyncio.Future[bytes]] = {}
        self._link: AsyncLink[FromAuthorizer, ToAuthorizer] = AsyncLink(self._on_frame)

    async def serve(self, sock: socket.socket) -> None:
        """Returns when the HTTP process is gone."""
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: self._link, sock)
        await self._over.wait()

    def _on_frame(self, frame: Frame[ToAuthorizer] | None) -> None:
        if frame is None:
            self._over.set()
            return
        message, blobs = frame
        if message[0] == "ask":
            self._ask(message[1], message[2])
        elif message[0] == "body":
            self._bodies[message[1]].set_result(bytes(blobs[0]) if blobs else b"")  # type: ignore[arg-type]
        elif message[0] == "forget":
            if (task := self._tasks.get(message[1])) is not None:
                task.cancel()
        elif message[0] == "stop":
            self._over.set()
        else:
            pass_over(message)

    def _ask(self, id: int, request: RequestHead) -> None:
        async def body() -> bytes:
            future = self._bodies[id] = asyncio.get_running_loop().create_future()
            self._link.send(("want", id))
            try:
                return bytes(await future)
            finally:
                self._bodies.pop(id, None)

        asked = Asked(*request, body)
        task = asyncio.get_running_loop().create_task(self._answer(id, asked))
        self._tasks[id] = task
        task.add_done_callback(partial(self._ended, id))

    def _ended(self, id: int, task: asyncio.Task[None]) -> None:
        """A gate's own faults are answered; whatever else ends a task is no yes either."""
        self._tasks.pop(id, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a question was left without an answer", exc_info=error)
            self._link.send(("verdict", id, pack_reply(FAILED, []), []))

    async def _answer(self, id: int, asked: Asked) -> None:
        verdict = await self._gate(asked)
        problem = None if verdict.problem is None else pack_reply(verdict.problem, [])
        self._link.send(("verdict", id, problem, list(verdict.headers)))


if __name__ == "__main__":
    main()
