"""How does a stream get from a generator to the HTTP process, item by item?

The generator is asked for the next item only when its client has room for it, and closed as
soon as the client leaves. Its first item decides how the items are framed.
"""

import inspect
from collections.abc import AsyncIterator, Sequence
from typing import Any

import orjson

from instance.core.errors import Problem
from instance.engine.frames import Buffer, place
from instance.engine.hooks import stack
from instance.engine.links import Link
from instance.engine.pipeline import CountError, Pipeline, Work, call
from instance.engine.replies import Blame, pack_reply
from instance.specs import Framing, Spec
from instance.surface.codec import encode_json

SSE = "text/event-stream"
JSON_LINES = "application/x-ndjson"


class ItemFraming:
    """Turns items into bytes: as events, as lines of JSON, or as they are."""

    def __init__(self, first: Any, sse: bool, media_type: str | None) -> None:
        self.sse = sse or media_type == SSE
        if self.sse:
            self.content_type = SSE
        elif media_type is not None:
            self.content_type = media_type
        elif isinstance(first, str):
            self.content_type = "text/plain; charset=utf-8"
        elif isinstance(first, (bytes, bytearray, memoryview)):
            self.content_type = "application/octet-stream"
        else:
            self.content_type = JSON_LINES

    def item(self, value: Any) -> Buffer:
        if isinstance(value, str):
            if not self.sse or value.startswith(("data:", "event:", "id:", ":")):
                return value.encode()
            lines = value.replace("\r\n", "\n").replace("\r", "\n").split("\n")
            return "".join(f"data: {line}\n" for line in lines).encode() + b"\n"
        if isinstance(value, (bytes, bytearray, memoryview)):
            return value
        body = encode_json(value)
        return b"data: " + body + b"\n\n" if self.sse else body + b"\n"

    def finish(self) -> bytes:
        return b""

    def error(self, problem: Problem) -> bytes:
        """The explicit end of a stream that failed; empty where the framing has no word
        for it, and only the broken connection tells."""
        body = orjson.dumps(problem.document(None), default=str)
        if self.sse:
            return b"event: error\ndata: " + body + b"\n\n"
        if self.content_type == JSON_LINES:
            return b'{"error":' + body + b"}\n"
        return b""


class Sender:
    """The way of one stream to its client."""

    def __init__(
        self, work: Work, link: Link, media_type: str | None, spec: Spec | None = None
    ) -> None:
        self.work = work
        self.ended = False
        self._link = link
        self._media_type = media_type
        self._spec = spec
        self._framing: Framing | None = None
        self._begun = False
        link.open(work.id)

    async def room(self) -> bool:
        return await self._link.room(self.work.id)

    @property
    def left(self) -> bool:
        """Whether nobody wants more of it."""
        return self.ended or self._link.cancelled(self.work.id)

    def item(self, value: Any) -> None:
        if self._framing is None:
            self._framing = self._framed(value)
        self._send(self._framing.item(value))

    def _framed(self, first: Any) -> Framing:
        if self._spec is not None and self._spec.streams is True:
            return self._spec.framing(self.work.parsed)
        return ItemFraming(first, self.work.sse, self._media_type)

    def _send(self, body: Buffer) -> None:
        """Sends a part, and the head before the first."""
        if not body:
            return
        if not self._begun:
            self._begun = True
            assert self._framing is not None
            self._link.send(("head", self.work.id, self._framing.content_type))
        blobs: list[Buffer] = []
        self._link.charge(self.work.id, len(body))
        self._link.send(("item", self.work.id, place(body, blobs)), blobs)

    def end(self, problem: Problem | None = None) -> None:
        """Ends it once: in order, or with `problem`, before or after its head."""
        if self.ended:
            return
        last = b""
        if problem is None:
            if self._framing is None and self._spec is not None:
                self._framing = self._framed(None)
            if self._framing is not None:
                self._send(self._framing.finish())
        elif self._begun and self._framing is not None:
            last = self._framing.error(problem)
        self.ended = True
        blobs: list[Buffer] = []
        packed = None if problem is None else pack_reply(problem, blobs)
        self._link.send(("end", self.work.id, packed, last))
        self._link.close(self.work.id)


