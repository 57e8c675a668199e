"""The union of two versions of one OpenAPI operation.

Either may answer, so the client must be ready for both: a body that either takes, an answer
that either gives. Pure, on operations whose references already live in one document.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

Json = dict[str, Any]


def union(one: Json, other: Json) -> Json:
    """The operation, or the part of one, that holds whichever of the two is asked: a schema that
    either may mean, and nothing `required` that only one of the two wants."""
    if one == other:
        return one
    if "$ref" in one or "$ref" in other:  # it stands for a whole part and cannot be opened here
        return one if "$ref" in one else other
    return {
        key: _member(key, one.get(key), other.get(key), value)
        for key, value in {**other, **one}.items()
    }


def _member(key: str, one: Any, other: Any, value: Any) -> Any:
    """What `key` of a part has in the union; `value` where there is nothing to unite."""
    match key:
        case "responses" | "content" | "headers":
            return _named(one, other)
        case "requestBody":
            return union(one or {}, other or {})
        case "parameters":
            return _parameters(one or [], other or [])
        case "schema":
            return either({} if one is None else one, {} if other is None else other)
        case "required":
            return bool(one and other)
        case "security":  # `{}`: one of them asks for no proof of who one is
            return _distinct([*(one or [{}]), *(other or [{}])])
        case "description":
            return "\n\n".join(dict.fromkeys(text for text in (one, other) if text))
        case _:
            return value


def _named(one: Any, other: Any) -> Json:
    """Parts by name; one that only one of the two has is as it is there."""
    one, other = (each if isinstance(each, dict) else {} for each in (one, other))
    return {
        name: union(one[name], other[name]) if name in one and name in other else part
        for name, part in {**one, **other}.items()
    }


def _parameters(one: list[Json], other: list[Json]) -> list[Json]:
    """A parameter that only one of the two knows need not be given."""
    ours, theirs = ({_identity(each): each for each in all_} for all_ in (one, other))
    return [
        union(ours[key], theirs[key]) if key in ours and key in theirs else _optional(parameter)
        for key, parameter in {**ours, **theirs}.items()
    ]


def _optional(parameter: Json) -> Json:
    if "$ref" in parameter or parameter.get("in") == "path":
        return parameter
    return {**parameter, "required": False}


def _identity(parameter: Json) -> tuple[Any, ...]:
    return (parameter.get("$ref"), parameter.get("in"), parameter.get("name"))


def either(one: Any, other: Any) -> Any:
    """A schema that whatever `one` or `other` allows is valid by."""
    if one == other:
        return one
    if one in ({}, True) or other in ({}, True):
        return {}
    options: list[Any] = []
    for schema in (one, other):
        nested = isinstance(schema, Mapping) and set(schema) == {"anyOf"}
        options += schema["anyOf"] if nested else [schema]
    return {"anyOf": _distinct(options)}


def _distinct(options: Iterable[Any]) -> list[Any]:
    """Each of `options` once, in their order; the work grows with their size alone."""
    known = {orjson.dumps(option, option=orjson.OPT_SORT_KEYS): option for option in options}
    return list(known.values())
