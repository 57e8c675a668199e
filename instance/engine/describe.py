"""What does the HTTP process have to know of a model it never sees?

Plain values for the queue and the batcher, and JSON Schemas for the documentation.
"""

import inspect
from math import inf
from typing import Any

import orjson
from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError

from instance.engine.model import Model
from instance.requests import Request
from instance.surface.codec import UnencodableError, encode_json

DEFAULT_CONCURRENCY = 64  # requests that an async model without batches works on at once


def describe(model: Model, name: str) -> dict[str, Any]:
    """Values that marshal carries, under the names the HTTP process uses."""
    api, hooks = model.api, model.hooks
    concurrency = int(getattr(api, "concurrency", 0) or 0)
    if not concurrency:
        plain_or_batched = not hooks.is_async or hooks.max_batch_size > 1
        concurrency = 1 if plain_or_batched else DEFAULT_CONCURRENCY
    path = str(getattr(api, "api_path", None) or "/predict")
    if not path.startswith("/"):
        raise ValueError(f"api_path must start with /, and is {path!r}")
    if model.spec is not None and path == "/predict":
        path = model.spec.path.format(name=type(api).__name__)
    return {
        "name": getattr(model.spec, "model", "") or name.rpartition(":")[2] or name,
        "version": getattr(model.spec, "version", ""),
        "doc": inspect.getdoc(api) if type(api).__module__ != "instance.api" else api.__doc__,
        "device": model.device,
        "path": path,
        "spec": model.spec.name if model.spec is not None else "",
        "max_batch_size": hooks.max_batch_size,
        "batch_timeout_s": _seconds(api, "batch_timeout"),
        "request_timeout_s": _patience(getattr(api, "request_timeout", None)),
        "stream": hooks.stream,
        "is_async": hooks.is_async,
        "prepares": model.prepares,
        "concurrency": concurrency if hooks.is_async else 1,
        "wants_request": hooks.wants_context
        or model.request_type is Request
        or (model.spec is not None and model.spec.wants_headers),
        "has_health": model.has_health,
        "media_type": model.media_type or "",
        "request_schema": _request_schema(model),
        "answer_schema": _answer_schema(model.answer_type),
        "inputs": _tensors(getattr(api, "inputs", None)),
        "outputs": _tensors(getattr(api, "outputs", None)),
        "example": _example(getattr(api, "example", None)),
    }


def _seconds(api: Any, name: str) -> float:
    value = getattr(api, name, None) or 0.0
    if not isinstance(value, int | float) or value < 0:
        raise ValueError(f"{name} must be a number of seconds, not {value!r}")
    return float(value)


def _patience(seconds: Any) -> float:
    """Longest wait in the queue; none is said by None, False and -1, as LitServe has it."""
    return float(seconds) if seconds and seconds > 0 else inf


def _request_schema(model: Model) -> bytes:
    if model.request_adapter is None:
        return b""
    return _schema(model.request_adapter, "validation")


def _answer_schema(annotation: Any) -> bytes:
    if annotation in (inspect.Parameter.empty, None, bytes):
        return b""
    try:
        return _schema(TypeAdapter(annotation), "serialization")
    except (PydanticSchemaGenerationError, TypeError):
        return b""


def _schema(adapter: TypeAdapter[Any], mode: Any) -> bytes:
    try:
        template = "#/components/schemas/{model}"
        return orjson.dumps(adapter.json_schema(mode=mode, ref_template=template))
    except PydanticInvalidForJsonSchema:
        return b""


def _tensors(declared: Any) -> list[dict[str, Any]]:
    """What a model of named tensors says of them: `{"x": ("FP32", [-1, 3])}`."""
    if not isinstance(declared, dict):
        return []
    return [
        {"name": str(name), "datatype": str(datatype), "shape": [int(size) for size in shape]}
        for name, (datatype, shape) in declared.items()
    ]


def _example(example: Any) -> bytes:
    if example is None or isinstance(example, bytes):
        return b""
    try:
        return encode_json(example)
    except UnencodableError as error:
        raise ValueError(f"example: {error}") from None
