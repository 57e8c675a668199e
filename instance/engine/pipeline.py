"""In which order do the hooks of a batch run, and who suffers when one fails?

Decode one by one, batch, predict, unbatch, encode one by one. A request that cannot be
decoded never enters the batch; when a batch fails, each of its items runs alone, so that
only the bad one fails. Written as coroutines; where no hook is async they never suspend,
and the worker drives them without an event loop.
"""

import inspect
import time
from collections.abc import Sequence
from typing import Any

from instance.core.errors import Problem
from instance.engine.hooks import Hook, Hooks, shape_of, stack
from instance.engine.replies import Answer, Blame, Reply
from instance.requests import Context, Request
from instance.specs import Spec
from instance.surface.codec import Parse, UnencodableError, encode_json

EXPIRED = Problem("deadline", "the deadline passed before the model could run")


class Work:
    """One request on its way through the hooks."""

    __slots__ = ("context", "id", "parsed", "reply", "request", "sse", "value")

    def __init__(self, id: int, request: Request, sse: bool) -> None:
        self.id = id
        self.request = request
        self.sse = sse
        self.context = Context(request)
        self.parsed: Any = None  # the validated request, where a spec wants to see it again
        self.value: Any = None
        self.reply: Reply | None = None


class CountError(Exception):
    """predict or unbatch gave another number of outputs than there were inputs."""


async def call(hook: Hook, value: Any, context: Any) -> Any:
    """The hook's result, awaited if it must be."""
    result = hook(value, context)
    if inspect.iscoroutine(result):
        return await result
    return result


class Pipeline:
    """The hooks of one model, ready to run batches."""

    def __init__(
        self,
        hooks: Hooks,
        parse: Parse,
        blame: Blame,
        media_type: str | None,
        spec: Spec | None = None,
    ) -> None:
        self.hooks = hooks
        self.spec = spec
        self._parse = parse
        self._blame = blame
        self._media_type = media_type

    async def decode(self, works: Sequence[Work]) -> list[Work]:
        """Those that may be computed; the others have their reply."""
        good = []
        now = time.monotonic()
        decode = self.hooks.decode
        for work in works:
            if work.request.deadline <= now:
                work.reply = EXPIRED
                continue
            try:
                value = self._parse(work.request)
                if self.spec is not None:
                    work.parsed = value
                    work.context.update(self.spec.context(value))
                if decode is not None:
                    value = await call(decode, value, work.context)
                elif self.spec is not None:
                    value = self.spec.decoded(value)
            except Exception as error:
                work.reply = self._blame.problem(error)
                continue
            work.value = value
            good.append(work)
        return good

    async def answer(self, works: Sequence[Work]) -> list[Reply]:
        """The replies of `works`, in their order."""
        good = await self.decode(works)
        if self.hooks.max_batch_size > 1:
            for group in self._alike(good):
                await self._answer_group(group)
        else:
            for work in good:
                await self._answer_one(work)
        return [work.reply or _lost() for work in works]

    def _alike(self, works: list[Work]) -> list[list[Work]]:
        """`works` in groups that the default `batch` can stack."""
        if self.hooks.batch is not None or len(works) < 2 or shape_of(works[0].value) is None:
            return [works] if works else []
        groups: dict[Any, list[Work]] = {}
        for work in works:
            groups.setdefault(shape_of(work.value), []).append(work)
        return list(groups.values())

    async def _answer_one(self, work: Work) -> None:
        try:
            output = await call(self.hooks.predict, work.value, work.context)
            work.reply = await self._encode(output, work)
        except Exception as error:
            work.reply = self._blame.problem(error)

    async def _answer_group(self, works: list[Work]) -> None:
        try:
            outputs = await self._predict_batch(works)
        except Exception as error:
            if len(works) == 1:
                works[0].reply = self._blame.problem(error)
                return
            for work in works:
                await self._answer_group([work])
            return
        for work, output in zip(works, outputs, strict=True):
            try:
                work.reply = await self._encode(output, work)
            except Exception as error:
                work.reply = self._blame.problem(error)

    async def _predict_batch(self, works: list[Work]) -> Sequence[Any]:
        hooks = self.hooks
        contexts = [work.context for work in works]
        batch: Any = [work.value for work in works]
        batch = stack(batch) if hooks.batch is None else await call(hooks.batch, batch, contexts)
        output = await call(hooks.predict, batch, contexts)
        if hooks.unbatch is not None:
            outputs = list(await call(hooks.unbatch, output, contexts))
        else:
            outputs = unbatch(output)
        if len(outputs) != len(works):
            raise CountError(f"{len(outputs)} outputs came for a batch of {len(works)} inputs")
        return outputs

    async def _encode(self, output: Any, work: Work) -> Reply:
        if self.hooks.encode is not None:
            output = await call(self.hooks.encode, output, work.context)
        if self.spec is not None and self.spec.streams is False:
            output = self.spec.answer(output, work.parsed)
        return answer_of(output, self._media_type)


def unbatch(output: Any) -> list[Any]:
    """The default: the items of a list-like output."""
    if isinstance(output, (str, bytes, dict, set)):
        raise CountError(f"predict gave one {type(output).__name__}, not a list of outputs")
    return list(output)


def answer_of(value: Any, media_type: str | None) -> Answer:
    """`value` as an answer: bytes as they are, responses as they say, the rest as JSON."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Answer(value, media_type or "application/octet-stream")
    if isinstance(value, str) and media_type is not None and media_type != "application/json":
        return Answer(value.encode(), media_type)
    status = getattr(value, "status_code", None)
    if isinstance(status, int) and hasattr(value, "body"):
        return _response(value, status)
    return Answer(encode_json(value), media_type or "application/json")


def _response(value: Any, status: int) -> Answer:
    if not 200 <= status <= 599:
        raise UnencodableError(f"the model's answer has the impossible status {status}")
    inner = answer_of(value.body, getattr(value, "media_type", None))
    headers: list[tuple[str, str]] = []
    content_type = inner.content_type
    for name, header in dict(getattr(value, "headers", None) or {}).items():
        if name.lower() == "content-type":
            content_type = str(header)
        else:
            headers.append((str(name), str(header)))
    return Answer(inner.body, content_type, status, headers)


def _lost() -> Problem:
    return Problem("model_error", "the model gave no answer to this request")
