"""What is the admin API, for programs that read OpenAPI?

Rendered from the table of operations and the models of the file: what the router serves and
the models accept is what the document says. It describes; it decides nothing.
"""

import json
import re

from pydantic import TypeAdapter

from gateway.controlplane.admin.mirrors import mirror_schemas
from gateway.controlplane.admin.openapi_operations import described
from gateway.controlplane.admin.operations import OPERATIONS
from gateway.controlplane.admin.problems import KINDS
from gateway.controlplane.admin.rollout_schemas import rollout_schemas
from gateway.controlplane.admin.schema_parts import (
    COUNT,
    DRY_RUN,
    NUMBER,
    TEXT,
    TIME,
    Schema,
    list_of,
    map_of,
    record,
    ref,
    whole,
)
from gateway.controlplane.admin.series import series_schemas
from gateway.controlplane.configuration.file_schema import tidied
from gateway.controlplane.configuration.schemas import File
from gateway.core.entries import NAME
from gateway.core.table import MAX_WEIGHT

_ANY: Schema = {}
_PATCH: Schema = {"type": "object", "description": "RFC 7396: null removes a key."}
_WEIGHTS: Schema = {
    "type": "object",
    "minProperties": 1,
    "propertyNames": {"pattern": NAME},
    "additionalProperties": {"type": "integer", "minimum": 0, "maximum": MAX_WEIGHT},
}
_CHANGES: Schema = list_of(ref("Change"))
_APPLIED = record(
    ["workers"],
    workers=COUNT,
    gateways=COUNT,
    lost={
        **list_of(TEXT),
        "description": "With several gateways: those that were there and have lost their lease.",
    },
)
_SERVES = {
    **map_of(TEXT),
    "description": "Backend → what `headgate up` will do about its processes.",
}
_WRITTEN = {
    "revision": COUNT, "diff": _CHANGES, "applied": _APPLIED, "dry_run": DRY_RUN,
    "serves": _SERVES,
}  # fmt: skip
_REVISION = {
    "revision": COUNT,
    "time": TIME,
    "who": TEXT,
    "why": TEXT,
    "source": {"enum": ["file", "api", "restore"]},
    "diff": _CHANGES,
}


_ENTRIES = {
    "backends": map_of(ref("BackendSpec")),
    "routes": map_of(ref("RouteSpec")),
    "keys": map_of(ref("KeySpec")),
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
        "Table": record(["revision", "backends", "routes"], revision=COUNT, **_ENTRIES),
        "WeightsPut": _WEIGHTS,
        "WeightsPatch": {**_WEIGHTS, "minProperties": 0, "additionalProperties": partial},
        "Weights": whole(
            revision=COUNT, route=TEXT, weights=weights, effective=map_of(NUMBER),
        ),
        "RoutePatch": _PATCH,
        "BackendPatch": _PATCH,
        "Keys": record(
            ["revision", "keys"], revision=COUNT, keys=_ENTRIES["keys"],
            used=map_of(ref("KeyUse")),
        ),
        "KeyUse": whole(
            last_used={"type": ["string", "null"], "format": "date-time"},
            requests_per_s=NUMBER, requests=COUNT, refused=COUNT,
        ),
        "KeyPatch": _PATCH,
        "NewKey": {
            **record(
                ["name"], name={"type": "string", "pattern": NAME},
                routes=list_of(TEXT),
                expires=TIME, limits=ref("LimitsSpec"),
            ),
            "additionalProperties": False,
        },
        "NewInstance": {
            **whole(url={"type": "string", "pattern": r"^(dns\+)?https?://"}),
            "additionalProperties": False,
        },
    }  # fmt: skip


def _outcomes() -> dict[str, Schema]:
    """What a write came to."""
    weights = ref("WeightsPut")
    return {
        "WeightsOutcome": record(
            ["revision", "route", "previous", "weights", "applied"],
            route=TEXT, previous=weights, weights=weights, **_WRITTEN,
        ),
        "Outcome": record(
            ["revision", "previous", "current", "diff", "applied"],
            route=TEXT, backend=TEXT, previous=_ANY, current=_ANY, **_WRITTEN,
        ),
        "KeyMade": record(
            ["name", "revision", "applied"],
            name=TEXT, key={"type": "string", "pattern": "^hg_"}, **_WRITTEN,
        ),
        "Applied": record(
            ["revision", "previous", "overridden", "unserved", "restart", "diff", "applied"],
            previous=COUNT, overridden=_CHANGES, opened=list_of(TEXT), **_WRITTEN,
            unserved={
                **_CHANGES,
                "description": "Changes of what `headgate up` serves: no process was started, "
                "replaced or stopped for them.",
            },
            restart={
                **list_of(TEXT),
                "description": "Settings that the file says otherwise: they take a restart.",
            },
        ),
        "Restored": record(
            ["revision", "restored", "previous", "diff", "applied"],
            restored=COUNT, previous=COUNT, opened=list_of(TEXT), **_WRITTEN,
        ),
        "Restarting": record(
            ["revision", "backend", "serves"],
            revision=COUNT, backend=TEXT, serves=_SERVES, dry_run=DRY_RUN,
        ),
        "Change": record(
            ["op", "pointer"],
            op={"enum": ["add", "remove", "replace"]}, pointer=TEXT, before=_ANY, after=_ANY,
            note=TEXT,
        ),
    }  # fmt: skip


def _reports() -> dict[str, Schema]:
    """What was, in the history, and what is live."""
    return {
        "History": whole(revisions=list_of(ref("Revision")), next={"type": ["integer", "null"]}),
        "Revision": whole(**_REVISION),
        "RevisionDocument": record(
            [*_REVISION, "document"], **_REVISION, document=record([], **_ENTRIES)
        ),
        "Status": record(
            ["revision", "role"],
            revision=COUNT,
            role={"enum": ["viewer", "operator"], "description": "What the one who asks may do."},
            listen={**TEXT, "description": "The URL at which requests are taken."},
        ),
        "Logs": whole(backend=TEXT, lines=list_of(whole(number=COUNT, instance=TEXT, text=TEXT))),
        "Word": whole(status=TEXT),
    }


def _problems() -> dict[str, Schema]:
    """What is answered when a call is refused."""
    return {
        "Fault": whole(pointer=TEXT, code=TEXT, detail=TEXT),
        "Problem": record(
            ["type", "title", "status", "detail", "code", "request_id"],
            type=TEXT, title=TEXT, status=COUNT, detail=TEXT,
            code={"enum": sorted(KINDS)}, request_id=TEXT,
            errors=list_of(ref("Fault")),
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
