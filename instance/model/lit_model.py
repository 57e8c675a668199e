"""What does a worker hold: a model, its hooks, and the ways to run and check it."""

import inspect
import logging
from typing import Any

from pydantic import TypeAdapter

import instance.devices as devices
from instance.core.errors import Problem
from instance.model.blame import Blame, is_litserves, plain_text
from instance.model.codec import encode_json, is_json, parser_for
from instance.model.hooks import BASES, Hooks, codes_of
from instance.model.observers import Entries
from instance.model.pipeline import Pipeline, Work
from instance.model.shaping import Shape, adapter_of, shape_of
from instance.model.streams import Streams
from instance.requests import Request
from instance.specs import spec_of

log = logging.getLogger("instance")


class Model:
    """A loaded model, ready to be set up."""

    def __init__(self, api: Any, hooks: Hooks, device: str) -> None:
        self.api = api
        self.hooks = hooks
        self.device = device
        self.entries: Entries | None = None  # where `log` of the model goes
        media_type = getattr(api, "media_type", None)
        self.media_type = plain_text(str(media_type)) if media_type else None
        self.spec = spec_of(api)
        # A model inside a spec is asked in the spec's terms, whatever it says itself.
        self.request_type = self.spec.request_type if self.spec else hooks.request_type
        self.answer_type = self.spec.answer_type if self.spec else hooks.answer_type
        of_litserve = is_litserves(api)
        parse, self.request_adapter = parser_for(self.request_type, of_litserve)
        self.blame = blame = Blame(codes_of(api), of_litserve)
        self.answer_adapter = self._answer_adapter()
        self.pipeline = Pipeline(
            hooks, parse, blame, self.media_type, self.spec, self._answer_shape()
        )
        self.streams = Streams(self.pipeline, blame, self.media_type)

    def _answer_adapter(self) -> TypeAdapter[Any] | None:
        """What knows the type of answers, where one is promised that pydantic knows."""
        try:
            return adapter_of(self.answer_type)
        except ValueError as error:
            say = "answers are not checked against encode_response's annotation %r: %s"
            log.warning(say, self.answer_type, error)
            return None

    def _answer_shape(self) -> Shape | None:
        """How whole answers are held to their type; a spec shapes its own, items of a stream
        and text are nobody's."""
        json = self.media_type is None or is_json(self.media_type)
        if self.spec is not None or self.hooks.stream or self.answer_adapter is None or not json:
            return None
        return shape_of(self.answer_type, self.answer_adapter)

    def waits(self, name: str) -> bool:
        """Whether the hook `name`, called beside requests, is async."""
        return inspect.iscoroutinefunction(getattr(self.api, name, None))

    @property
    def has_health(self) -> bool:
        """Whether the model has a `health` of its own."""
        health = getattr(self.api, "health", None)
        inner = getattr(health, "__func__", health)
        return callable(health) and not getattr(inner, "__qualname__", "").startswith(BASES)

    @property
    def prepares(self) -> bool:
        """Whether the next batch is decoded while this one is computed: on CUDA, which computes
        beside the processor and takes work of two threads, unless the model says otherwise."""
        if self.hooks.is_async or self.hooks.stream:
            return False
        said = getattr(self.api, "decode_ahead", None)
        return self.device.startswith("cuda") if said is None else bool(said)

    async def check(self) -> tuple[bool, int, int]:
        """(whether `health()` says yes, bytes in use and in all of its GPU or zeros)."""
        healthy = True
        if self.has_health:
            try:
                answer = self.api.health()
                healthy = bool(await answer if inspect.isawaitable(answer) else answer)
            except BaseException as error:
                self.blame.problem(error, "health")
                healthy = False
        used, total = devices.memory(self.device) or (0, 0)
        return healthy, used, total

    async def warm_up(self) -> list[Problem]:
        """Runs the example alone, and as a full batch where there are batches; gives what
        went wrong."""
        example = getattr(self.api, "example", None)
        if example is None:
            return []
        body = example if isinstance(example, bytes) else encode_json(example)
        content_type = "application/octet-stream" if isinstance(example, bytes) else ""
        for size in sorted({1, self.hooks.max_batch_size}):
            works = [
                Work(-i, Request(body=body, content_type=content_type), False) for i in range(size)
            ]
            if self.hooks.stream:
                silent = Silent()
                await self.streams.run(works, silent)
                problems = silent.problems
            else:
                replies = await self.pipeline.answer(works)
                problems = [reply for reply in replies if isinstance(reply, Problem)]
            if problems:
                return problems
        return []


class Silent:
    """A link to nobody, for streams that only warm up."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def send(self, message: tuple[Any, ...], blobs: list[Any] | None = None) -> None:
        if message[0] == "end" and message[2] is not None:
            self.problems.append(Problem(message[2][1], message[2][2]))

    def open(self, job: int) -> None: ...

    def close(self, job: int) -> None: ...

    def charge(self, job: int, size: int) -> None: ...

    def cancelled(self, job: int) -> bool:
        return False

    async def room(self, job: int) -> bool:
        return True
