"""What does a client see of one operation that two versions describe differently?

Either may answer, so the client must be ready for both: a body that either takes, an answer
that either gives. Pure, on operations whose references already live in one document.
"""

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]


def union(one: Json, other: Json) -> Json:
    """The operation that holds whichever of the two is asked."""
    if one == other:
        return one
    merged = {**other, **one}
    merged["responses"] = _by_key(one.get("responses"), other.get("responses"), _answer)
    bodies = [body for body in (one.get("requestBody"), other.get("requestBody")) if body]
    if bodies:
        merged["requestBody"] = _body(bodies[0], bodies[-1], needed=len(bodies) == 2)
    parameters = _parameters(one.get("parameters") or [], other.get("parameters") or [])
    if parameters:
        merged["parameters"] = parameters
    if "security" in one or "security" in other:
        merged["security"] = _alternatives(one.get("security"), other.get("security"))
    descriptions = [d for d in (one.get("description"), other.get("description")) if d]
    if descriptions:
        merged["description"] = "\n\n".join(dict.fromkeys(descriptions))
    return merged


def _by_key(one: Any, other: Any, both: Any) -> Json:
    one, other = _mapping(one), _mapping(other)
    return {
        key: both(one[key], other[key]) if key in one and key in other else {**other, **one}[key]
        for key in {**one, **other}
    }


def _answer(one: Json, other: Json) -> Json:
    if one == other or "$ref" in one or "$ref" in other:
        return one if one == other else _either_reference(one, other)
    merged = {**other, **one}
    words = [text for text in (one.get("description"), other.get("description")) if text]
    merged["description"] = " / ".join(dict.fromkeys(words))
    content = _by_key(one.get("content"), other.get("content"), _media)
    return {**merged, "content": content} if content else merged


def _either_reference(one: Json, other: Json) -> Json:
    """A reference stands for its whole answer and cannot be opened here: one is kept."""
    kept, named = (one, other) if "$ref" in one else (other, one)
    words = named.get("description")
    return {**kept, "description": words} if words else kept


def _body(one: Json, other: Json, *, needed: bool) -> Json:
    if one == other and needed:
        return one
    merged = {**other, **one}
    merged["required"] = bool(needed and one.get("required") and other.get("required"))
    content = _by_key(one.get("content"), other.get("content"), _media)
    return {**merged, "content": content} if content else merged


def _media(one: Json, other: Json) -> Json:
    merged = {**other, **one}
    schema = either(one.get("schema", {}), other.get("schema", {}))
    return {**merged, "schema": schema} if schema != {} else merged


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
    distinct = [option for index, option in enumerate(options) if option not in options[:index]]
    return {"anyOf": distinct}


def _parameters(one: list[Json], other: list[Json]) -> list[Json]:
    known = {_identity(parameter): parameter for parameter in other}
    merged = []
    for parameter in one:
        match = known.pop(_identity(parameter), None)
        merged.append(_optional(parameter) if match is None else _parameter(parameter, match))
    return [*merged, *map(_optional, known.values())]


def _parameter(one: Json, other: Json) -> Json:
    if one == other or "$ref" in one:
        return one
    merged = {**other, **one, "schema": either(one.get("schema", {}), other.get("schema", {}))}
    needed = one.get("in") == "path" or (one.get("required") and other.get("required"))
    return {**merged, "required": bool(needed)}


def _optional(parameter: Json) -> Json:
    """A parameter that only one of the two knows: nobody needs to give it."""
    if "$ref" in parameter or parameter.get("in") == "path":
        return parameter
    return {**parameter, "required": False}


def _identity(parameter: Json) -> tuple[Any, ...]:
    return (parameter.get("$ref"), parameter.get("in"), parameter.get("name"))


def _alternatives(one: Any, other: Any) -> list[Json]:
    """Either's ways of proving who one is; `{}` where one of them asks for none."""
    found: list[Json] = []
    for ways in (one or [{}], other or [{}]):
        found += [way for way in ways if way not in found]
    return found


def _mapping(value: Any) -> Json:
    return value if isinstance(value, dict) else {}
