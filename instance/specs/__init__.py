"""Ready-made shapes of requests and answers that clients of other systems speak.

A spec stands around a model's hooks: it says what a request looks like, what `predict` gets
of it where the model does not decode it itself, and how outputs become answers. A model
names one with `spec = "openai-chat"`, `"openai-embeddings"` or `"open-inference"`.
"""

from typing import Any, Literal, Protocol

from instance.model.codec import Parse
from instance.requests import Request


class Framing(Protocol):
    """How the items of one stream become bytes."""

    content_type: str

    def item(self, value: Any, choice: int = 0) -> bytes | bytearray | memoryview:
        """The bytes of one item of one choice; empty if nothing is to be sent yet."""

    def finish(self) -> bytes:
        """The bytes after the last item of a stream all of whose choices end in order."""


class _Asked(Protocol):
    """What a spec says of requests; one object serves all requests of a model."""

    name: str
    path: str  # with {name} for the model's name
    wants_headers: bool  # of requests, which are else left in the HTTP process
    request_type: Any
    answer_type: Any

    def read(self, request: Request, parse: Parse) -> Any:
        """The validated request; `parse` validates a JSON body."""

    def decoded(self, request: Any) -> Any:
        """The model's input of a validated request, if it does not decode it itself."""

    def context(self, request: Any) -> dict[str, Any]:
        """What the hooks find in their context."""


class AnsweringSpec(_Asked, Protocol):
    """Around a model that gives one output for a request."""

    streams: Literal[False]

    def answer(self, output: Any, request: Any, context: dict[str, Any]) -> Any:
        """The whole answer of an encoded output; `context` is what the hooks left there."""


class StreamingSpec(_Asked, Protocol):
    """Around a model that yields its output, whether the client takes it as a stream or not."""

    streams: Literal[True]

    def choices(self, request: Any) -> int:
        """How many answers a request asks for: the model is run once for each."""

    def framing(self, request: Any) -> Framing:
        """How the outputs become the answer."""


Spec = AnsweringSpec | StreamingSpec


def spec_of(api: Any) -> Spec | None:
    """The spec that a model names, or is served with; ValueError when there is none of that name.

    Objects are known by their class, so that a model written for LitServe's specs runs.
    """
    named = getattr(api, "served_spec", None) or getattr(api, "spec", None)
    if named is None:
        return None
    name = named if isinstance(named, str) else type(named).__name__
    if name in ("openai-chat", "OpenAISpec"):
        from instance.specs.openai_chat import Chat

        return Chat(_is_litserves(api, named))
    if name in ("openai-embeddings", "OpenAIEmbeddingSpec"):
        from instance.specs.openai_embeddings import Embeddings

        size = getattr(api, "max_batch_size", 1) or 1
        return Embeddings(_is_litserves(api, named), size, named)
    if name == "open-inference":
        from instance.specs.open_inference import OpenInference

        return OpenInference(type(api).__name__, getattr(api, "version", "1"))
    known = "openai-chat, openai-embeddings, open-inference"
    if not isinstance(named, str):
        say = f"the spec {name} is of your own, and none such is run here"
        raise ValueError(
            f"{say}; the class's hooks and api_path can do its work, or one of {known}"
        )
    raise ValueError(f"there is no spec {name!r}; use one of {known}")


def _is_litserves(api: Any, named: Any) -> bool:
    """Whether a model was written for LitServe, and so for what its specs hand to hooks."""
    bases = (*type(api).__mro__, type(named))
    return any(base.__module__.partition(".")[0] == "litserve" for base in bases)
