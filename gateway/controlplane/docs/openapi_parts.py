"""How do the named parts of several OpenAPI documents live in one?

A part that two documents mean alike is kept once; parts of one name that mean different things
get names of their own, and every reference follows. Pure; a document is not changed.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
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


def renamed(documents: Mapping[str, Mapping[str, Json]]) -> dict[str, dict[Part, str]]:
    """For each document, by its label, the new name of every part.

    The first document that has a name keeps it; another meaning of that name gets a number. A
    document whose parts cannot be told apart is left out.
    """
    known: dict[tuple[str, str, bytes], str] = {}
    count: dict[Part, int] = {}
    taken: set[Part] = set()
    found: dict[str, dict[Part, str]] = {}
    for label, document in documents.items():
        try:
            meant = meanings(components(document))
        except (TypeError, ValueError, RecursionError):
            continue
        names = found[label] = {}
        for (section, name), meaning in meant.items():
            plain = _plain(name)
            same = (section, plain, meaning)
            if same not in known:
                wanted = plain
                while (section, wanted) in taken:
                    number = count[section, plain] = count.get((section, plain), 1) + 1
                    wanted = f"{plain}_{number}"
                taken.add((section, wanted))
                known[same] = wanted
            names[section, name] = known[same]
    return found


def meanings(parts: Mapping[Part, Json]) -> dict[Part, bytes]:
    """What each part says together with all that it refers to: equal for equal meanings.

    Parts that refer to each other in a ring are one group, and a group's meaning is made of its
    parts' own words and the meanings of the groups that they refer to: the work grows with the
    size of `parts`, however they are linked.
    """
    own, links = {}, {}
    for part, content in parts.items():
        words = orjson.dumps([part, content], option=orjson.OPT_SORT_KEYS)
        own[part] = hashlib.sha256(words).digest()
        links[part] = [each for each in dict.fromkeys(references(content)) if each in parts]
    group: dict[Part, bytes] = {}
    for ring in _rings(links):
        inside = sorted(own[part] for part in ring)
        outside = {group[to] for part in ring for to in links[part] if to in group}
        meaning = hashlib.sha256(b"".join(inside) + b"/" + b"".join(sorted(outside))).digest()
        group |= dict.fromkeys(ring, meaning)
    return {part: own[part] + group[part] for part in parts}


def _rings(links: Mapping[Part, Sequence[Part]]) -> Iterator[list[Part]]:
    """The strongly connected components of a graph, each after all that it leads to.

    Tarjan's algorithm ("Depth-first search and linear graph algorithms", 1972), with a list in
    place of recursion: a chain of thousands of parts is no deeper than any other.
    """
    index: dict[Part, int] = {}
    low: dict[Part, int] = {}
    open_: dict[Part, None] = {}
    for start in links:
        if start in index:
            continue
        walk = [(start, iter(links[start]))]
        index[start] = low[start] = len(index)
        open_[start] = None
        while walk:
            part, further = walk[-1]
            for to in further:
                if to not in index:
                    index[to] = low[to] = len(index)
                    open_[to] = None
                    walk.append((to, iter(links[to])))
                    break
                if to in open_:
                    low[part] = min(low[part], index[to])
            else:
                walk.pop()
                if walk:
                    before = walk[-1][0]
                    low[before] = min(low[before], low[part])
                if low[part] == index[part]:
                    yield list(_closed(open_, part))


def _closed(open_: dict[Part, None], first: Part) -> Iterator[Part]:
    """Takes from `open_` what was opened last, down to `first`."""
    while True:
        part, _ = open_.popitem()
        yield part
        if part == first:
            return


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
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, Mapping):
            target = node.get("$ref")
            if isinstance(target, str) and (match := _REFERENCE.fullmatch(target)):
                yield match[1], _unescaped(match[2])
            waiting += [value for key, value in node.items() if key not in _LITERAL]


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
