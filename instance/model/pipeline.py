"""The hooks of a batch: in which order they run, and who suffers when one fails.

Decode one by one, batch, predict, unbatch, encode one by one. A request that cannot be
decoded never enters the batch; when a batch fails, each of its items runs alone, so that
only the bad one fails. Written as coroutines; where no hook is async they never suspend,
and the worker drives them without an event loop.
"""

import time
from collections.abc import Coroutine, Sequence
from contextlib import AbstractContextManager, nullcontext
from os import PathLike
from pathlib import Path
from types import CoroutineType
from typing import Any, TypeVar

from instance.core.errors import Problem
from instance.model.blame import Blame, CountError, plain_text, raise_if_cancelled
from instance.model.codec import Parse, UnencodableError, encode_json
from instance.model.hooks import Hook, Hooks
from instance.model.shaping import Shape
from instance.model.stacking import shape_of, stack
from instance.requests import Context, Headers, Request
from instance.specs import Spec
from instance.wire.frames import Body, flat, found
from instance.wire.marks import BEGUN, Marks
from instance.wire.messages import BatchMessage
from instance.wire.replies import Answer, Reply

T = TypeVar("T")
EXPIRED = Problem("deadline", "the deadline passed before the model could run")
LOST = Problem("model_error", "the model gave no answer to this request")
UNMADE: Any = object()  # in place of a batch that is still to be made


class Work:
    """One request on its way through the hooks."""

    __slots__ = ("context", "id", "parsed", "reply", "request", "request_id", "sse", "value")

    def __init__(self, id: int, request: Request, sse: bool, request_id: str = "") -> None:
        self.id = id
        self.request_id = request_id  # as its client knows it
        self.request = request
        self.sse = sse
        self.context = Context(request)
        self.parsed: Any = None  # the validated request, where a spec wants to see it again
        self.value: Any = None
        self.reply: Reply | None = None


def works_of(message: BatchMessage, blobs: list[Body]) -> list[Work]:
    """The requests of a batch."""
    works = []
    for job, content_type, body, deadline, sse, meta, request_id in message[2]:
        request = Request(
            body=found(body, blobs),  # type: ignore[arg-type]
            content_type=content_type,
            deadline=deadline,
        )
        if meta is not None:
            request.method, request.path, request.query = meta[0], meta[1], meta[2]
            request.headers = Headers(meta[3])
        works.append(Work(job, request, sse, request_id))
    return works


