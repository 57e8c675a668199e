"""What does one operation of the admin API take, and what does it answer?

Said in OpenAPI, from what the table of operations says of it. The schemas it names are `openapi`'s.
"""

import re
from typing import Any, Final

from gateway.controlplane.admin.calls import YAML_TYPES
from gateway.controlplane.admin.operations import Operation
from gateway.controlplane.admin.schema_parts import TEXT, Schema, list_of, ref
from gateway.controlplane.admin.series import MAX_NAMES
from gateway.core.entries import NAME

_PARAMETERS: dict[str, Schema] = {
    "route": {"schema": {"type": "string", "pattern": NAME}, "description": "A route's name."},
    "backend": {"schema": {"type": "string", "pattern": NAME}, "description": "A backend's name."},
    "name": {"schema": {"type": "string", "pattern": NAME}, "description": "A key's name."},
    "address": {
        "schema": {"type": "string", "pattern": r"^[^/\s]+:[0-9]+$"},
        "description": "An instance, as host:port.",
    },
    "verb": {
        "schema": {"enum": ["drain", "resume", "disable", "enable"]},
        "description": "What becomes of the instance.",
    },
    "word": {
        "schema": {"enum": ["pause", "resume", "promote", "approve", "abort"]},
        "description": "What the rollout is to do.",
    },
    "revision": {
        "schema": {"type": "integer", "minimum": 1, "maximum": 10**15 - 1},
        "description": "A revision's number.",
    },
}
_BODY_TYPES = {
    "RoutePatch": "application/merge-patch+json",
    "BackendPatch": "application/merge-patch+json",
    "KeyPatch": "application/merge-patch+json",
}


EXAMPLES: Final[dict[str, Any]] = {
    "applyFile": {
        "backends": {"digits-linear": {"instances": ["http://127.0.0.1:8001"]}},
        "routes": {"digits": {"match": "/digits", "split": {"digits-linear": 1}}},
    },
    "putRoute": {
        "match": {"path": "/digits"},
        "rewrite": "/predict",
        "split": {"digits-linear": 90, "digits-cnn": 10},
    },
    "patchRoute": {"retries": {"attempts": 3}, "sticky": {"header": "X-User-Id"}},
    "putWeights": {"digits-linear": 50, "digits-cnn": 50},
    "patchWeights": {"digits-cnn": 20},
    "putRollout": {"to": "digits-cnn", "steps": [1, 5, 25, 50, 100], "hold": "2m"},
    "putBackend": {"instances": ["http://127.0.0.1:8002"], "max_in_flight": 64},
    "patchBackend": {"queue": {"size": 128, "timeout": "2s"}},
    "createKey": {
        "name": "acme",
        "routes": ["digits"],
        "limits": {"requests": "100/s", "burst": 200},
    },
    "patchKey": {"expires": "2038-01-01T00:00:00Z"},
    "addInstance": {"url": "http://127.0.0.1:8009"},
}
"""A body of each operation. A test sends every one of them: one that is refused is a bug."""

_KNOWN = {"getTable", "getRoute", "getBackend", "getKey", "listKeys", "getHistory", "getRevision"}
"""Operations whose entity tag tells all of the answer."""


def described(operation: Operation) -> Schema:
    """`operation`, as a path item has it."""
    found: Schema = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": [operation.tag],
        "responses": _responses(operation),
    }
    if operation.access == "public":
        found["security"] = []
    parameters = _parameters(operation)
    if parameters:
        found["parameters"] = parameters
    if operation.body:
        found["requestBody"] = _body(operation)
    return found


def _parameters(operation: Operation) -> list[Schema]:
    names = re.findall(r"\{(\w+)", operation.path)
    found = [{"name": name, "in": "path", "required": True, **_PARAMETERS[name]} for name in names]
    if operation.name == "getHistory":
        found += [
            _query("limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}),
            _query("before", {"type": "integer", "minimum": 1, "maximum": 2**53}),
        ]
    if operation.name == "getLogs":
        found += [
            _query("lines", {"type": "integer", "minimum": 1, "maximum": 500, "default": 100}),
            _query("after", {"type": "integer", "minimum": 1, "maximum": 2**53}),
        ]
    if operation.name == "getSeries":
        several = {**list_of(TEXT), "maxItems": MAX_NAMES}
        found += [
            {**_query("route", several), "description": "A route's name; may be repeated."},
            {**_query("backend", several), "description": "A backend's name; may be repeated."},
            _query("step", {"type": "integer", "multipleOf": 10, "minimum": 10, "maximum": 3600}),
            _query("last", {"type": "integer", "minimum": 1, "maximum": 3600, "default": 3600}),
        ]
    if operation.name == "streamEvents":
        found.append(
            {
                **_query("last", {"type": "integer", "minimum": 1, "maximum": 3600}),
                "description": "Begins with what is kept of so many seconds before.",
            }
        )
        found.append(_header("Last-Event-ID", "The last event read; those since come first."))
    if operation.name in _KNOWN:
        found.append(_header("If-None-Match", "The ETag of what is there already; 304 if it is."))
    if operation.name == "getRollout":
        found.append(_query("plan", {"type": "boolean", "default": False}))
    if operation.writes:
        found.append(_query("dry_run", {"type": "boolean", "default": False}))
        found.append(_header("If-Match", "The ETag that was read; 412 if it is another now."))
        found.append(_header("X-Change-Reason", "Why; one line for the history."))
    return found


def _query(name: str, schema: Schema) -> Schema:
    return {"name": name, "in": "query", "schema": schema}


def _header(name: str, description: str) -> Schema:
    return {"name": name, "in": "header", "schema": TEXT, "description": description}


def _body(operation: Operation) -> Schema:
    assert operation.body is not None
    content: Schema = {"schema": ref(operation.body)}
    if operation.name in EXAMPLES:
        content["example"] = EXAMPLES[operation.name]
    types = {"application/json": content}
    special = _BODY_TYPES.get(operation.body)
    if special:
        types = {special: content, **types}
    if operation.body == "File":
        types[YAML_TYPES[0]] = {"schema": ref("File")}
    return {"required": True, "content": types}


def _responses(operation: Operation) -> Schema:
    problem = {"$ref": "#/components/responses/Problem"}
    responses: Schema = {"200": _success(operation)}
    if operation.created:
        responses["201"] = _success(operation, "Created.")
    statuses = {"400", "403"}
    if operation.access != "public":
        statuses |= {"401", "429"}
    if operation.missing:
        statuses.add("404")
    if operation.writes:
        statuses |= {"409", "412", "413", "428", "500", "503", "507"}
    if operation.body:
        statuses.add("415")
    if operation.name == "getLogs":
        statuses.add("409")
    if operation.name in ("getReadyz", "getLogs"):
        statuses.add("503")
    if operation.name in _KNOWN:
        responses["304"] = {"description": "It is what the reader has already."}
    return responses | dict.fromkeys(sorted(statuses), problem)


def _success(operation: Operation, description: str = "Done.") -> Schema:
    if operation.answer == "EventStream":
        content: Schema = {"text/event-stream": {"schema": TEXT}}
    elif operation.answer == "MetricsText":
        content = {"text/plain": {"schema": TEXT}}
    else:
        content = {"application/json": {"schema": ref(operation.answer)}}
    return {"description": description, "content": content}
