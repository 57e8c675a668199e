"""How does a body become a model's input, and an output an answer's body?

Runs in the worker's process, where the model's libraries are; this is the one place where
requests are parsed and validated. HTTP framing is not its business, nor is what a hook does.
"""

import inspect
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence, Set, ValuesView
from contextlib import suppress
from dataclasses import fields, is_dataclass
from decimal import Decimal
from functools import lru_cache, partial
from io import IOBase
from typing import Annotated, Any, get_args, get_origin

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

import instance.devices as devices
from instance.core.errors import RequestRefused, refuse
from instance.model.exact_json import as_utf8, loads
from instance.model.fast_reading import Read, Refused, reader_of
from instance.model.faults import invalid
from instance.model.forms import lists_of, parse_form, starlettes_form
from instance.requests import Request, Upload

Parse = Callable[[Request], Any]
# The fields of a type that hold several values; None for a type that has no fields.
Lists = frozenset[str] | None
_NO_JSON = re.compile(rb"(?:^|[:,\[])-?(?:NaN|Infinity)")
FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")


class UnencodableError(ValueError):
    """A model's output that no answer can carry; the message says which part and why."""


def parser_for(annotation: Any, of_litserve: bool = False) -> tuple[Parse, TypeAdapter[Any] | None]:
    """(how a request becomes what the hook takes, the adapter that validates it if any)."""
    annotation = _without_fastapis(annotation)
    untyped = parse_untyped if not of_litserve else partial(parse_untyped, guesses=True)
    if annotation is Request:
        return _whole, None
    if annotation is bytes:
        return _raw, None
    if annotation is inspect.Parameter.empty or _is_starlettes(annotation, "Request"):
        # Starlette's Request stands for "JSON or form", as it does for LitServe.
        return untyped, None
    if _is_upload(annotation):
        return _parse_upload, None
    if get_origin(annotation) is list and all(map(_is_upload, get_args(annotation))):
        return _parse_uploads, None
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    except PydanticSchemaGenerationError:
        return untyped, None
    kind = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    of_fields = isinstance(kind, type) and issubclass(kind, BaseModel)
    lists = lists_of(kind) if of_fields else None
    read = reader_of(adapter.core_schema)
    return (lambda request: parse_typed(request, adapter, lists, read)), adapter


def _is_starlettes(annotation: Any, name: str) -> bool:
    """Whether it is Starlette's or FastAPI's class of that name, and not a model's own."""
    package = getattr(annotation, "__module__", "").partition(".")[0]
    return package in ("starlette", "fastapi") and getattr(annotation, "__name__", "") == name


def _is_upload(annotation: Any) -> bool:
    return annotation is Upload or _is_starlettes(annotation, "UploadFile")


def _without_fastapis(annotation: Any) -> Any:
    """`annotation` without what FastAPI alone reads in it, such as `Form()`: forms will do for
    every type of fields here."""
    if get_origin(annotation) is not Annotated:
        return annotation
    kind, *said = get_args(annotation)
    kept = [one for one in said if type(one).__module__.partition(".")[0] != "fastapi"]
    return Annotated[kind, *kept] if kept else kind


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


def parse_untyped(request: Request, guesses: bool = False) -> Any:
    """JSON for JSON types and for no type, and for plain text that is JSON: a browser's `fetch`
    calls it that. A `Form` for forms; bytes for everything else. Who `guesses` takes what is
    JSON for it whatever its type, as LitServe does, which knows nothing but JSON and forms."""
    media_type = meant_media_type(request)
    if is_json(media_type):
        try:
            return parse_json(request.body)
        except RequestRefused:
            if not (guesses and _may_be_names(request)):
                raise
            media_type = FORM_TYPES[0]
    if media_type in FORM_TYPES:
        form = parse_form(media_type, request.content_type, request.body)
        return starlettes_form(form) if guesses else form
    if guesses or media_type == "text/plain":
        try:
            return loads(request.body)
        except ValueError:
            pass
    return _raw(request)


def _may_be_names(request: Request) -> bool:
    """Whether what is no JSON and is said to be a form may be one of names without values."""
    said = media_type_of(request.content_type)
    return said == FORM_TYPES[0] and not request.body.lstrip().startswith(b"{")


def parse_json(body: bytes | bytearray) -> Any:
    """The value of a JSON text; `bad_request` when it is none."""
    try:
        return loads(body)
    except ValueError as error:
        say = "the body is empty" if not body else f"the body is not JSON: {error}"
        raise refuse("bad_request", say) from None


def parse_typed(
    request: Request, adapter: TypeAdapter[Any], lists: Lists, read: Read | None = None
) -> Any:
    """The validated value; `invalid_request` names every field that is wrong. A form will do
    for a type of fields, with `lists` among them. What `read` refuses is looked at again."""
    media_type = request.content_type
    if media_type != "application/json":  # as most say it
        media_type = meant_media_type(request)
        if not is_json(media_type):
            return _parse_fields(request, media_type, adapter, lists)
    body: bytes | bytearray = request.body  # the latter where it is large
    if read is not None:
        try:
            return read(body)
        except Refused:
            pass
    try:
        return _validated(body, adapter)
    except ValidationError as error:
        if (plain := as_utf8(body)) is None:
            raise _refused(error, lambda: _again(adapter, body)) from None
    try:
        return _validated(plain, adapter)
    except ValidationError as error:
        raise _refused(error, lambda: _again(adapter, plain)) from None


