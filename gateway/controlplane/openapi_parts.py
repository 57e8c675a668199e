"""How do the named parts of several OpenAPI documents live in one?

A part that two documents mean alike is kept once; parts of one name that mean different things
get names of their own, and every reference follows. Pure; a document is not changed.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

Json = Any
Part = tuple[str, str]
"""A part's section and name, as in `#/components/schemas/Digits`."""

_REFERENCE = re.compile(r"#/components/([^/]+)/([^/]+)(.*)")
_LITERAL = frozenset({"example", "default", "const", "enum", "value"})
"""Keys whose values are data: what looks like a reference in there is none."""

_NAMED = frozenset({"properties", "patternProperties", "$defs", "dependentSchemas", "examples"})
"""Keys whose values map names, which may well be called `default` or `$ref`, to parts."""


def components(document: Mapping[str, Json]) -> dict[Part, Json]:
    """Every named part of `document`."""
    found: dict[Part, Json] = {}
    sections = document.get("components")
    for section, parts in (sections if isinstance(sections, Mapping) else {}).items():
        for name, part in (parts if isinstance(parts, Mapping) else {}).items():
            found[section, name] = part
    return found


def renamed(documents: Iterable[tuple[str, Mapping[str, Json]]]) -> Iterator[dict[Part, str]]:
    """For each (label, document) the new name of every part.

    The first document that has a name keeps it; another meaning of that name is labelled.
    """
    meanings: dict[Part, bytes] = {}
    for label, document in documents:
        parts = components(document)
        names: dict[Part, str] = {}
        for section, name in parts:
            meaning = _meaning((section, name), parts)
            wanted = _plain(name)
            number = 1
            while meanings.get((section, wanted), meaning) != meaning:
                suffix = "" if number == 1 else f"_{number}"
                wanted, number = _plain(f"{name}_{label}{suffix}"), number + 1
            meanings[section, wanted] = meaning
            names[section, name] = wanted
        yield names


def pointed(node: Json, names: Mapping[Part, str], *, is_map: bool = False) -> Json:
    """A copy of `node` in which every reference follows `names`."""
    if isinstance(node, list):
        return [pointed(item, names) for item in node]
    if not isinstance(node, Mapping):
        return node
    copy = {}
    for key, value in node.items():
        if is_map:
            copy[key] = pointed(value, names)
        elif key == "$ref" and isinstance(value, str):
            copy[key] = _moved(value, names)
        elif key == "mapping" and isinstance(value, Mapping):  # of a discriminator
            copy[key] = {word: _mapped(target, names) for word, target in value.items()}
        elif key == "security" and isinstance(value, list):
            copy[key] = [_proofs(way, names) for way in value]
        elif key in _LITERAL or (key == "examples" and isinstance(value, list)):
            copy[key] = value
        else:
            copy[key] = pointed(value, names, is_map=key in _NAMED)
    return copy


def references(node: Json) -> Iterator[Part]:
    """Every part that `node` refers to, literal data left out."""
    if isinstance(node, list):
        for item in node:
            yield from references(item)
    elif isinstance(node, Mapping):
        target = node.get("$ref")
        if isinstance(target, str) and (match := _REFERENCE.fullmatch(target)):
            yield match[1], _unescaped(match[2])
        for key, value in node.items():
            if key not in _LITERAL:
                yield from references(value)


def _meaning(part: Part, parts: Mapping[Part, Json]) -> bytes:
    """What `part` says, with all that it refers to: equal for equal meanings."""
    reached: dict[str, Json] = {}
    waiting = [part]
    while waiting:
        section, name = waiting.pop()
        key = f"{section}/{name}"
        if key not in reached and (section, name) in parts:
            reached[key] = parts[section, name]
            waiting += references(parts[section, name])
    return orjson.dumps(reached, option=orjson.OPT_SORT_KEYS)


def _moved(reference: str, names: Mapping[Part, str]) -> str:
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        return reference
    name = names.get((match[1], _unescaped(match[2])))
    return reference if name is None else f"#/components/{match[1]}/{name}{match[3]}"


def _proofs(way: Json, names: Mapping[Part, str]) -> Json:
    """A security requirement: names of schemes, not references to them."""
    if not isinstance(way, Mapping):
        return way
    return {names.get(("securitySchemes", name), name): scopes for name, scopes in way.items()}


def _mapped(target: Json, names: Mapping[Part, str]) -> Json:
    """A discriminator's target: a reference, or the bare name of a schema."""
    if not isinstance(target, str):
        return target
    return names.get(("schemas", target)) or _moved(target, names)


def _plain(name: str) -> str:
    """`name` in the letters that OpenAPI allows."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _unescaped(name: str) -> str:
    return name.replace("~1", "/").replace("~0", "~")
