"""What can a client ask of this gateway? One OpenAPI document for all routes.

Made from the table and the documents of the instances: paths as clients call them, schemas
under names that do not clash, and where two backends of a route differ, the union of both.
Pure; who fetches the documents and who serves the outcome is not its business.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

from gateway.controlplane.docs.openapi_parts import Part, components, pointed, renamed
from gateway.controlplane.docs.openapi_union import union
from gateway.core.errors import KINDS
from gateway.core.table import Route, Table

Json = dict[str, Any]

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
PROBLEM = "GatewayProblem"
MAX_DEPTH = 200


@dataclass(slots=True)
class _Merged:
    """The document so far."""

    paths: dict[str, Json] = field(default_factory=dict)
    shapes: dict[str, str] = field(default_factory=dict)
    operation_ids: set[str] = field(default_factory=set)


def merge(table: Table, documents: Mapping[str, Any]) -> Json:
    """The OpenAPI 3.1 document of every route of `table`.

    `documents`: backend → the document of one of its instances. Those that are not OpenAPI 3
    are left out, and routes that nobody describes are named in the description. It says what a
    client may ask for, and neither what a route is chosen by nor who answers: the values that
    headers are compared with may be secrets, hosts and backends are the operator's business.
    """
    sound = {"": _OWN, **{name: found for name, found in documents.items() if _is_sound(found)}}
    names = renamed(sound)
    moved = {name: pointed(_shown(sound[name]), names[name]) for name in names}
    merged = _Merged()
    undescribed = []
    for route in table.routes.values():
        described = [
            _add_all(merged, route, moved[backend])
            for backend, _ in route.split
            if backend in moved
        ]
        if not any(described):
            undescribed.append(route.name)
    document: Json = {
        "openapi": "3.1.0",
        "info": {"title": "Headgate", "version": "", "description": _about(table, undescribed)},
        "servers": [{"url": "/"}],
        "tags": [{"name": r.name, "description": _asked(r)} for r in table.routes.values()],
        "paths": merged.paths,
        "components": _components(sound, names),
    }
    document["info"]["version"] = _version(document)
    return document


def _shown(document: Json) -> Json:
    """The part of `document` that operations are made of."""
    return {key: document[key] for key in ("paths", "security") if key in document}


def _add_all(merged: _Merged, route: Route, document: Json) -> bool:
    """Adds what `route` lets through to `document`'s instance; whether there was anything.

    What is malformed in a way that nobody foresaw costs its own description and no other's.
    """
    found = False
    with suppress(AttributeError, KeyError, TypeError, ValueError):
        for path, method, operation in _operations(route, document):
            _add(merged, route, path, method, operation)
            found = True
    return found


def client_path(route: Route, path: str) -> str | None:
    """The path by which a client reaches `path` of an instance; None when it cannot.

    Undoes the rewrite: with prefix /digits and rewrite /predict, /predict/x is /digits/x.
    """
    there, here = route.rewrite, route.match.path
    if there is None:
        reached = path == here if route.match.exact else _below(path, here) is not None
        return path if reached else None
    rest = _below(path, there)
    if rest is None or (route.match.exact and rest):
        return None
    return (here.rstrip("/") + rest) or "/"


def _below(path: str, prefix: str) -> str | None:
    """What follows `prefix`, a prefix of whole segments, in `path`; None if it is none."""
    stem = prefix.rstrip("/")
    if path in (stem, prefix):
        return ""
    return path[len(stem) :] if path.startswith(f"{stem}/") else None


def _operations(route: Route, document: Json) -> Iterator[tuple[str, str, Json]]:
    """(path, method, operation) of all that `route` lets through to `document`'s instance."""
    allowed = {method.lower() for method in route.match.methods}
    for path, item in (document.get("paths") or {}).items():
        outside = client_path(route, path)
        if outside is None or not isinstance(item, dict):
            continue
        for method in METHODS:
            operation = item.get(method)
            if isinstance(operation, dict) and (not allowed or method in allowed):
                yield outside, method, _whole(operation, item, document)


def _whole(operation: Json, item: Json, document: Json) -> Json:
    """`operation` with what its path and its document say for all of theirs."""
    whole = {key: value for key, value in operation.items() if key not in ("servers", "callbacks")}
    shared = [p for p in item.get("parameters") or () if isinstance(p, dict)]
    own = operation.get("parameters") or []
    given = {(p.get("in"), p.get("name")) for p in own}
    parameters = [*own, *(p for p in shared if (p.get("in"), p.get("name")) not in given)]
    if parameters:
        whole["parameters"] = parameters
    if "security" not in whole and document.get("security"):
        whole["security"] = document["security"]
    return whole


