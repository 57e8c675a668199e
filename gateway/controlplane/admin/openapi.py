"""What is the admin API, for programs that read OpenAPI?

Rendered from the table of operations and the models of the file: what the router serves and
the models accept is what the document says. It describes; it decides nothing.
"""

import json
import re

from pydantic import TypeAdapter

from gateway.controlplane.admin.mirrors import mirror_schemas
from gateway.controlplane.admin.openapi_operations import TEXT, Schema, described, ref
from gateway.controlplane.admin.operations import OPERATIONS
from gateway.controlplane.admin.problems import KINDS
from gateway.controlplane.admin.rollout_schemas import rollout_schemas
from gateway.controlplane.admin.series import series_schemas
from gateway.controlplane.configuration.file_schema import tidied
from gateway.controlplane.configuration.schemas import File
from gateway.core.entries import NAME
from gateway.core.table import MAX_WEIGHT


def _object(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "required": required, "properties": properties}


_INT: Schema = {"type": "integer", "minimum": 0}
_ANY: Schema = {}
_WEIGHTS: Schema = {
    "type": "object",
    "minProperties": 1,
    "propertyNames": {"pattern": NAME},
    "additionalProperties": {"type": "integer", "minimum": 0, "maximum": MAX_WEIGHT},
}
_CHANGES: Schema = {"type": "array", "items": ref("Change")}
_APPLIED = _object(
    ["workers"],
    workers=_INT,
    gateways=_INT,
    lost={
        "type": "array",
        "items": TEXT,
        "description": "With several gateways: those that were there and have lost their lease.",
    },
)
_SERVES = {
    "type": "object",
    "additionalProperties": TEXT,
    "description": "Backend → what `headgate up` will do about its processes.",
}
_WRITTEN = {
    "revision": _INT, "diff": _CHANGES, "applied": _APPLIED, "dry_run": {"const": True},
    "serves": _SERVES,
}  # fmt: skip
_REVISION = {
    "revision": _INT,
    "time": {"type": "string", "format": "date-time"},
    "who": TEXT,
    "why": TEXT,
    "source": {"enum": ["file", "api", "restore"]},
    "diff": _CHANGES,
}


def _map_of(item: Schema) -> Schema:
    return {"type": "object", "additionalProperties": item}


_ENTRIES = {
    "backends": _map_of(ref("BackendSpec")),
    "routes": _map_of(ref("RouteSpec")),
    "keys": _map_of(ref("KeySpec")),
    "default_limits": ref("LimitsSpec"),
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
    weights = ref("WeightsPut")
    partial = {**_WEIGHTS["additionalProperties"], "type": ["integer", "null"]}
    return {
        "Table": _object(["revision", "backends", "routes"], revision=_INT, **_ENTRIES),
        "WeightsPut": _WEIGHTS,
        "WeightsPatch": {**_WEIGHTS, "minProperties": 0, "additionalProperties": partial},
        "Weights": _object(
            ["revision", "route", "weights", "effective"],
            revision=_INT, route=TEXT, weights=weights, effective=_map_of({"type": "number"}),
        ),
        "RoutePatch": {"type": "object", "description": "RFC 7396: null removes a key."},
        "BackendPatch": {"type": "object", "description": "RFC 7396: null removes a key."},
        "Keys": _object(
            ["revision", "keys"], revision=_INT, keys=_ENTRIES["keys"],
            used={"type": "object", "additionalProperties": ref("KeyUse")},
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
                routes={"type": "array", "items": TEXT},
                expires={"type": "string", "format": "date-time"}, limits=ref("LimitsSpec"),
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
    weights = ref("WeightsPut")
    return {
        "WeightsOutcome": _object(
            ["revision", "route", "previous", "weights", "applied"],
            route=TEXT, previous=weights, weights=weights, **_WRITTEN,
        ),
        "Outcome": _object(
            ["revision", "previous", "current", "diff", "applied"],
            route=TEXT, backend=TEXT, previous=_ANY, current=_ANY, **_WRITTEN,
        ),
        "KeyMade": _object(
            ["name", "revision", "applied"],
            name=TEXT, key={"type": "string", "pattern": "^hg_"}, **_WRITTEN,
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
                "type": "array", "items": TEXT,
                "description": "Settings that the file says otherwise: they take a restart.",
            },
        ),
        "Restored": _object(
            ["revision", "restored", "previous", "diff", "applied"],
            restored=_INT, previous=_INT, **_WRITTEN,
        ),
        "Restarting": _object(
            ["revision", "backend", "serves"],
            revision=_INT, backend=TEXT, serves=_SERVES,
        ),
        "Change": _object(
            ["op", "pointer"],
            op={"enum": ["add", "remove", "replace"]}, pointer=TEXT, before=_ANY, after=_ANY,
            note=TEXT,
        ),
    }  # fmt: skip


def _reports() -> dict[str, Schema]:
    """What was, in the history, and what is live."""
    return {
        "History": _object(
            ["revisions", "next"],
            revisions={"type": "array", "items": ref("Revision")},
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
            listen={**TEXT, "description": "The URL at which requests are taken."},
        ),
        "Logs": _object(
            ["backend", "lines"],
            backend=TEXT,
            lines={
                "type": "array",
                "items": _object(
                    ["number", "instance", "text"], number=_INT, instance=TEXT, text=TEXT
                ),
            },
        ),
        "Word": _object(["status"], status=TEXT),
    }


def _problems() -> dict[str, Schema]:
    """What is answered when a call is refused."""
    return {
        "Fault": _object(["pointer", "code", "detail"], pointer=TEXT, code=TEXT, detail=TEXT),
        "Problem": _object(
            ["type", "title", "status", "detail", "code", "request_id"],
            type=TEXT, title=TEXT, status=_INT, detail=TEXT,
            code={"enum": sorted(KINDS)}, request_id=TEXT,
            errors={"type": "array", "items": ref("Fault")},
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
        paths.setdefault(path, {})[operation.method.lower()] = described(operation)
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
        "content": {"application/problem+json": {"schema": ref("Problem")}},
    }
