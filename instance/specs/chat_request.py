"""What does a request for a chat completion hold?

The fields and defaults of LitServe's `ChatCompletionRequest`, which a class of LitServe's gets
itself: see `request_type`. What is not named here is kept as it came.
"""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator

MAX_CHOICES = 128
Choices = Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class TextContent(_Open):
    """A part of a message that is text."""

    type: Literal["text"]
    text: str


class ImageURL(_Open):
    """Where a picture is, a data URL for one that comes along."""

    url: str
    detail: Literal["auto", "low", "high"] = "auto"


class ImageContent(_Open):
    """A part of a message that is a picture."""

    type: Literal["image_url"]
    image_url: str | ImageURL


class InputAudio(_Open):
    """Sound in base64."""

    data: str
    format: Literal["wav", "mp3"]


class AudioContent(_Open):
    """A part of a message that is sound."""

    type: Literal["input_audio"]
    input_audio: InputAudio


class OtherContent(_Open):
    """A part of a kind that is not known here."""

    type: str

    @field_validator("type")
    @classmethod
    def _is_other(cls, value: str) -> str:
        if value in ("text", "image_url", "input_audio"):
            raise ValueError("a part of this type must have what belongs to it")
        return value


class Function(_Open):
    """What a tool is called with; `parameters` is a JSON Schema."""

    name: str
    description: str | None = None
    parameters: dict[str, object] = Field(default_factory=dict)


class Tool(_Open):
    type: Literal["function"]
    function: Function


class ToolChoice(StrEnum):
    auto = "auto"
    none = "none"
    any = "any"
    required = "required"


class FunctionCall(_Open):
    name: str
    arguments: str


class ToolCall(_Open):
    """One call of a tool, as an earlier answer asked for it."""

    index: int = 0
    id: str | None = None
    type: str = "function"
    function: FunctionCall


class JSONSchema(_Open):
    name: str
    description: str | None = None
    schema_: dict[str, object] | None = Field(None, alias="schema")
    strict: bool | None = False


class ResponseFormat(_Open):
    """The form that an answer is to have."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JSONSchema | None = None


class Message(_Open):
    """One message of a conversation."""

    role: str
    content: str | list[TextContent | ImageContent | AudioContent | OtherContent] | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None

    def text(self) -> str:
        """All text of the message, its parts joined."""
        if isinstance(self.content, list):
            return "".join(getattr(part, "text", "") for part in self.content)
        return self.content or ""


class StreamOptions(_Open):
    include_usage: bool = False


class ChatRequest(_Open):
    """A request for one completion, or for `n`."""

    model: str | None = ""
    messages: list[Message] = Field(min_length=1)
    temperature: float | None = 0.7
    top_p: float | None = 1.0
    n: Choices = 1
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    presence_penalty: float | None = 0.0
    frequency_penalty: float | None = 0.0
    user: str | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | dict[str, Any] | None = ToolChoice.auto
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    metadata: dict[str, str] | None = None


def request_type(of_litserve: bool) -> Any:
    """What requests are read as: for a class of LitServe's its own request, with what clients
    send besides and the limit of choices that hold here."""
    if not of_litserve:
        return ChatRequest
    from litserve.specs.openai import ChatCompletionRequest

    name = ChatCompletionRequest.__name__
    kept = type(name, (ChatCompletionRequest,), {"model_config": ConfigDict(extra="allow")})
    return create_model(
        name, __base__=kept, n=(Choices, 1), stream_options=(StreamOptions | None, None)
    )
