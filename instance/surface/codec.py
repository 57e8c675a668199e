"""How does a body become a model's input, and an output an answer's body?

Runs in the worker's process, where the model's libraries are; this is the one place where
requests are parsed and validated. HTTP framing is not its business, nor is what a hook does.
"""

import inspect
import json
import math
from collections import deque
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from decimal import Decimal
from functools import lru_cache
from pathlib import PurePath
from typing import Any

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from instance.core.errors import Fault, Problem, Refused, refuse
from instance.engine import devices
from instance.requests import Request, Upload
from instance.surface.forms import parse_form

Parse = Callable[[Request], Any]
FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")


class UnencodableError(ValueError):
    """A model's output that no answer can carry; the message says which part and why."""


def parser_for(annotation: Any) -> tuple[Parse, TypeAdapter[Any] | None]:
    """(how a request becomes what the hook takes, the adapter that validates it if any)."""
    if annotation is Request:
        return _whole, None
    if annotation is bytes:
        return _raw, None
    if annotation is inspect.Parameter.empty or _is_starlettes(annotation, "Request"):
        # Starlette's Request stands for "JSON or form", as it does for LitServe.
        return parse_untyped, None
    if annotation is Upload or _is_starlettes(annotation, "UploadFile"):
        return _parse_upload, None
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    except PydanticSchemaGenerationError:
        return parse_untyped, None
    of_fields = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return (lambda request: parse_typed(request, adapter, of_fields)), adapter


def _is_starlettes(annotation: Any, name: str) -> bool:
    """Whether it is Starlette's or FastAPI's class of that name, and not a model's own."""
    package = getattr(annotation, "__module__", "").partition(".")[0]
    return package in ("starlette", "fastapi") and getattr(annotation, "__name__", "") == name


def _raw(request: Request) -> bytes:
    """The body; a large one comes as a bytearray, which is not what hooks are promised."""
    return request.body if type(request.body) is bytes else bytes(request.body)


def _whole(request: Request) -> Request:
    request.body = _raw(request)
    return request


@lru_cache(maxsize=64)
def media_type_of(content_type: str) -> str:
    """The media type alone, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def meant_media_type(request: Request) -> str:
    """The media type, but JSON where the body is said to be a form and can be none.

    curl and others say "form" of whatever they send unless they are told the type.
    """
    media_type = media_type_of(request.content_type)
    if media_type == FORM_TYPES[0]:
        body = bytes(request.body).strip()
        if body[:1] in (b"{", b"[") or b"=" not in body:
            return "application/json"
    return media_type


def is_json(media_type: str) -> bool:
    return media_type in ("", "application/json") or media_type.endswith("+json")


def parse_untyped(request: Request) -> Any:
    """JSON for JSON types and for no type; a `Form` for forms; bytes for everything else."""
    media_type = meant_media_type(request)
    if is_json(media_type):
        return parse_json(request.body)
    if media_type in FORM_TYPES:
        return parse_form(media_type, request.content_type, request.body)
    return _raw(request)


def parse_json(body: bytes) -> Any:
    """The value of a JSON text; `bad_request` when it is none."""
    try:
        return orjson.loads(body)
    except ValueError as error:
        say = "the body is empty" if not body else f"the body is not JSON: {error}"
        raise refuse("bad_request", say) from None


def parse_typed(request: Request, adapter: TypeAdapter[Any], of_fields: bool) -> Any:
    """The validated value; `invalid_request` names every field that is wrong. A form will do
    for a type `of_fields`."""
    media_type = meant_media_type(request)
    if not is_json(media_type):
        if media_type not in FORM_TYPES or not of_fields:
            say = f"this model takes application/json, not {media_type or 'an unnamed type'}"
            raise refuse("unsupported_media_type", say)
        form = parse_form(media_type, request.content_type, request.body)
        return _validated(lambda: adapter.validate_python(dict(form)))
    body = request.body
    # pydantic's parser lets NaN and Infinity pass, which are no JSON. To look for one byte
    # costs a twentieth of looking for a word, and numbers, of which most bodies are made, lack it.
    if (b"N" in body and b"NaN" in body) or (b"I" in body and b"Infinity" in body):
        parse_json(body)
    return _validated(lambda: adapter.validate_json(body))


def _validated(validate: Callable[[], Any]) -> Any:
    try:
        return validate()
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        if faults[0]["type"] == "json_invalid":
            raise refuse("bad_request", f"the body is not JSON: {faults[0]['msg']}") from None
        raise Refused(_invalid(faults)) from None


def _invalid(faults: Any) -> Problem:
    found = [
        Fault(pointer_of(fault["loc"]), str(fault["type"]), str(fault["msg"]))
        for fault in faults[:100]
    ]
    first = found[0]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return Problem(
        "invalid_request", f"{first.pointer or 'the body'}: {first.detail}{more}", faults=found
    )


def pointer_of(location: Any) -> str:
    """The JSON pointer of pydantic's location."""
    parts = (str(part).replace("~", "~0").replace("/", "~1") for part in location)
    return "".join(f"/{part}" for part in parts)


