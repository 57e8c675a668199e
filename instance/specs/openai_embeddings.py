"""OpenAI's embeddings: what does a request hold, and how is it answered?

`predict` gets the list of inputs of one request (a list of such lists in a batch) and gives
a vector for each. Vectors go out as numbers, or as base64 where the client asks for it.
"""

import base64
import struct
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from instance.requests import Request
from instance.surface.codec import Parse, UnencodableError


class EmbeddingRequest(BaseModel):
    """Text or tokens to embed, one or many."""

    model_config = ConfigDict(extra="allow")

    input: str | list[str] | list[int] | list[list[int]]
    model: str = ""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None

    def inputs(self) -> list[Any]:
        """The inputs one by one; a list of tokens is one input."""
        if isinstance(self.input, str):
            return [self.input]
        if self.input and isinstance(self.input[0], int):
            return [self.input]
        return list(self.input)

    ensure_list = inputs  # as models written for LitServe call it


class Embeddings:
    """The spec around an embedding model."""

    name = "openai-embeddings"
    path = "/v1/embeddings"
    wants_headers = False
    streams: Literal[False] = False
    request_type: Any = EmbeddingRequest
    answer_type: Any = dict[str, Any]

    def read(self, request: Request, parse: Parse) -> Any:
        return parse(request)

    def decoded(self, request: EmbeddingRequest) -> list[Any]:
        return request.inputs()

    def context(self, request: EmbeddingRequest) -> dict[str, Any]:
        return request.model_dump(exclude={"input"})

    def answer(self, output: Any, request: EmbeddingRequest) -> dict[str, Any]:
        """`output` is the vectors, or a dict of `embeddings` and token counts."""
        counts: dict[str, Any] = {}
        if isinstance(output, dict):
            if "embeddings" not in output:
                raise UnencodableError("an embedding model's dict must hold `embeddings`")
            counts, output = output, output["embeddings"]
        vectors = _numbers(output)
        expected = len(request.inputs())
        if len(vectors) != expected:
            raise UnencodableError(f"{len(vectors)} vectors came for {expected} inputs")
        packed = request.encoding_format == "base64"
        prompt = int(counts.get("prompt_tokens", 0))
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
            "usage": {
                "prompt_tokens": prompt,
                "total_tokens": int(counts.get("total_tokens", 0)) or prompt,
            },
        }


def _numbers(output: Any) -> list[list[float]]:
    """`output` as a list of vectors; one vector alone is one of one input."""
    values = output.tolist() if hasattr(output, "tolist") else list(output)
    vectors = [value.tolist() if hasattr(value, "tolist") else value for value in values]
    if vectors and isinstance(vectors[0], (int, float)):
        return [vectors]
    return vectors


def pack_vector(vector: Sequence[float]) -> str:
    """Little-endian 32-bit floats in base64, as OpenAI's clients unpack them."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
