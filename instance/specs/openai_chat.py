"""OpenAI's chat completions: what does a request hold, and how is it answered?

`predict` (or `encode_response`) yields text, or messages as dicts or pydantic models, which
may carry `tool_calls` and token counts. Whether they go out as events or as one answer is
the client's choice with `stream`.
"""

import time
import uuid
from typing import Any, Literal

from pydantic import BaseModel

from instance.model.codec import Parse, UnencodableError, encode_json
from instance.requests import Request
from instance.specs.chat_request import ChatRequest, request_type

COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")
DONE = b"data: [DONE]\n\n"
# What LitServe's answers hold in any case, and its clients may look for.
MESSAGE = {"role": None, "content": None, "name": None, "tool_calls": None, "tool_call_id": None}
# One of these makes a dict a message.
PARTS = {
    "role", "content", "tool_calls", "refusal", "reasoning_content", "finish_reason", "usage",
    *COUNTS,
}  # fmt: skip
# What of a message is its own; text by any other name is put together from all pieces.
OWN = {*MESSAGE, "finish_reason"}


class Chat:
    """The spec around a chat model."""

    name = "openai-chat"
    path = "/v1/chat/completions"
    wants_headers = False
    streams: Literal[True] = True
    answer_type: Any = dict[str, Any]

    def __init__(self, of_litserve: bool = False) -> None:
        self.request_type: Any = request_type(of_litserve)
        self._of_litserve = of_litserve

    def read(self, request: Request, parse: Parse) -> Any:
        return parse(request)

    def decoded(self, request: ChatRequest) -> ChatRequest:
        return request

    def context(self, request: ChatRequest) -> dict[str, Any]:
        return request.model_dump(exclude={"messages"})

    def choices(self, request: ChatRequest) -> int:
        return request.n or 1

    def framing(self, request: ChatRequest) -> "Events | Whole":
        return (Events if request.stream else Whole)(request, self._of_litserve)


def tokens(value: Any, name: str) -> int:
    """The count of tokens that a model gives as `name`, 0 for None; UnencodableError for what is
    no number."""
    plain = value.tolist() if hasattr(value, "tolist") else value
    try:
        return int(plain or 0)
    except (TypeError, ValueError, OverflowError):
        raise UnencodableError(
            f"{name} of a model's answer must be a number, not {plain!r:.50}"
        ) from None


def _usage_of(message: dict[str, Any]) -> dict[str, Any]:
    """The token counts that a message has as its `usage`, which is taken from it: so OpenAI's
    answers have them. UnencodableError where it holds none."""
    usage = message.pop("usage", None)
    if isinstance(usage, BaseModel):
        usage = usage.model_dump()
    if usage is not None and not isinstance(usage, dict):
        kind = type(usage).__name__
        raise UnencodableError(f"the usage of a chat model's message must be a dict, not {kind}")
    return usage or {}


class _Choice:
    """What has come of one of the answers that were asked for."""

    __slots__ = ("begun", "calls", "more", "reason", "texts", "usage")

    def __init__(self) -> None:
        self.begun = False
        self.texts: list[str] = []
        self.calls: dict[int, dict[str, Any]] = {}
        self.more: dict[str, Any] = {}
        self.reason: str | None = None
        self.usage = dict.fromkeys(COUNTS, 0)

    def message(self, value: Any) -> dict[str, Any]:
        """`value` as a message; its token counts are added up, its reason to end is kept."""
        if isinstance(value, BaseModel):
            value = value.model_dump(exclude_none=True)
        if isinstance(value, list) and value and isinstance(value[-1], dict):
            value = value[-1]
        if value is None or isinstance(value, str):
            return {"content": value}
        if not isinstance(value, dict) or not PARTS & set(value):
            kind = type(value).__name__
            raise UnencodableError(f"a chat model must give text or messages, not {kind}")
        message = dict(value)
        content = message.get("content")
        if content is not None and not isinstance(content, str):
            kind = type(content).__name__
            raise UnencodableError(
                f"the content of a chat model's message must be text, not {kind}"
            )
        counted = _usage_of(message)
        for count in COUNTS:
            self.usage[count] += tokens(counted.get(count), f"{count} of usage")
            self.usage[count] += tokens(message.pop(count, 0), count)
        self.reason = message.pop("finish_reason", None) or self.reason
        return message

    def add(self, name: str, value: Any) -> None:
        """Keeps what a message holds besides: text such as `reasoning_content` comes in pieces."""
        known = self.more.get(name)
        if isinstance(known, str) and isinstance(value, str):
            self.more[name] = known + value
        elif known is None or value is not None:
            self.more[name] = value

    def called(self, calls: list[Any]) -> list[dict[str, Any]]:
        """`calls` with the place that each has among all of this answer; those are kept. One
        that names a place that is taken is the next piece of the call there."""
        placed = []
        if not isinstance(calls, (list, tuple)):
            kind = type(calls).__name__
            raise UnencodableError(f"the tool_calls of a message must be a list, not {kind}")
        for one in calls:
            call = _call_of(one)
            index = call.pop("index", None)
            if index is None:
                index = len(self.calls)
            placed.append({"index": index, **call})
            known = self.calls.setdefault(index, {})
            function = {**known.get("function", {}), **(call.get("function") or {})}
            if known:
                before = known.get("function", {}).get("arguments") or ""
                more = (call.get("function") or {}).get("arguments") or ""
                function["arguments"] = before + more
            known.update(call, function=function)
        return placed

    @property
    def finish_reason(self) -> str:
        return self.reason or ("tool_calls" if self.calls else "stop")


