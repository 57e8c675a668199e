"""Does an answer fit the type that its hook promises, and what of it goes out?

An annotation of `encode_response`, or of a function's result, is what FastAPI calls a response
model: a value is validated, what the type does not have is left out, and names and exclusions
are those of the dumped form.
"""

import inspect
from collections.abc import Callable
from typing import Any, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError

from instance.model.codec import (
    UnencodableError,
    encode_json,
    may_hold_nan,
    refuse_lost,
    without_arrays,
)
from instance.model.faults import pointer_of

Shape = Callable[[Any], bytes]
FREE = (inspect.Parameter.empty, None, type(None), Any, object, bytes)


def adapter_of(annotation: Any) -> TypeAdapter[Any] | None:
    """What validates answers of the type `annotation`; None where it leaves nothing to check:
    none, bytes, a response of its own. ValueError when pydantic cannot make sense of it."""
    if annotation in FREE or is_response(annotation):
        return None
    try:
        return TypeAdapter(annotation)
    except (PydanticUserError, TypeError) as error:
        raise ValueError(str(error).splitlines()[0]) from None


def is_response(annotation: Any) -> bool:
    """Whether a hook that says so makes its answers itself."""
    bases = annotation.__mro__ if isinstance(annotation, type) else ()
    return any(
        base.__name__ == "Response"
        and base.__module__.partition(".")[0] in ("starlette", "instance")
        for base in bases
    )


def shape_of(annotation: Any, adapter: TypeAdapter[Any]) -> Shape:
    """How a value becomes the JSON of an answer of that type; UnencodableError when it does not
    fit it."""
    plain = _plain_type(annotation)
    name = getattr(annotation, "__name__", None) or str(annotation)
    if get_args(annotation):
        name = str(annotation)

    def shaped(value: Any) -> bytes:
        """`value` as JSON, validated; an array stands for the list that was promised."""
        if plain is not None and type(value) is plain:
            return encode_json(value)
        try:
            return _dumped(adapter, adapter.validator.validate_python(value, from_attributes=True))
        except (ValidationError, PydanticSerializationError) as error:
            again = without_arrays(value)  # a list is promised and an array would do
            if again is value:
                raise _unfit(name, error) from None
        try:
            return _dumped(adapter, adapter.validator.validate_python(again, from_attributes=True))
        except (ValidationError, PydanticSerializationError) as error:
            raise _unfit(name, error) from None

    return shaped


def _plain_type(annotation: Any) -> type | None:
    """The type of values that need no look inside: a dict or a list of anything."""
    origin = get_origin(annotation) or annotation
    if origin not in (dict, list):
        return None
    said = get_args(annotation)
    return origin if said in ((), (Any,), (str, Any)) else None


def _dumped(adapter: TypeAdapter[Any], value: Any) -> bytes:
    # Not by the adapter's own method: its arguments cost more than a short answer does.
    body: bytes = adapter.serializer.to_json(value, by_alias=True)
    if may_hold_nan(body):
        refuse_lost(adapter.dump_python(value, by_alias=True), body)
    return body


def _unfit(name: str, error: Exception) -> UnencodableError:
    if not isinstance(error, ValidationError):
        return UnencodableError(f"the model's answer cannot be written as {name}: {error}")
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    said = "; ".join(f"{pointer_of(fault['loc']) or '/'}: {fault['msg']}" for fault in faults[:3])
    return UnencodableError(f"the model's answer does not fit {name}: {said}")
