"""Streams: from a generator to the HTTP process, item by item.

The generator is asked for the next item only when its client has room for it, and closed as
soon as the client leaves. Its first item decides how the items are framed.
"""

import inspect
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from instance.core.errors import Problem
from instance.model.blame import Blame, CountError, raise_if_cancelled
from instance.model.framing import ItemFraming
from instance.model.pipeline import Pipeline, Work, call
from instance.specs import Framing, Spec
from instance.wire.frames import Body, Buffer, place
from instance.wire.links import Link
from instance.wire.replies import pack_reply

SIGN_S = 0.1


class Sender:
    """The way of one stream to its client."""

    def __init__(
        self, work: Work, link: Link, media_type: str | None, spec: Spec | None = None
    ) -> None:
        self.work = work
        self.ended = False
        self.choices = 1  # that are still to end
        self._link = link
        self._media_type = media_type
        self._spec = spec
        self._framing: Framing | None = None
        self._begun = False
        self._signed = 0.0  # when the HTTP process was told of an item that it does not get
        link.open(work.id)

    async def room(self) -> bool:
        return await self._link.room(self.work.id)

    @property
    def left(self) -> bool:
        """Whether nobody wants more of it."""
        return self.ended or self._link.cancelled(self.work.id)

    def item(self, value: Any, choice: int) -> None:
        if self._framing is None:
            self._framing = self._framed(value)
        body = self._framing.item(value, choice)
        if not body:  # kept for an answer in one piece: nobody else can tell that it goes on
            self._give_sign()
        self._send(body)

    def _give_sign(self) -> None:
        now = time.monotonic()
        if now - self._signed >= SIGN_S:
            self._signed = now
            self._link.send(("sign", self.work.id))

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
        blobs: list[Body] = []
        self._link.charge(self.work.id, len(body))
        self._link.send(("item", self.work.id, place(body, blobs)), blobs)

    def end(self, problem: Problem | None = None) -> None:
        """Ends it once: in order, or with `problem`, before or after its head."""
        if self.ended:
            return
        if problem is None:
            if self._framing is None and self._spec is not None:
                self._framing = self._framed(None)
            if self._framing is not None:
                self._send(self._framing.finish())
        self.ended = True
        blobs: list[Body] = []
        packed = None if problem is None else pack_reply(problem, blobs)
        self._link.send(("end", self.work.id, packed))
        self._link.close(self.work.id)


class Lane:
    """One of the answers that a request asked for; few ask for more than one."""

    __slots__ = ("choice", "ended", "sender", "work")

    def __init__(self, sender: Sender, work: Work, choice: int) -> None:
        self.sender = sender
        self.work = work
        self.choice = choice
        self.ended = False

    @property
    def left(self) -> bool:
        """Whether nobody wants more of it."""
        return self.ended or self.sender.left

    def item(self, value: Any) -> None:
        self.sender.item(value, self.choice)

    def end(self, problem: Problem | None = None) -> None:
        """Ends it once. With a problem the whole stream ends, in order when all have. What its
        framing says last may be what the model gave, and raise: then it has not ended."""
        if self.ended:
            return
        if problem is not None or self.sender.choices == 1:
            self.sender.end(problem)
        self.ended = True
        self.sender.choices -= 1


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
        lanes = [lane for work in good for lane in await self._lanes(senders[work.id], work)]
        size = self._hooks.max_batch_size
        if size > 1:
            for at in range(0, len(lanes), size):
                await self._run_group(lanes[at : at + size])
        else:
            for lane in lanes:
                await self._run_one(lane)

    async def _lanes(self, sender: Sender, work: Work) -> list[Lane]:
        """One lane for each choice; each has its own input, so that none sees what `predict`
        did to another's."""
        lanes = [Lane(sender, work, 0)]
        spec = self._pipeline.spec
        if spec is not None and spec.streams is True:
            for choice in range(1, spec.choices(work.parsed)):
                again = Work(work.id, work.request, work.sse, work.request_id)
                if (rest := self._pipeline.decode_one(again)) is not None:
                    await rest
                if isinstance(again.reply, Problem):
                    sender.end(again.reply)
                    return []
                lanes.append(Lane(sender, again, choice))
            for lane in lanes:
                lane.work.context["choice"] = lane.choice
        sender.choices = len(lanes)
        return lanes

    async def _run_one(self, lane: Lane) -> None:
        if lane.left:
            lane.end()
            return
        work = lane.work
        source: Any = None
        try:
            output = await call(self._hooks.predict, work.value, work.context)
            source = iterate(await self._encoded(output, work.context))
            while await lane.sender.room():
                try:
                    value = await anext(source)
                except StopAsyncIteration:
                    break
                lane.item(value)
            lane.end()
        except BaseException as error:
            lane.end(self._blame.problem(error, "predict", [work]))
        finally:
            await self._close(source, [lane])
            lane.end(Problem("model_error", "the stream was ended"))

    async def _run_group(self, lanes: list[Lane]) -> None:
        lanes = [lane for lane in lanes if not lane.left]
        if not lanes:
            return
        sent = False
        source: Any = None
        try:
            source = iterate(await self._started(lanes))
            async for outputs in source:
                sent = self._step(lanes, list(outputs)) or sent
                if all(lane.left for lane in lanes):
                    break
                await self._wait_for_room(lanes)
            for lane in lanes:
                self._finish(lane)
        except BaseException as error:
            raise_if_cancelled(error)
            if len(lanes) > 1 and not sent:
                self._blame.batch(error, "predict", [lane.work for lane in lanes])
                for lane in lanes:
                    await self._run_group([lane])
            else:
                problem = self._blame.problem(error, "predict", [lane.work for lane in lanes])
                for lane in lanes:
                    lane.end(problem)
        finally:
            await self._close(source, lanes)

    async def _close(self, source: Any, lanes: list[Lane]) -> None:
        """Has the generator's `finally` blocks run; what they raise is nobody's answer."""
        try:
            if source is not None:
                await source.aclose()
        except BaseException as error:
            self._blame.problem(error, "predict", [lane.work for lane in lanes])

    def _step(self, lanes: list[Lane], outputs: list[Any]) -> bool:
        """One step of a batch; None in place of an item is that stream's end."""
        if len(outputs) != len(lanes):
            raise CountError(f"{len(outputs)} items came for {len(lanes)} streams")
        for lane, value in zip(lanes, outputs, strict=True):
            if lane.left:
                continue
            if value is None:
                self._finish(lane)
                continue
            try:
                lane.item(value)
            except BaseException as error:
                lane.end(self._blame.problem(error, "encode_response", [lane.work]))
        return True

    def _finish(self, lane: Lane) -> None:
        """Ends one of a batch in order; one that cannot be ended so fails alone."""
        try:
            lane.end()
        except BaseException as error:
            lane.end(self._blame.problem(error, "encode_response", [lane.work]))

    async def _wait_for_room(self, lanes: list[Lane]) -> None:
        """The slowest client of a batch sets its pace."""
        for lane in lanes:
            if not lane.left:
                await lane.sender.room()

    async def _started(self, lanes: list[Lane]) -> Any:
        hooks = self._hooks
        contexts = [lane.work.context for lane in lanes]
        batch = await self._pipeline.batched([lane.work for lane in lanes])
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
