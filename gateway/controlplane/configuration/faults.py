"""How does what pydantic found read to the person who wrote it?

Turns validation errors into faults: a JSON pointer, one word, one sentence in our own terms
and, for an unknown key, the key that was probably meant. Values are never repeated here
except by the field types, which show configuration and no secrets.
"""

import re
from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from gateway.controlplane.configuration.fields import NO_NUL, NODE, PREFIX
from gateway.core.entries import METHOD
from gateway.core.faults import Fault, did_you_mean, pointer
from gateway.core.header_fields import TOKEN

_WORDS = {
    "missing": ("missing", "is missing"),
    "extra_forbidden": ("unknown_key", "unknown key"),
    "int_type": ("type", "must be a whole number"),
    "float_type": ("type", "must be a number"),
    "finite_number": ("number", "must be a finite number"),
    "bool_type": ("type", "must be true or false"),
    "string_type": ("type", "must be text"),
    "list_type": ("type", "must be a list"),
    "dict_type": ("type", "must be a mapping"),
    "model_type": ("type", "must be a mapping"),
    "model_attributes_type": ("type", "must be a mapping"),
}
_BOUNDS = {
    "greater_than_equal": ("ge", "must be at least {}"),
    "less_than_equal": ("le", "must be at most {}"),
    "too_short": ("min_length", "needs at least {} entry"),
    "literal_error": ("expected", "must be {}"),
    "string_too_short": ("min_length", "needs at least {} character"),
    "string_too_long": ("max_length", "has more than {} characters"),
    "greater_than": ("gt", "must be more than {}"),
}
_FORMS = {
    TOKEN: "is no name of a header or cookie: letters, digits and !#$%&'*+.^_`|~-",
    METHOD: "is no method: capitals and digits, up to 32",
    NODE: "must be up to 64 letters, digits, '.', '_' and '-'",
    PREFIX: "must begin with / and hold up to 128 letters, digits, '.', '_', '/' and '-'",
    NO_NUL: "holds a character that no file's name has",
}
"""In words what a text must look like."""


def faults_of(error: ValidationError, model: Any, at: Sequence[str | int] = ()) -> list[Fault]:
    """Every fault of `error`, found when `model` was validated at the place `at`."""
    return [_fault(dict(found), model, at) for found in error.errors(include_url=False)]


def _fault(found: Mapping[str, Any], model: Any, at: Sequence[str | int]) -> Fault:
    place = [part for part in found["loc"] if part != "[key]"]
    where = pointer(*at, *place)
    kind, context = found["type"], found.get("ctx") or {}
    if kind == "headgate":
        hint = _hint(kind, found["input"], place, model)
        return Fault(where, str(context["code"]), str(context["detail"]), hint)
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return Fault(where, "value", words.format(context.get(bound)))
    if kind == "string_pattern_mismatch":
        form = str(context["pattern"])
        words = _FORMS.get(form, f"does not have the form {form}")
        return Fault(where, "value", words, _capitals(found.get("input"), form))
    code, words = _WORDS.get(kind, ("value", found["msg"].lower()))
    hint = _hint(kind, found.get("input"), place, model)
    return Fault(where, code, words, hint)


def _hint(kind: str, value: Any, place: Sequence[str | int], model: Any) -> str:
    if kind == "extra_forbidden":
        return did_you_mean(str(place[-1]), keys_at(model, place[:-1]))
    if value is None and kind != "missing":
        return "leave the key out to get the default"
    if kind == "string_type" and type(value) is int:
        return f'write it in quotes: "{value}"'
    if kind == "int_type" and isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value):
        return f"write it without quotes: {value}"
    if kind == "list_type" and isinstance(value, str):
        return "write it in brackets"
    return ""


def _capitals(value: Any, pattern: str) -> str:
    """What `value` lacks to have the form `pattern`, where that is capitals and no more."""
    is_near = isinstance(value, str) and bool(pattern) and re.fullmatch(pattern, value.upper())
    return f"write it {value.upper()}" if is_near else ""


def keys_at(model: Any, place: Sequence[str | int]) -> list[str]:
    """The keys that `model` knows at `place`; none where any key may stand."""
    for part in place:
        model = _inner(model, part)
    model = _bare(model)
    if isinstance(model, type) and issubclass(model, BaseModel):
        return [field.alias or name for name, field in model.model_fields.items()]
    return []


def _inner(model: Any, part: str | int) -> Any:
    model = _bare(model)
    if isinstance(model, type) and issubclass(model, BaseModel):
        for name, field in model.model_fields.items():
            if part == (field.alias or name):
                return field.annotation
        return None
    return get_args(model)[-1] if get_origin(model) in (dict, list) else None


def _bare(model: Any) -> Any:
    """`model` out of its Annotated, and without the None that it may be instead."""
    model = get_args(model)[0] if hasattr(model, "__metadata__") else model
    forms = [each for each in get_args(model) if each is not NoneType]
    return forms[0] if isinstance(model, UnionType) and len(forms) == 1 else model