class Streams:
    """Runs the hooks of streaming models."""

    def __init__(self, pipeline: Pipeline, blame: Blame, media_type: str | None) -> None:
        self._pipeline = pipeline
        self._hooks = pipeline.hooks
        self._blame = blame
        self._media_type = media_type

    async def run(self, works: Sequence[Work], link: Link) -> None:
        """Streams every one of `works` to its end."""
        spec = self._pipeline.spec
        senders = {work.id: Sender(work, link, self._media_type, spec) for work in works}
        good = await self._pipeline.decode(works)
        for work in works:
            if isinstance(work.reply, Problem):
                senders[work.id].end(work.reply)
        group = [senders[work.id] for work in good]
        if self._hooks.max_batch_size > 1:
            await self._run_group(group)
        else:
            for sender in group:
                await self._run_one(sender)

    async def _run_one(self, sender: Sender) -> None:
        work = sender.work
        source: Any = None
        try:
            output = await call(self._hooks.predict, work.value, work.context)
            source = iterate(await self._encoded(output, work.context))
            while await sender.room():
                try:
                    value = await anext(source)
                except StopAsyncIteration:
                    break
                sender.item(value)
            sender.end()
        except Exception as error:
            sender.end(self._blame.problem(error))
        finally:
            if source is not None:
                await source.aclose()
            sender.end(Problem("model_error", "the stream was ended"))

    async def _run_group(self, senders: list[Sender]) -> None:
        if not senders:
            return
        sent = False
        source: Any = None
        try:
            source = iterate(await self._started(senders))
            async for outputs in source:
                sent = self._step(senders, list(outputs)) or sent
                if all(sender.left for sender in senders):
                    break
                await self._wait_for_room(senders)
            for sender in senders:
                sender.end()
        except Exception as error:
            if len(senders) > 1 and not sent:
                for sender in senders:
                    await self._run_group([sender])
            else:
                problem = self._blame.problem(error)
                for sender in senders:
                    sender.end(problem)
        finally:
            if source is not None:
                await source.aclose()

    def _step(self, senders: list[Sender], outputs: list[Any]) -> bool:
        """One step of a batch; None in place of an item is that stream's end."""
        if len(outputs) != len(senders):
            raise CountError(f"{len(outputs)} items came for {len(senders)} streams")
        for sender, value in zip(senders, outputs, strict=True):
            if sender.left:
                continue
            if value is None:
                sender.end()
                continue
            try:
                sender.item(value)
            except Exception as error:
                sender.end(self._blame.problem(error))
        return True

    async def _wait_for_room(self, senders: list[Sender]) -> None:
        """The slowest client of a batch sets its pace."""
        for sender in senders:
            if not sender.left:
                await sender.room()

    async def _started(self, senders: list[Sender]) -> Any:
        hooks = self._hooks
        contexts = [sender.work.context for sender in senders]
        batch: Any = [sender.work.value for sender in senders]
        batch = stack(batch) if hooks.batch is None else await call(hooks.batch, batch, contexts)
        output = await call(hooks.predict, batch, contexts)
        if hooks.unbatch is not None:
            output = await call(hooks.unbatch, output, contexts)
        return await self._encoded(output, contexts)

    async def _encoded(self, output: Any, context: Any) -> Any:
        encode = self._hooks.encode
        if encode is None:
            return output
        if encode.is_generator:
            return encode(iterate(output) if encode.is_async else output, context)
        return _each(encode, output, context)


async def _each(encode: Any, output: Any, context: Any) -> AsyncIterator[Any]:
    """A plain `encode_response` of a streaming model encodes item by item."""
    async for value in iterate(output):
        yield await call(encode, value, context)


async def iterate(source: Any) -> AsyncIterator[Any]:
    """The items of a generator of either kind, of an iterable, or the one value it is.

    Closing it closes the generator, so that its `finally` blocks run when a client leaves.
    """
    if inspect.isasyncgen(source) or hasattr(source, "__aiter__"):
        try:
            async for value in source:
                yield value
        finally:
            if hasattr(source, "aclose"):
                await source.aclose()
    elif isinstance(source, (str, bytes, dict)) or not hasattr(source, "__iter__"):
        yield source
    else:
        iterator = iter(source)
        try:
            for value in iterator:
                yield value
        finally:
            if hasattr(iterator, "close"):
                iterator.close()
