"""What can be asked of this instance, for machines?

The OpenAPI 3.1 document, from the schemas the worker described. Pure.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from instance.wire.messages import ModelInfo

Json = dict[str, Any]


def openapi(info: ModelInfo, secrets: Json) -> Json:
    """The document; only the common paths while no worker has described the model yet.
    `secrets` says what the model's path asks clients for: `schemes` by name, and `security`."""
    schemas: Json = {}
    paths: Json = {}
    if info:
        operation = _operation(info, schemas)
        if secrets:
            operation["security"] = secrets["security"]
        paths[info["path"]] = {"post": operation}
    for path, summary in (
        ("/health/live", "Whether the process runs"),
        ("/health/ready", "Whether it takes requests"),
    ):
        paths[path] = {
            "get": {
                "operationId": path.strip("/").replace("/", "_"),
                "summary": summary,
                "responses": {"200": _text("Yes"), "503": _text("No")},
            }
        }
    schemas["Problem"] = PROBLEM
    title = info.get("name", "instance")
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1", "description": info.get("doc") or ""},
        "paths": paths,
        "components": {
            "schemas": schemas,
            **({"securitySchemes": secrets["schemes"]} if secrets else {}),
        },
    }


def merged(documents: Sequence[Json]) -> Json:
    """One document of several: a schema whose name another one has already gets a number."""
    whole, *others = documents
    whole["info"]["title"] = ", ".join(one["info"]["title"] for one in documents)
    for number, other in enumerate(others, start=2):
        text = orjson.dumps(other).decode()
        schemas = whole["components"]["schemas"]
        for name, schema in other["components"]["schemas"].items():
            if schemas.get(name, schema) != schema:
                text = text.replace(
                    f'#/components/schemas/{name}"', f'#/components/schemas/{name}_{number}"'
                )
                text = text.replace(f'"{name}":{{', f'"{name}_{number}":{{')
        other = orjson.loads(text)
        for path, operations in other["paths"].items():
            if "post" in operations:
                operations["post"]["operationId"] = f"predict_{number}"
            whole["paths"].setdefault(path, operations)
        for kind, named in other["components"].items():
            whole["components"].setdefault(kind, {}).update(named)
    return whole


def _operation(info: ModelInfo, schemas: Json) -> Json:
    answer = _taken(info["answer_schema"], schemas)
    kind = info["media_type"] or ("application/x-ndjson" if info["stream"] else "application/json")
    return {
        "operationId": "predict",
        "summary": f"Ask {info['name']}",
        "requestBody": {"required": True, "content": _request(info, schemas)},
        "responses": {
            "200": {"description": "The prediction", "content": {kind: {"schema": answer}}},
            "4XX": _problem("The request cannot be answered as it is"),
            "5XX": _problem("The model failed, or has no room now"),
        },
    }


def _request(info: ModelInfo, schemas: Json) -> Json:
    media: Json = {"schema": _taken(info["request_schema"], schemas)}
    if info["example"]:
        media["example"] = orjson.loads(info["example"])
    if info["request_schema"]:
        return {"application/json": media}
    return {
        "application/json": media,
        "multipart/form-data": {"schema": {"type": "object"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
    }


def _taken(schema: bytes, schemas: Json) -> Json:
    """The schema, with its definitions moved to the document's components."""
    if not schema:
        return {}
    parsed: Json = orjson.loads(schema)
    schemas.update(parsed.pop("$defs", {}))
    if parsed.get("type") == "object" and "title" in parsed:
        name = parsed["title"].replace(" ", "_")
        if name.isidentifier() and name not in schemas:
            schemas[name] = parsed
            return {"$ref": f"#/components/schemas/{name}"}
    return parsed


def _text(description: str) -> Json:
    return {"description": description, "content": {"text/plain": {"schema": {"type": "string"}}}}


def _problem(description: str) -> Json:
    reference = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": description,
        "content": {"application/problem+json": {"schema": reference}},
    }


PROBLEM: Json = {
    "type": "object",
    "description": "An error, as RFC 9457 has it",
    "required": ["type", "title", "status", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"description": "What went wrong with this request"},
        "code": {"type": "string"},
        "request_id": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "pointer": {"type": "string"},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}
