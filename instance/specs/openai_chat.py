"""OpenAI's chat completions: what does a request hold, and how is it answered?

`predict` (or `encode_response`) yields text, or messages as dicts or pydantic models, which
may carry `tool_calls` and token counts. Whether they go out as events or as one answer is
the client's choice with `stream`.
"""

import time
import uuid
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from instance.core.errors import Problem
from instance.specs.openai_errors import error_of
from instance.surface.codec import UnencodableError, encode_json

COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


class Message(BaseModel):
    """One message of a conversation; what is not named here is kept as it came."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: str | list[dict[str, Any]] | None = None

    def text(self) -> str:
        """All text of the message, its parts joined."""
        if isinstance(self.content, list):
            return "".join(part.get("text", "") for part in self.content)
        return self.content or ""


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow")

    include_usage: bool = False


class ChatRequest(BaseModel):
    """A request for one completion. Further parameters are kept and found in the context."""

    model_config = ConfigDict(extra="allow")

    model: str = ""
    messages: list[Message] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = 1
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: str | list[str] | None = None


class Chat:
    """The spec around a chat model."""

    name = "openai-chat"
    path = "/v1/chat/completions"
    streams: Literal[True] = True
    request_type: Any = ChatRequest
    answer_type: Any = dict[str, Any]

    def decoded(self, request: ChatRequest) -> ChatRequest:
        return request

    def context(self, request: ChatRequest) -> dict[str, Any]:
        return request.model_dump(exclude={"messages"})

    def framing(self, request: ChatRequest) -> "Events | Whole":
        return Events(request) if request.stream else Whole(request)


class _Completion:
    """What both kinds of answer share."""

    def __init__(self, request: ChatRequest) -> None:
        self.id = f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = request.model
        self.usage = dict.fromkeys(COUNTS, 0)

    def message(self, value: Any) -> dict[str, Any]:
        """`value` as a message; its token counts are added up."""
        if isinstance(value, BaseModel):
            value = value.model_dump(exclude_none=True)
        if isinstance(value, list) and value and isinstance(value[-1], dict):
            value = value[-1]
        if value is None or isinstance(value, str):
            return {"content": value}
        if not isinstance(value, dict) or not {"content", "tool_calls"} & set(value):
            kind = type(value).__name__
            raise UnencodableError(f"a chat model must give text or messages, not {kind}")
        message = dict(value)
        for count in COUNTS:
            self.usage[count] += message.pop(count, 0) or 0
        return message

    def used(self) -> dict[str, int]:
        total = self.usage["total_tokens"]
        return {
            **self.usage,
            "total_tokens": total or self.usage["prompt_tokens"] + self.usage["completion_tokens"],
        }


class Events(_Completion):
    """A completion as server-sent events, ended by `[DONE]`."""

    content_type = "text/event-stream"

    def __init__(self, request: ChatRequest) -> None:
        super().__init__(request)
        self._first = True
        self._called = False
        options = request.stream_options
        self._with_usage = options is not None and options.include_usage

    def item(self, value: Any) -> bytes:
        delta = self.message(value)
        if self._first:
            delta = {"role": "assistant", **delta}
            self._first = False
        else:
            delta.pop("role", None)
        if delta.get("tool_calls"):
            self._called = True
            calls = delta["tool_calls"]
            delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls)]
        return self._chunk([{"index": 0, "delta": delta, "finish_reason": None}])

    def finish(self) -> bytes:
        reason = "tool_calls" if self._called else "stop"
        last = self._chunk([{"index": 0, "delta": {}, "finish_reason": reason}])
        usage = self._chunk([], usage=self.used()) if self._with_usage else b""
        return last + usage + b"data: [DONE]\n\n"

    def error(self, problem: Problem) -> bytes:
        return b"data: " + orjson.dumps({"error": error_of(problem)}) + b"\n\n"

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        chunk = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }
        return b"data: " + encode_json(chunk) + b"\n\n"


class Whole(_Completion):
    """A completion as one JSON answer, sent when the model has finished."""

    content_type = "application/json"

    def __init__(self, request: ChatRequest) -> None:
        super().__init__(request)
        self._texts: list[str] = []
        self._calls: list[Any] = []

    def item(self, value: Any) -> bytes:
        message = self.message(value)
        content = message.get("content")
        if content is not None:
            self._texts.append(content)
        self._calls += message.get("tool_calls") or []
        return b""

    def finish(self) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._texts)}
        if self._calls:
            message["tool_calls"] = self._calls
        reason = "tool_calls" if self._calls else "stop"
        return encode_json(
            {
                "id": self.id,
                "object": "chat.completion",
                "created": self.created,
                "model": self.model,
                "choices": [{"index": 0, "message": message, "finish_reason": reason}],
                "usage": self.used(),
            }
        )

    def error(self, problem: Problem) -> bytes:
        return b""
