"""What is the admin API, for programs that read OpenAPI?

Rendered from the table of operations and the models of the file: what the router serves and
the models accept is what the document says. It describes; it decides nothing.
"""

import json
import re
from typing import Any

from pydantic import TypeAdapter

from gateway.controlplane.admin.calls import YAML_TYPES
from gateway.controlplane.admin.examples import EXAMPLES
from gateway.controlplane.admin.mirrors import mirror_schemas
from gateway.controlplane.admin.operations import OPERATIONS, Operation
from gateway.controlplane.admin.problems import KINDS
from gateway.controlplane.admin.rollout_schemas import rollout_schemas
from gateway.controlplane.admin.series import MOST_NAMES, series_schemas
from gateway.controlplane.configuration.file_schema import tidied
from gateway.controlplane.configuration.schemas import File
from gateway.core.entries import NAME
from gateway.core.table import MAX_WEIGHT

Schema = dict[str, Any]

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


_KNOWN = {"getTable", "getRoute", "getBackend", "getKey", "listKeys", "getHistory", "getRevision"}
"""Operations whose entity tag tells all of the answer."""


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": required, "properties": properties}


_INT: Schema = {"type": "integer", "minimum": 0}
_TEXT: Schema = {"type": "string"}
_ANY: Schema = {}
_WEIGHTS: Schema = {
    "type": "object",
    "minProperties": 1,
    "propertyNames": {"pattern": NAME},
    "additionalProperties": {"type": "integer", "minimum": 0, "maximum": MAX_WEIGHT},
}
_CHANGES: Schema = {"type": "array", "items": _ref("Change")}
_APPLIED = _object(
    ["workers"],
    workers=_INT,
    gateways=_INT,
    lost={
        "type": "array",
        "items": _TEXT,
        "description": "With several gateways: those that were there and have lost their lease.",
    },
)
_SERVES = {
    "type": "object",
    "additionalProperties": _TEXT,
    "description": "Backend → what `headgate up` will do about its processes.",
}
_WRITTEN = {
    "revision": _INT, "diff": _CHANGES, "applied": _APPLIED, "dry_run": {"const": True},
    "serves": _SERVES,
}  # fmt: skip
_REVISION = {
    "revision": _INT,
    "time": {"type": "string", "format": "date-time"},
    "who": _TEXT,
    "why": _TEXT,
    "source": {"enum": ["file", "api", "restore"]},
    "diff": _CHANGES,
}


def _map_of(item: Schema) -> Schema:
    return {"type": "object", "additionalProperties": item}


_ENTRIES = {
    "backends": _map_of(_ref("BackendSpec")),
    "routes": _map_of(_ref("RouteSpec")),
    "keys": _map_of(_ref("KeySpec")),
    "default_limits": _ref("LimitsSpec"),
}


def _answers() -> dict[str, Schema]:
    """Every schema that is not a model of the file."""
    return {
        **_entries(),
        **_outcomes(),
        **_reports(),
        **rollout_schemas(),
        **mirror_schemas(),
        **series_schemas(),
        **_problems(),
    }


def _entries() -> dict[str, Schema]:
    """What is read from the table and written to it."""
    weights = _ref("WeightsPut")
    partial = {**_WEIGHTS["additionalProperties"], "type": ["integer", "null"]}
    return {
        "Table": _object(["revision", "backends", "routes"], revision=_INT, **_ENTRIES),
        "WeightsPut": _WEIGHTS,
        "WeightsPatch": {**_WEIGHTS, "minProperties": 0, "additionalProperties": partial},
        "Weights": _object(
            ["revision", "route", "weights", "effective"],
            revision=_INT, route=_TEXT, weights=weights, effective=_map_of({"type": "number"}),
        ),
        "RoutePatch": {"type": "object", "description": "RFC 7396: null removes a key."},
        "BackendPatch": {"type": "object", "description": "RFC 7396: null removes a key."},
        "Keys": _object(
            ["revision", "keys"], revision=_INT, keys=_ENTRIES["keys"],
            used={"type": "object", "additionalProperties": _ref("KeyUse")},
        ),
        "KeyUse": _object(
            ["last_used", "requests_per_s", "requests", "refused"],
            last_used={"type": ["string", "null"], "format": "date-time"},
            requests_per_s={"type": "number"}, requests=_INT, refused=_INT,
        ),
        "KeyPatch": {"type": "object", "description": "RFC 7396: null removes a key."},
        "NewKey": {
            **_object(
                ["name"], name={"type": "string", "pattern": NAME},
                routes={"type": "array", "items": _TEXT},
                expires={"type": "string", "format": "date-time"}, limits=_ref("LimitsSpec"),
            ),
            "additionalProperties": False,
        },
        "NewInstance": {
            **_object(["url"], url={"type": "string", "pattern": r"^(dns\+)?https?://"}),
            "additionalProperties": False,
        },
    }  # fmt: skip