def _validated(body: bytes | bytearray, adapter: TypeAdapter[Any]) -> Any:
    # pydantic's parser lets NaN and Infinity pass, which are no JSON. To look for one byte
    # costs a twentieth of looking for a word, and numbers, of which most bodies are made, lack it.
    if (b"N" in body and b"NaN" in body) or (b"I" in body and b"Infinity" in body):
        parse_json(body)
    # Not by the adapter's own method, whose arguments cost half of what a small body does.
    return adapter.validator.validate_json(body)


def _parse_fields(
    request: Request, media_type: str, adapter: TypeAdapter[Any], lists: Lists
) -> Any:
    if media_type not in FORM_TYPES or lists is None:
        say = f"this model takes application/json, not {media_type or 'an unnamed type'}"
        raise refuse("unsupported_media_type", say)
    form = parse_form(media_type, request.content_type, request.body)
    try:
        return adapter.validate_python(
            {name: form.getlist(name) if name in lists else form[name] for name in form}
        )
    except ValidationError as error:
        raise _refused(error, None) from None


def _again(adapter: TypeAdapter[Any], body: bytes | bytearray) -> Any:
    """What FastAPI validates: the value that the JSON is."""
    return adapter.validate_python(orjson.loads(body), from_attributes=True)


def _refused(error: ValidationError, again: Callable[[], Any] | None) -> RequestRefused:
    """The refusal of a request with the faults of `error`, as `again` names them."""
    faults = error.errors(include_url=False)
    if again is not None and faults[0]["type"] != "json_invalid":
        try:
            again()
        except ValidationError as same:
            faults = same.errors(include_url=False)
        except ValueError:  # no JSON that we read; what pydantic said of it stands
            pass
    if faults[0]["type"] == "json_invalid":
        return refuse("bad_request", f"the body is not JSON: {faults[0]['msg']}")
    return RequestRefused(invalid(faults))


def _parse_upload(request: Request) -> Any:
    """The only file of a form, or the one named `request`."""
    files = _files(request)
    named = [file for name, file in files if name == "request"]
    if not named and len(files) != 1:
        raise _no_file()
    return named[-1] if named else files[0][1]


def _parse_uploads(request: Request) -> list[Any]:
    """The files of a form that are named `request`, or all where none is."""
    files = _files(request)
    named = [file for name, file in files if name == "request"]
    if not files:
        raise _no_file()
    return named or [file for _, file in files]


def _files(request: Request) -> list[tuple[str, Any]]:
    media_type = media_type_of(request.content_type)
    if media_type != "multipart/form-data":
        raise refuse("unsupported_media_type", "this model takes multipart/form-data")
    form = parse_form(media_type, request.content_type, request.body)
    return [(name, value) for name, value in form.multi_items() if not isinstance(value, str)]


def _no_file() -> RequestRefused:
    missing = {"type": "missing", "loc": ("request",), "msg": "Field required", "input": None}
    return RequestRefused(invalid([missing]))


def encode_json(value: Any, by_alias: bool = True) -> bytes:
    """`value` as JSON; UnencodableError when it holds NaN, an infinity or what JSON lacks."""
    if isinstance(value, BaseModel):
        try:
            body = _written(value, by_alias)
        except PydanticSerializationError:  # arrays and the like in it, which only we can write
            return encode_json(_fields_of(value, by_alias))
        if may_hold_nan(body):
            refuse_lost(_fields_of(value, by_alias), body)
    else:
        try:
            body = orjson.dumps(value, default=_as_json, option=orjson.OPT_SERIALIZE_NUMPY)
        except TypeError:
            body = _encode_slowly(value)
        if b"null" in body:  # as orjson writes NaN: only then is it worth a walk to find out
            refuse_lost(value, body)
    return body


def _written(model: BaseModel, by_alias: bool = True) -> bytes:
    """The JSON of `model` as pydantic writes it."""
    return model.__pydantic_serializer__.to_json(model, by_alias=by_alias)


def _fields_of(model: BaseModel, by_alias: bool = True) -> dict[str, Any]:
    """The values of `model` by their names in JSON."""
    return model.model_dump(mode="python", by_alias=by_alias)


def may_hold_nan(body: bytes) -> bool:
    """Whether `body`, as pydantic wrote it, may stand for NaN: it writes null or a word that is
    no JSON, as the model's `ser_json_inf_nan` says, or text, which is somebody's wish."""
    return b"null" in body or _holds_no_json(body)


def _holds_no_json(body: bytes) -> bool:
    return (b"NaN" in body or b"Infinity" in body) and _NO_JSON.search(body) is not None


