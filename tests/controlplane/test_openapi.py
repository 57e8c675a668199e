"""The OpenAPI document says what the admin API does, and nothing else."""

import json
import re
from typing import Any

import jsonschema
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.controlplane.admin.openapi import openapi
from gateway.controlplane.admin.operations import OPERATIONS
from tests.controlplane.conftest import Admin
from tests.controlplane.test_admin_security import concrete


def test_the_document_is_valid_openapi() -> None:
    assert list(OpenAPIV31SpecValidator(openapi()).iter_errors()) == []


def test_every_reference_leads_somewhere() -> None:
    document = openapi()
    references = re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document))
    assert references
    for found in references:
        place: Any = document
        for part in found.split("/"):
            place = place[part]


def test_every_operation_is_in_it_once() -> None:
    described = {
        (method.upper(), path, spec["operationId"])
        for path, methods in openapi()["paths"].items()
        for method, spec in methods.items()
    }
    assert described == {
        (o.method, re.sub(r"\{(\w+):[^}]*\}", r"{\1}", o.path), o.name) for o in OPERATIONS
    }


def schema_of(answer: dict[str, Any]) -> dict[str, Any] | None:
    """The JSON schema of an answer, with the document's components at hand."""
    document = openapi()
    if "$ref" in answer:
        answer = document["components"]["responses"]["Problem"]
    for kind, content in answer["content"].items():
        if kind.endswith("json"):
            return {**content["schema"], "components": document["components"]}
    return None


async def test_answers_have_the_shape_that_is_described(admin: Admin) -> None:
    paths = openapi()["paths"]
    for operation in OPERATIONS:
        if operation.answer == "EventStream":
            continue
        described = paths[re.sub(r"\{(\w+):[^}]*\}", r"{\1}", operation.path)]
        spec = described[operation.method.lower()]
        body = next(
            (
                content["example"]
                for content in spec.get("requestBody", {}).get("content", {}).values()
                if "example" in content
            ),
            None,
        )
        more: dict[str, Any] = {} if body is None else {"json": body}
        path = concrete(operation.path)
        if operation.writes:
            path += "?dry_run=true"
        async with admin.client.request(operation.method, path, **more) as response:
            status, text = response.status, await response.text()
        assert str(status) in spec["responses"], (operation.name, status, text)
        schema = schema_of(spec["responses"][str(status)])
        if schema is not None:
            jsonschema.validate(json.loads(text), schema)


async def test_the_document_and_its_page_are_served(admin: Admin) -> None:
    async with admin.client.get("/openapi.json") as response:
        assert await response.json() == openapi()
    for path, kind in (
        ("/docs", "text/html"),
        ("/docs/reference.js", "text/javascript"),
        ("/docs/reference.css", "text/css"),
    ):
        async with admin.client.get(path) as response:
            assert response.status == 200
            assert response.content_type == kind