def _add(merged: _Merged, route: Route, path: str, method: str, operation: Json) -> None:
    shape = re.sub(r"\{[^{}]*\}", "{}", path)
    known = merged.shapes.setdefault(shape, path)
    operation = _with_conditions(_like(known, path, operation), route)
    item = merged.paths.setdefault(known, {})
    if method in item:
        kept = item[method]
        tags = list(dict.fromkeys([*kept["tags"], route.name]))
        item[method] = {**union(kept, operation), "tags": tags}
        return
    identity = _operation_id(merged, route, operation.get("operationId") or method)
    item[method] = {**operation, "operationId": identity, "tags": [route.name]}
    item[method].setdefault("responses", {})
    item[method]["responses"].setdefault("default", _problem())


def _like(known: str, path: str, operation: Json) -> Json:
    """`operation` with its path parameters named as in `known`, a path of the same shape."""
    if known == path:
        return dict(operation)
    names = dict(zip(_templates(path), _templates(known), strict=True))
    parameters = [
        {**p, "name": names.get(p["name"], p["name"])} if p.get("in") == "path" else p
        for p in operation.get("parameters") or ()
    ]
    return {**operation, "parameters": parameters}


def _templates(path: str) -> list[str]:
    return re.findall(r"\{([^{}]*)\}", path)


def _with_conditions(operation: Json, route: Route) -> Json:
    """`operation` with the headers that the route asks for as parameters."""
    given = {p.get("name", "").lower() for p in operation.get("parameters") or ()}
    asked = [
        {"in": "header", "name": name, "required": True, "schema": {"type": "string"}}
        for name, _ in route.match.headers
        if name.lower() not in given
    ]
    responses = {str(status): answer for status, answer in operation.get("responses", {}).items()}
    operation = {**operation, "responses": responses}
    if asked:
        operation["parameters"] = [*(operation.get("parameters") or ()), *asked]
    return operation


def _operation_id(merged: _Merged, route: Route, said: str) -> str:
    plain = re.sub(r"\W", "_", f"{route.name}_{said}")
    name, number = plain, 2
    while name in merged.operation_ids:
        name, number = f"{plain}_{number}", number + 1
    merged.operation_ids.add(name)
    return name


def _components(documents: Mapping[str, Json], names: Mapping[str, Mapping[Part, str]]) -> Json:
    found: dict[str, Json] = {}
    for label, new in names.items():
        for part, content in components(documents[label]).items():
            section, name = part[0], new[part]
            if name not in found.setdefault(section, {}):
                found[section][name] = pointed(content, new)
    return found


def _about(table: Table, undescribed: Sequence[str]) -> str:
    count = len(table.routes)
    text = f"{count} route{'' if count == 1 else 's'} behind this gateway."
    if undescribed:
        text += f" No instance describes: {', '.join(undescribed)}."
    return text


def _version(document: Json) -> str:
    """A name for what `document` says: an edit of a weight alone does not change it."""
    return hashlib.sha256(orjson.dumps(document)).hexdigest()[:12]


def _asked(route: Route) -> str:
    """What a client must ask for to be on this route, without the values of conditions."""
    match = route.match
    path = f"exactly `{match.path}`" if match.exact else f"`{match.path}` and below"
    conditions = ["at certain hosts"] if match.hosts else []
    conditions += [f"by the header `{name}`" for name, _ in match.headers]
    conditions += [f"by `{name}` in the JSON body" for name, _ in match.json]
    return f"{'; '.join([path, *conditions])}."


def _is_sound(document: Any) -> bool:
    """Whether this is an OpenAPI 3 document of a depth that can be walked."""
    if not isinstance(document, dict) or not isinstance(document.get("paths"), dict):
        return False
    return str(document.get("openapi", "")).startswith("3.") and _depth_within(document)


def _depth_within(node: Any) -> bool:
    level, depth = [node], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            return False
        below: list[Any] = []
        for each in level:
            below += each.values() if isinstance(each, dict) else each
        level = [each for each in below if isinstance(each, dict | list)]
    return True


def _problem() -> Json:
    schema = {"$ref": f"#/components/schemas/{PROBLEM}"}
    return {
        "description": "The gateway cannot have the request answered",
        "content": {"application/problem+json": {"schema": schema}},
    }


_PROBLEM_SCHEMA: Json = {
    "type": "object",
    "description": "An error that the gateway itself answers with (RFC 9457)",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"enum": list(KINDS)},
        "request_id": {"type": "string"},
    },
}

_OWN: Json = {"components": {"schemas": {PROBLEM: _PROBLEM_SCHEMA}}}
"""The gateway's own part, merged first so that it keeps its name."""
