"""What the HTTP process is told of a model that it never sees.

Plain values for the queue and the batcher, and JSON Schemas for the documentation.
"""

import inspect
import re
from math import inf
from typing import Any

import orjson
from pydantic import TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

from instance.model.codec import UnencodableError, encode_json
from instance.model.gates import authorizes
from instance.model.lit_model import Model
from instance.model.observers import listed, tells
from instance.model.server_file import api_key
from instance.requests import Request
from instance.settings import MAX_QUEUE, is_server_file
from instance.specs import Spec
from instance.wire.messages import ModelInfo

# Requests that an async model without batches works on at once: all that the queue lets wait,
# for what its hooks await is elsewhere, and they hold nobody up meanwhile.
DEFAULT_CONCURRENCY = MAX_QUEUE
_NO_PATH = re.compile(r"[^A-Za-z0-9\-._~!$&'()*+,;=:@%/]")  # what no path of a URL holds as it is


def path_of(api: Any, spec: Spec | None) -> str:
    """Where clients post to; ValueError when that is no path."""
    path = str(getattr(api, "api_path", None) or "/predict")
    if not path.startswith("/"):
        raise ValueError(f"api_path must start with /, and is {path!r}")
    if spec is not None and path == "/predict":
        path = spec.path.format(name=type(api).__name__)
    if unfit := _NO_PATH.search(path):
        say = f"no request asks for the path {path!r}, which holds {unfit[0]!r}"
        raise ValueError(f"{say}; let api_path be letters, digits, '-', '.', '_' and '/'")
    return path


def describe(model: Model, name: str) -> ModelInfo:
    """What the HTTP process is told of `model`, which is served by `name`."""
    api, hooks = model.api, model.hooks
    concurrency = int(getattr(api, "concurrency", 0) or 0)
    if not concurrency:
        plain_or_batched = not hooks.is_async or hooks.max_batch_size > 1
        concurrency = 1 if plain_or_batched else DEFAULT_CONCURRENCY
    return {
        "name": getattr(model.spec, "model", "") or named(name, api),
        "version": getattr(model.spec, "version", ""),
        "doc": inspect.getdoc(api) if type(api).__module__ != "instance.api" else api.__doc__,
        "device": model.device,
        "path": path_of(api, model.spec),
        "spec": model.spec.name if model.spec is not None else "",
        "max_batch_size": hooks.max_batch_size,
        "batch_timeout_s": _seconds(api, "batch_timeout"),
        "request_timeout_s": _request_timeout_s(getattr(api, "request_timeout", None)),
        "stream": hooks.stream,
        "is_async": hooks.is_async,
        "prepares": model.prepares,
        "concurrency": concurrency if hooks.is_async else 1,
        "wants_request": hooks.wants_context
        or model.request_type is Request
        or (model.spec is not None and model.spec.wants_headers),
        "has_health": model.has_health,
        "authorizes": authorizes(api),
        "tells": tells(listed(getattr(api, "callbacks", None))),
        "tracks_requests": bool(getattr(api, "track_requests", True)),
        "api_key": api_key(),
        "media_type": model.media_type or "",
        "request_schema": _schema(model.request_adapter, "validation"),
        "answer_schema": _schema(model.answer_adapter, "serialization"),
        "inputs": _tensors(getattr(api, "inputs", None)),
        "outputs": _tensors(getattr(api, "outputs", None)),
        "example": _example(getattr(api, "example", None)),
    }


def named(model: str, api: Any) -> str:
    """What a model is called: the name it is served by, its class where a file is served."""
    return type(api).__name__ if is_server_file(model) else model.rpartition(":")[2] or model


def _seconds(api: Any, name: str) -> float:
    value = getattr(api, name, None) or 0.0
    if not isinstance(value, int | float) or value < 0:
        raise ValueError(f"{name} must be a number of seconds, not {value!r}")
    return float(value)


def _request_timeout_s(seconds: Any) -> float:
    """Longest wait in the queue; none is said by None, False and -1, as LitServe has it."""
    return float(seconds) if seconds and seconds > 0 else inf


def _schema(adapter: TypeAdapter[Any] | None, mode: Any) -> bytes:
    if adapter is None:
        return b""
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