def _parse_upload(request: Request) -> Any:
    """The only file of a form, or the one named `request`."""
    media_type = media_type_of(request.content_type)
    if media_type != "multipart/form-data":
        raise refuse("unsupported_media_type", "this model takes multipart/form-data")
    form = parse_form(media_type, request.content_type, request.body)
    files = [value for _, value in form.multi_items() if not isinstance(value, str)]
    named = form.get("request", files[0] if len(files) == 1 else None)
    if named is None or isinstance(named, str):
        raise Refused(
            Problem(
                "invalid_request",
                "the form must hold one file",
                faults=[Fault("/request", "missing", "Field required")],
            )
        )
    return named


def encode_json(value: Any) -> bytes:
    """`value` as JSON; UnencodableError when it holds NaN, an infinity or what JSON lacks."""
    if isinstance(value, BaseModel):
        body = value.__pydantic_serializer__.to_json(value, by_alias=True)
    else:
        try:
            body = orjson.dumps(value, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY)
        except TypeError as error:
            body = _encode_slowly(value, error)
    # Both serializers write null for NaN: only then is it worth a walk to find out.
    if b"null" in body:
        _refuse_not_finite(value, "")
    return body


def _encode_slowly(value: Any, error: Exception) -> bytes:
    """For what orjson refuses and JSON can carry: huge integers, keys that are no text."""
    try:
        text = json.dumps(value, default=_plain, allow_nan=False, separators=(",", ":"))
    except ValueError:
        _refuse_not_finite(value, "")
        raise UnencodableError(f"the answer cannot be written as JSON: {error}") from None
    except TypeError as failed:
        raise UnencodableError(f"the answer cannot be written as JSON: {failed}") from None
    return text.encode()


def _plain(value: Any) -> Any:
    """`value` in types that JSON has; TypeError when there is no way."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="python", by_alias=True)
    if hasattr(value, "__torch_function__"):
        array = devices.tensor_value(value)
        return array.item() if array.ndim == 0 else array.tolist()
    if hasattr(value, "tolist"):  # numpy: strided arrays, scalars, odd types
        return value.tolist()
    if isinstance(value, (set, frozenset, tuple, range, deque)):
        return list(value)
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError("bytes are no JSON; return them alone, or as text")
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


def _refuse_not_finite(value: Any, pointer: str) -> None:
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name, None) for field in fields(value)}
    elif not isinstance(value, (str, float, dict, list, tuple)):
        try:
            value = _plain(value)
        except TypeError:  # what has no parts, such as a number or a date
            return
    if isinstance(value, float) and not math.isfinite(value):
        word = "NaN" if math.isnan(value) else "an infinity"
        where = f" at {pointer}" if pointer else ""
        raise UnencodableError(f"the model's answer holds {word}{where}, which JSON cannot carry")
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_not_finite(item, f"{pointer}/{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _refuse_not_finite(item, f"{pointer}/{index}")