async def call(hook: Hook, value: Any, context: Any) -> Any:
    """The hook's result, awaited if it must be."""
    result = hook(value, context)
    return await result if isinstance(result, CoroutineType) else result


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine that never suspends, which costs no event loop; a hook that does, and
    is no `async def`, fails at that point."""
    try:
        coroutine.send(None)
        while True:
            coroutine.throw(RuntimeError("a hook waits for something but is no `async def`"))
    except StopIteration as stop:
        value: T = stop.value
        return value


class Pipeline:
    """The hooks of one model, ready to run batches."""

    def __init__(
        self,
        hooks: Hooks,
        parse: Parse,
        blame: Blame,
        media_type: str | None,
        spec: Spec | None = None,
        shape: Shape | None = None,
    ) -> None:
        self.hooks = hooks
        self.spec = spec
        self._shape = shape
        self._parse = parse
        self._blame = blame
        self._media_type = media_type
        self.marks: Marks = [0, 0]  # nobody else sees these
        # Around every hook but predict, where a second thread runs hooks too.
        self.hook_lock: AbstractContextManager[Any] = nullcontext()

    async def decode(self, works: Sequence[Work]) -> list[Work]:
        """The requests that may be computed; the others have their reply."""
        for work in works:
            self.marks[BEGUN] = work.id
            if (rest := self.decode_one(work)) is not None:
                await rest
        return [work for work in works if work.reply is None]

    def decode_one(self, work: Work) -> Coroutine[Any, Any, None] | None:
        """Gives `work` its value, or its reply when it has none; what is left to wait for, where
        the hook is async."""
        if work.request.deadline <= time.monotonic():
            work.reply = EXPIRED
            return None
        try:
            if self.spec is None:
                value = self._parse(work.request)
            else:
                value = work.parsed = self.spec.read(work.request, self._parse)
                work.context.update(self.spec.context(value))
            if (hook := self.hooks.decode) is not None:
                value = hook(value, work.context)
                if isinstance(value, CoroutineType):
                    return self._decode_later(work, value)
            elif self.spec is not None:
                value = self.spec.decoded(value)
        except BaseException as error:
            work.reply = self._blame.problem(error, "decode_request", [work])
            return None
        work.value = value
        return None

    async def _decode_later(self, work: Work, value: Coroutine[Any, Any, Any]) -> None:
        try:
            work.value = await value
        except BaseException as error:
            work.reply = self._blame.problem(error, "decode_request", [work])

    async def answer(self, works: Sequence[Work]) -> list[Reply]:
        """The replies of `works`, in their order. Without batches each is done with before the
        next is begun."""
        if self.hooks.max_batch_size == 1:
            for work in works:
                self.marks[BEGUN] = work.id
                if (rest := self.decode_one(work)) is not None:
                    await rest
                if work.reply is None:
                    await self._answer_one(work)
        else:
            for group in self.groups(await self.decode(works)):
                await self.compute(group)
        return [work.reply or LOST for work in works]

    async def compute(self, works: list[Work], batch: Any = UNMADE) -> None:
        """Gives each of a group its reply; `batch` is what `batched` made of the group."""
        if self.hooks.max_batch_size > 1:
            await self._answer_group(works, batch)
        else:
            for work in works:
                self.marks[BEGUN] = work.id
                await self._answer_one(work)

    async def batched(self, works: list[Work]) -> Any:
        """What `predict` gets for a group; UNMADE for models without batches."""
        if self.hooks.max_batch_size == 1:
            return UNMADE
        inputs = [work.value for work in works]
        if self.hooks.batch is None:
            return stack(inputs)
        return await call(self.hooks.batch, inputs, [work.context for work in works])

    def groups(self, works: list[Work]) -> list[list[Work]]:
        """`works` in groups that can be computed together: the default `batch` stacks only
        what is of one shape."""
        alone = self.hooks.batch is not None or self.hooks.max_batch_size == 1
        if alone or len(works) < 2 or shape_of(works[0].value) is None:
            return [works] if works else []
        groups: dict[Any, list[Work]] = {}
        for work in works:
            groups.setdefault(shape_of(work.value), []).append(work)
        return list(groups.values())

    async def _answer_one(self, work: Work) -> None:
        try:
            output = self.hooks.predict(work.value, work.context)
            if isinstance(output, CoroutineType):
                output = await output
        except BaseException as error:
            work.reply = self._blame.problem(error, "predict", [work])
            return
        with self.hook_lock:
            if (rest := self._encode(output, work)) is not None:
                await rest

    async def _answer_group(self, works: list[Work], batch: Any) -> None:
        try:
            outputs = await self._predict_batch(works, batch)
        except BaseException as error:
            raise_if_cancelled(error)
            if len(works) == 1:
                works[0].reply = self._blame.problem(error, "predict", works)
                return
            self._blame.batch(error, "predict", works)
            for work in works:
                await self._answer_group([work], UNMADE)
            return
        with self.hook_lock:
            for work, output in zip(works, outputs, strict=True):
                if (rest := self._encode(output, work)) is not None:
                    await rest

    async def _predict_batch(self, works: list[Work], batch: Any) -> Sequence[Any]:
        hooks = self.hooks
        contexts = [work.context for work in works]
        if batch is UNMADE:
            with self.hook_lock:
                batch = await self.batched(works)
        output = await call(hooks.predict, batch, contexts)
        if hooks.unbatch is not None:
            with self.hook_lock:
                outputs = list(await call(hooks.unbatch, output, contexts))
        else:
            outputs = unbatch(output)
        if len(outputs) != len(works):
            raise CountError(f"{len(outputs)} outputs came for a batch of {len(works)} inputs")
        return outputs

    def _encode(self, output: Any, work: Work) -> Coroutine[Any, Any, None] | None:
        """Gives `work` its reply; what is left to wait for, where the hook is async."""
        try:
            if (hook := self.hooks.encode) is not None:
                output = hook(output, work.context)
                if isinstance(output, CoroutineType):
                    return self._encode_later(work, output)
            work.reply = self._answer(output, work)
        except BaseException as error:
            work.reply = self._blame.problem(error, "encode_response", [work])
        return None

    async def _encode_later(self, work: Work, output: Coroutine[Any, Any, Any]) -> None:
        try:
            work.reply = self._answer(await output, work)
        except BaseException as error:
            work.reply = self._blame.problem(error, "encode_response", [work])

    def _answer(self, output: Any, work: Work) -> Reply:
        if self.spec is not None and self.spec.streams is False:
            output = self.spec.answer(output, work.parsed, work.context)
        return answer_of(output, self._media_type, self._shape)


def unbatch(output: Any) -> list[Any]:
    """The default: the items of a list-like output."""
    if isinstance(output, (str, bytes, dict, set)):
        raise CountError(f"predict gave one {type(output).__name__}, not a list of outputs")
    return list(output)


def answer_of(value: Any, media_type: str | None, shape: Shape | None = None) -> Answer:
    """`value` as an answer: bytes as they are, responses as they say, the rest as JSON, in the
    `shape` that was promised if any."""
    if shape is not None and not isinstance(getattr(value, "status_code", None), int):
        return Answer(shape(value), media_type or "application/json")
    if type(value) is dict:  # most are, and need not be asked what else they could be
        return Answer(encode_json(value), media_type or "application/json")
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Answer(flat(value), media_type or "application/octet-stream")
    if isinstance(value, str) and media_type is not None and media_type != "application/json":
        return Answer(value.encode(), media_type)
    status = getattr(value, "status_code", None)
    if isinstance(status, int):
        return _response(value, status)
    return Answer(encode_json(value), media_type or "application/json")


def _response(value: Any, status: int) -> Answer:
    if not 200 <= status <= 599:
        raise UnencodableError(f"the model's answer has the impossible status {status}")
    media_type = getattr(value, "media_type", None)
    inner = answer_of(_body_of(value), media_type and plain_text(media_type))
    headers: list[tuple[str, str]] = []
    content_type = inner.content_type
    if media_type is None and _is_starlettes(value):
        content_type = ""  # as a redirect has none; where one was asked for it is in the headers
    # Starlette's headers give a repeated one, such as Set-Cookie, as often as it is there.
    for name, header in (getattr(value, "headers", None) or {}).items():
        if name.lower() == "content-type":
            content_type = plain_text(str(header))
        else:
            headers.append((plain_text(str(name)), plain_text(str(header))))
    return Answer(inner.body, content_type, int(status), headers)


def _is_starlettes(response: Any) -> bool:
    bases = type(response).__mro__
    return any(base.__module__.partition(".")[0] == "starlette" for base in bases)


def _body_of(response: Any) -> Any:
    """The body of a response, read if it is a file's; a stream of its own cannot be sent."""
    if hasattr(response, "body"):
        return response.body
    if isinstance(path := getattr(response, "path", None), str | PathLike):
        return Path(path).read_bytes()
    kind = type(response).__name__
    raise UnencodableError(f"a {kind} has no body; to stream, say stream = True and yield items")