def encode_spaced(value: dict[Any, Any]) -> bytes:
    """`value` as JSON with spaces, as `json.dumps` writes it: so clients of LitServe get the
    dicts of a stream."""
    try:
        return json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError):  # what only we know to write, or must refuse
        return json.dumps(json.loads(encode_json(value))).encode()


def _encode_slowly(value: Any) -> bytes:
    """For what orjson refuses and JSON can carry: huge integers, keys that are no text."""
    try:
        try:
            text = _dumped(value)
        except TypeError:
            text = _dumped(_with_plain_keys(value))
    except (TypeError, ValueError, RecursionError) as error:
        with suppress(RecursionError):
            if isinstance(error, ValueError):
                refuse_not_finite(value, "")
        raise UnencodableError(f"the answer cannot be written as JSON: {error}") from None
    return text.encode()


def _dumped(value: Any) -> str:
    return json.dumps(value, default=_as_values, allow_nan=False, separators=(",", ":"))


def _as_json(value: Any) -> Any:
    """`value` in what orjson can write: a model is within others what it is alone."""
    if isinstance(value, BaseModel):
        with suppress(PydanticSerializationError):
            body = _written(value)
            if not _holds_no_json(body):
                return orjson.Fragment(body)
    return _plain(value)


def _as_values(value: Any) -> Any:
    """The same for Python's own writer, which takes no JSON."""
    if isinstance(value, BaseModel):
        with suppress(PydanticSerializationError):
            return json.loads(_written(value))
    return _with_plain_keys(_plain(value))


def _with_plain_keys(value: Any) -> Any:
    """`value` with keys that Python's writer takes; those of enumerations, numpy's and such are
    written as they are as values. TypeError when there is no way."""
    if isinstance(value, dict):
        return {_key(key): _with_plain_keys(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_plain_keys(item) for item in value]
    return value


def _key(key: Any) -> Any:
    if key is None or isinstance(key, (str, int, float)):
        return key
    plain = _plain(key)
    if plain is None or isinstance(plain, (str, int, float)):
        return plain
    raise TypeError(f"keys must be str, int, float, bool or None, not {type(key).__name__}")


def _plain(value: Any) -> Any:
    """`value` in types that JSON has; TypeError when there is no way."""
    if isinstance(value, BaseModel):
        return _fields_of(value)
    if hasattr(value, "__torch_function__"):
        array = devices.tensor_value(value)
        return array.item() if array.ndim == 0 else array.tolist()
    if hasattr(value, "tolist"):  # numpy: strided arrays, scalars, odd types
        return value.tolist()
    if isinstance(value, Decimal):
        if not value.is_finite():
            return math.nan if value.is_nan() else float(value)
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError("bytes are no JSON; return them alone, or as text")
    if isinstance(value, IOBase):  # whose lines would else be taken for a list
        raise TypeError(f"a {type(value).__name__} is no JSON; return what its read() gives")
    if isinstance(value, (Set, Sequence, ValuesView)):
        return list(value)
    if isinstance(value, Mapping):
        return dict(value)
    if callable(isoformat := getattr(value, "isoformat", None)):
        return isoformat()
    try:
        return to_jsonable_python(value, timedelta_mode="float")
    except PydanticSerializationError:
        raise TypeError(f"{type(value).__name__} is not JSON serializable") from None


def without_arrays(value: Any) -> Any:
    """`value` with lists and numbers in place of the arrays, tensors and scalars of numpy and
    torch in it; the same object where there are none."""
    if hasattr(value, "__torch_function__") or hasattr(value, "tolist"):
        return _plain(value)
    if type(value) is dict:
        plain = {key: without_arrays(item) for key, item in value.items()}
        return plain if any(plain[key] is not value[key] for key in value) else value
    if type(value) in (list, tuple):
        items = [without_arrays(item) for item in value]
        return items if any(a is not b for a, b in zip(items, value, strict=True)) else value
    return value


def refuse_lost(value: Any, body: bytes) -> None:
    """UnencodableError, with the place, when NaN or an infinity of `value` is not in `body`, which
    is its JSON: null is there, or a word that is none."""
    try:
        written = json.loads(body)
    except ValueError:  # an integer of more digits than Python reads
        written = None
    refuse_not_finite(value, "", written)


def refuse_not_finite(value: Any, pointer: str, written: Any = None) -> None:
    """UnencodableError, with the place, when `value` holds NaN or an infinity. What is `written` in
    its place as text or a number is somebody's wish."""
    if isinstance(written, (str, int)) or (isinstance(written, float) and math.isfinite(written)):
        return
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
        named = written if isinstance(written, dict) else {}
        for key, item in value.items():
            refuse_not_finite(item, f"{pointer}/{key}", named.get(str(key)))
    elif isinstance(value, (list, tuple)):
        listed = written if isinstance(written, list) and len(written) == len(value) else ()
        for index, item in enumerate(value):
            refuse_not_finite(item, f"{pointer}/{index}", listed[index] if listed else None)