def _call_of(one: Any) -> dict[str, Any]:
    """A call of a tool, or a piece of one, as a dict of its own; UnencodableError where it is none
    that a client can read."""
    call = one.model_dump(exclude_none=True) if isinstance(one, BaseModel) else one
    function = call.get("function") if isinstance(call, dict) else call
    if function is not None and not isinstance(function, dict):
        kind = type(function).__name__
        raise UnencodableError(f"a tool call and its function must be dicts, not {kind}")
    arguments = (function or {}).get("arguments")
    if arguments is not None and not isinstance(arguments, str):
        kind = type(arguments).__name__
        raise UnencodableError(f"the arguments of a tool call must be JSON in text, not {kind}")
    return dict(call)


class _Completion:
    """What both kinds of answer share."""

    def __init__(self, request: ChatRequest, of_litserve: bool = False) -> None:
        self._empty: dict[str, Any] = MESSAGE if of_litserve else {}
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = request.model or ""
        self.choices = [_Choice() for _ in range(request.n or 1)]

    def used(self) -> dict[str, int]:
        """Tokens of all choices; the prompt, which they share, counts once."""
        used = [choice.usage for choice in self.choices]
        prompt = max(one["prompt_tokens"] for one in used)
        completion = sum(one["completion_tokens"] for one in used)
        total = prompt + completion
        if len(used) == 1 or not total:
            total = sum(one["total_tokens"] for one in used) or total
        return dict(zip(COUNTS, (prompt, completion, total), strict=True))


class Events(_Completion):
    """A completion as server-sent events, ended by `[DONE]`."""

    content_type = "text/event-stream"

    def __init__(self, request: ChatRequest, of_litserve: bool = False) -> None:
        """`of_litserve`: who did not ask for token counts finds them in the last chunk."""
        super().__init__(request, of_litserve)
        options = request.stream_options
        self._with_usage = options is not None and options.include_usage
        self._usage_last = of_litserve and not self._with_usage

    def item(self, value: Any, choice: int = 0) -> bytes:
        """The next chunk of a choice as an event."""
        of = self.choices[choice]
        delta = of.message(value)
        if of.begun and not self._empty:
            delta.pop("role", None)
        else:
            delta = {**self._empty, "role": "assistant", **delta}
            of.begun = True
        if calls := delta.get("tool_calls"):
            delta["tool_calls"] = of.called(calls)
        return self._chunk([self._part(choice, delta, None)])

    def finish(self) -> bytes:
        """The last events: why each choice ended, the usage where it was asked for, and [DONE]."""
        ends = [
            self._part(i, self._empty, choice.finish_reason)
            for i, choice in enumerate(self.choices)
        ]
        if self._usage_last:
            return self._chunk(ends, self.used()) + DONE
        last = b"".join(self._chunk([end]) for end in ends)
        usage = self._chunk([], self.used()) if self._with_usage else b""
        return last + usage + DONE

    def _part(self, index: int, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        more = {"logprobs": None} if self._empty else {}
        return {"index": index, "delta": delta, "finish_reason": reason, **more}

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
        chunk: dict[str, Any] = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
        if self._empty:
            chunk["system_fingerprint"] = None
        if self._with_usage or self._empty or usage is not None:
            chunk["usage"] = usage
        return b"data: " + encode_json(chunk) + b"\n\n"


class Whole(_Completion):
    """A completion as one JSON answer, sent when the model has finished."""

    content_type = "application/json"

    def __init__(self, request: ChatRequest, of_litserve: bool = False) -> None:
        """`of_litserve`: calls of tools say their place in one piece too."""
        super().__init__(request, of_litserve)
        self._with_index = of_litserve

    def item(self, value: Any, choice: int = 0) -> bytes:
        of = self.choices[choice]
        message = of.message(value)
        content = message.get("content")
        if content is not None:
            of.texts.append(content)
        of.called(message.get("tool_calls") or [])
        for name in message.keys() - OWN:
            of.add(name, message[name])
        return b""

    def finish(self) -> bytes:
        """The whole completion, of all that was collected."""
        choices = []
        for index, of in enumerate(self.choices):
            message = {**self._empty, "role": "assistant", "content": "".join(of.texts)}
            message |= of.more
            if of.calls:
                message["content"] = message["content"] if of.texts else None
                message["tool_calls"] = [
                    {"index": at, **call} if self._with_index else call
                    for at, call in of.calls.items()
                ]
            choices.append({"index": index, "message": message, "finish_reason": of.finish_reason})
        return encode_json(
            {
                "id": self.id,
                "object": "chat.completion",
                "created": self.created,
                "model": self.model,
                "choices": choices,
                "usage": self.used(),
            }
        )