def _outcomes() -> dict[str, Schema]:
    """What a write came to."""
    weights = _ref("WeightsPut")
    return {
        "WeightsOutcome": _object(
            ["revision", "route", "previous", "weights", "applied"],
            route=_TEXT, previous=weights, weights=weights, **_WRITTEN,
        ),
        "Outcome": _object(
            ["revision", "previous", "current", "diff", "applied"],
            route=_TEXT, backend=_TEXT, previous=_ANY, current=_ANY, **_WRITTEN,
        ),
        "KeyMade": _object(
            ["name", "revision", "applied"],
            name=_TEXT, key={"type": "string", "pattern": "^hg_"}, **_WRITTEN,
        ),
        "Applied": _object(
            ["revision", "previous", "overridden", "unserved", "restart", "diff", "applied"],
            previous=_INT, overridden=_CHANGES, **_WRITTEN,
            unserved={
                **_CHANGES,
                "description": "Changes of what `headgate up` serves: no process was started, "
                "replaced or stopped for them.",
            },
            restart={
                "type": "array", "items": _TEXT,
                "description": "Settings that the file says otherwise: they take a restart.",
            },
        ),
        "Restored": _object(
            ["revision", "restored", "previous", "diff", "applied"],
            restored=_INT, previous=_INT, **_WRITTEN,
        ),
        "Restarting": _object(
            ["revision", "backend", "serves"],
            revision=_INT, backend=_TEXT, serves=_SERVES,
        ),
        "Change": _object(
            ["op", "pointer"],
            op={"enum": ["add", "remove", "replace"]}, pointer=_TEXT, before=_ANY, after=_ANY,
            note=_TEXT,
        ),
    }  # fmt: skip


def _reports() -> dict[str, Schema]:
    """What was, in the history, and what is live."""
    return {
        "History": _object(
            ["revisions", "next"],
            revisions={"type": "array", "items": _ref("Revision")},
            next={"type": ["integer", "null"]},
        ),
        "Revision": _object(list(_REVISION), **_REVISION),
        "RevisionDocument": _object(
            [*_REVISION, "document"], **_REVISION, document=_object([], **_ENTRIES)
        ),
        "Status": _object(
            ["revision", "role"],
            revision=_INT,
            role={"enum": ["viewer", "operator"], "description": "What the one who asks may do."},
            listen={**_TEXT, "description": "The URL at which requests are taken."},
        ),
        "Logs": _object(
            ["backend", "lines"],
            backend=_TEXT,
            lines={
                "type": "array",
                "items": _object(
                    ["number", "instance", "text"], number=_INT, instance=_TEXT, text=_TEXT
                ),
            },
        ),
        "Word": _object(["status"], status=_TEXT),
    }


def _problems() -> dict[str, Schema]:
    """What is answered when a call is refused."""
    return {
        "Fault": _object(["pointer", "code", "detail"], pointer=_TEXT, code=_TEXT, detail=_TEXT),
        "Problem": _object(
            ["type", "title", "status", "detail", "code", "request_id"],
            type=_TEXT, title=_TEXT, status=_INT, detail=_TEXT,
            code={"enum": sorted(KINDS)}, request_id=_TEXT,
            errors={"type": "array", "items": _ref("Fault")},
        ),
    }  # fmt: skip


def _file_schemas() -> dict[str, Schema]:
    found = TypeAdapter(File).json_schema(
        by_alias=True, ref_template="#/components/schemas/{model}"
    )
    schemas: dict[str, Schema] = tidied(found.pop("$defs"))
    schemas["File"] = tidied(found)
    return schemas


def openapi() -> Schema:
    """The OpenAPI 3.1 document of the admin API."""
    paths: dict[str, Schema] = {}
    for operation in OPERATIONS:
        # A path's pattern is the router's; readers get the name alone.
        path = re.sub(r"\{(\w+):[^}]*\}", r"{\1}", operation.path)
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Headgate admin API",
            "version": "1",
            "description": "Every write is durable, then visible on every worker, then answered.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}, {}],
        "paths": paths,
        "components": {
            "schemas": {**_file_schemas(), **_answers()},
            "responses": {"Problem": _problem_response()},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def openapi_document() -> bytes:
    """`openapi()` as it is served."""
    return json.dumps(openapi(), ensure_ascii=False).encode()


def _problem_response() -> Schema:
    return {
        "description": "A problem (RFC 9457); `errors` names every fault at once.",
        "content": {"application/problem+json": {"schema": _ref("Problem")}},
    }


def _operation(operation: Operation) -> Schema:
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
        several: Schema = {"type": "array", "items": _TEXT, "maxItems": MOST_NAMES}
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
    return {"name": name, "in": "header", "schema": _TEXT, "description": description}


def _body(operation: Operation) -> Schema:
    assert operation.body is not None
    content: Schema = {"schema": _ref(operation.body)}
    if operation.name in EXAMPLES:
        content["example"] = EXAMPLES[operation.name]
    types = {"application/json": content}
    special = _BODY_TYPES.get(operation.body)
    if special:
        types = {special: content, **types}
    if operation.body == "File":
        types[YAML_TYPES[0]] = {"schema": _ref("File")}
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
        statuses |= {"409", "412", "413", "428", "500", "507"}
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
        content: Schema = {"text/event-stream": {"schema": _TEXT}}
    elif operation.answer == "MetricsText":
        content = {"text/plain": {"schema": _TEXT}}
    else:
        content = {"application/json": {"schema": _ref(operation.answer)}}
    return {"description": description, "content": content}
