"""Is an answer of the admin API what its OpenAPI document promises?"""

import re
from functools import cache
from typing import Any

import jsonschema_rs

from gateway.controlplane.admin.openapi import openapi


@cache
def _document() -> dict[str, Any]:
    return openapi()


@cache
def _paths() -> list[tuple[re.Pattern[str], dict[str, Any]]]:
    return [
        (re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), operations)
        for path, operations in _document()["paths"].items()
    ]


@cache
def _validator(reference: str) -> Any:
    schema = {"$ref": reference, "components": _document()["components"]}
    return jsonschema_rs.Draft202012Validator(schema)


def check(method: str, path: str, status: int, kind: str, body: Any) -> None:
    """Raises AssertionError if `body`, of the media type `kind`, is not what is promised of this
    status; nothing is promised of what is no operation."""
    bare = path.partition("?")[0]
    found = [each for pattern, each in _paths() if pattern.fullmatch(bare)]
    operation = found[0].get(method.lower()) if found else None
    if operation is None or status == 500:  # nobody promises to be at fault
        return
    response = operation["responses"].get(str(status))
    assert response is not None, f"{method} {path}: no answer {status} is promised"
    if "$ref" in response:
        response = _document()["components"]["responses"][response["$ref"].rpartition("/")[2]]
    content = response.get("content", {})
    assert kind in content, f"{method} {path} {status}: no answer in {kind} is promised"
    schema = content[kind]["schema"]
    if "$ref" not in schema:
        return  # a document of somebody else's, such as OpenAPI's own
    faults = [
        f"{'/'.join(map(str, fault.instance_path))}: {fault.message}"
        for fault in _validator(schema["$ref"]).iter_errors(body)
    ]
    assert not faults, (f"{method} {path} {status}", faults, body)
