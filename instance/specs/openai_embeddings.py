"""OpenAI's embeddings: what does a request hold, and how is it answered?

`predict` gets the list of inputs of one request (a list of such lists in a batch) and gives
a vector for each; a class of LitServe's gets the input as the client wrote it. Vectors go out
as numbers, or as base64 where the client asks for it.
"""

import base64
import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, create_model

from instance.core.errors import Fault, Problem, RequestRefused, refuse
from instance.model.codec import Parse, UnencodableError, refuse_not_finite
from instance.requests import Request
from instance.specs.openai_chat import tokens

COUNTS = ("prompt_tokens", "total_tokens")
OPEN = ConfigDict(extra="allow")


class EmbeddingRequest(BaseModel):
    """Text or tokens to embed, one or many."""

    model_config = OPEN

    input: str | list[str] | list[int] | list[list[int]]
    model: str = ""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None

    def inputs(self) -> list[Any]:
        """The inputs one by one; a list of tokens is one input."""
        return inputs_of(self)

    ensure_list = inputs  # as models written for LitServe call it


def inputs_of(request: Any) -> list[Any]:
    """The inputs one by one, of a request of either kind."""
    said = request.input
    one = isinstance(said, str) or (said and isinstance(said[0], int))
    return [said] if one else list(said)


def request_type(of_litserve: bool) -> Any:
    """What requests are read as; for a class of LitServe's its own, and what clients send
    besides."""
    if not of_litserve:
        return EmbeddingRequest
    from litserve.specs.openai_embedding import EmbeddingRequest as Theirs

    return create_model(
        "EmbeddingRequest", __base__=type("Kept", (Theirs,), {"model_config": OPEN})
    )


def refuse_several(theirs: Any, request: Any, count: int) -> NoReturn:
    """Raises the refusal of a request that brings `count` inputs to a model whose batches are of
    clients: in the words of LitServe's own spec, which is asked first, or else in ours."""
    say = f"{count} inputs came in one request, and this model makes its batches of several"
    raise refuse(
        "bad_request",
        _words(theirs, request) or f"{say}; send one input, or serve it with max_batch_size 1",
    )


def _words(theirs: Any, request: Any) -> str:
    """What LitServe's spec says against `request`; nothing if it has no such rule. Without a
    server it can do no more than refuse: what it would wait for is not there."""
    asked = None
    try:
        asked = theirs.embeddings_endpoint(request)
        asked.send(None)
    except Exception as error:
        return str(getattr(error, "detail", ""))
    finally:
        if asked is not None:
            asked.close()
    return ""


class Embeddings:
    """The spec around an embedding model."""

    name = "openai-embeddings"
    path = "/v1/embeddings"
    wants_headers = False
    streams: Literal[False] = False
    answer_type: Any = dict[str, Any]

    def __init__(
        self, of_litserve: bool = False, max_batch_size: int = 1, theirs: Any = None
    ) -> None:
        self.request_type: Any = request_type(of_litserve)
        self._of_litserve = of_litserve
        self._one_only = of_litserve and max_batch_size > 1
        self._theirs = theirs  # LitServe's own spec, where the class has one

    def read(self, request: Request, parse: Parse) -> Any:
        """The request. A class of LitServe's that makes batches takes one input of each client:
        its `predict` gets a list of inputs, and not of lists."""
        read = parse(request)
        if not self._of_litserve and not inputs_of(read):
            fault = Fault("/input", "too_short", "there must be at least one input")
            raise RequestRefused(Problem("invalid_request", "nothing to embed", faults=[fault]))
        if self._one_only and (count := len(inputs_of(read))) != 1:
            refuse_several(self._theirs, read, count)
        return read

    def _are_of_tokens(self, vectors: Sequence[Any], said: Any) -> bool:
        """Whether there is one for each of a list of tokens, which LitServe counts as inputs."""
        return self._of_litserve and isinstance(said, list) and len(vectors) == len(said)

    def decoded(self, request: Any) -> Any:
        return request.input if self._of_litserve else request.inputs()

    def context(self, request: EmbeddingRequest) -> dict[str, Any]:
        return request.model_dump(exclude={"input"})

    def answer(self, output: Any, request: Any, context: dict[str, Any]) -> dict[str, Any]:
        """`output` is the vectors, or a dict of `embeddings` and token counts; those that a hook
        left in the context count where it has none."""
        counts = {name: context[name] for name in COUNTS if name in context}
        if isinstance(output, dict):
            if "embeddings" not in output:
                raise UnencodableError("an embedding model's dict must hold `embeddings`")
            said = output.get("usage") or output
            said = said if isinstance(said, dict) else vars(said)
            counts.update({name: said[name] for name in COUNTS if said.get(name)})
            output = output["embeddings"]
        vectors = _numbers(output)
        expected = len(inputs_of(request))
        if len(vectors) != expected and not self._are_of_tokens(vectors, request.input):
            raise UnencodableError(f"{len(vectors)} vectors came for {expected} inputs")
        packed = request.encoding_format == "base64"
        prompt, total = (tokens(counts.get(name), name) for name in COUNTS)
        return {
            "object": "list",
            "model": request.model,
            "data": [
                {
                    "object": "embedding",
                    "index": index,
                    "embedding": pack_vector(vector) if packed else vector,
                }
                for index, vector in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": prompt, "total_tokens": total or prompt},
        }


def _numbers(output: Any) -> list[list[float]]:
    """`output` as a list of vectors; one vector alone is one of one input. UnencodableError, with
    the place, where one holds what is no number in JSON, however it is to be sent."""
    listed = _listed(output, "the answer of an embedding model")
    values = [_plain(value) for value in listed]
    if values and _is_number(values[0]):
        values = [values]
    return [_vector(value, index) for index, value in enumerate(values)]


def _vector(value: Any, index: int) -> list[float]:
    vector: list[Any] = _listed(value, f"embedding {index}")
    if not set(map(type, vector)) <= {float, int}:
        vector = [_plain(number) for number in vector]
        for at, number in enumerate(vector):
            if not _is_number(number):
                kind = type(number).__name__
                raise UnencodableError(f"/data/{index}/embedding/{at} is no number, but {kind}")
    try:
        finite = all(map(math.isfinite, vector))
    except OverflowError:
        raise UnencodableError(f"embedding {index} holds a number larger than any float") from None
    if not finite:
        refuse_not_finite(vector, f"/data/{index}/embedding")
    return vector


def _listed(values: Any, what: str) -> list[Any]:
    plain = _plain(values)
    if not isinstance(plain, Iterable) or isinstance(plain, (str, bytes, dict)):
        raise UnencodableError(f"{what} must be a list, not {type(plain).__name__}")
    return list(plain)


def _plain(value: Any) -> Any:
    """Numbers and lists in place of what numpy and torch have for them."""
    return value.tolist() if hasattr(value, "tolist") else value


def _is_number(value: Any) -> bool:
    return isinstance(value, (float, int)) and not isinstance(value, bool)


def pack_vector(vector: Sequence[float]) -> str:
    """Little-endian 32-bit floats in base64, as OpenAI's clients unpack them."""
    try:
        packed = struct.pack(f"<{len(vector)}f", *vector)
    except OverflowError:
        raise UnencodableError("a number of an embedding does not fit 32 bits") from None
    return base64.b64encode(packed).decode()
