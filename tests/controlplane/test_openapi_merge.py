"""One OpenAPI document for all routes, from those of the instances."""

import copy
import json
import time
import tracemalloc
from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import given, settings
from openapi_spec_validator import validate

from gateway.controlplane.docs.openapi_merge import PROBLEM, client_path, merge
from gateway.controlplane.docs.openapi_parts import meanings
from gateway.controlplane.docs.openapi_union import either, union
from gateway.core.table import Table

Json = dict[str, Any]

PIXELS = {"type": "object", "properties": {"pixels": {"type": "array"}}, "required": ["pixels"]}
DIGIT = {"type": "object", "properties": {"digit": {"type": "integer"}}}


def described(answer: Json = DIGIT, *, path: str = "/predict", **more: Any) -> Json:
    """An instance's document: one POST, with its schemas as components."""

    def body(name: str) -> Json:
        schema = {"$ref": f"#/components/schemas/{name}"}
        return {"content": {"application/json": {"schema": schema}}}

    operation = {
        "operationId": "predict",
        "summary": "Ask the model",
        "requestBody": {"required": True, **body("Request")},
        "responses": {"200": {"description": "The prediction", **body("Answer")}},
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "model", "version": "1"},
        "paths": {path: {"post": operation}},
        "components": {"schemas": {"Request": PIXELS, "Answer": answer}},
        **more,
    }


def table(**routes: Json) -> Table:
    names = {backend for route in routes.values() for backend in route["split"]}
    document = {"backends": {name: {} for name in sorted(names)}, "routes": routes}
    return Table.from_document(document, 7)


DIGITS = {"match": "/digits", "rewrite": "/predict", "split": {"cnn": 10, "linear": 90}}


def merged(table: Table, **documents: Any) -> Json:
    """The merged document, which is valid whatever else it is."""
    before = copy.deepcopy(documents)
    found = merge(table, documents)
    assert documents == before, "a document of an instance was changed"
    validate(found)
    return found


def test_paths_are_as_clients_call_them() -> None:
    found = merged(table(digits=DIGITS), cnn=described(), linear=described())
    assert list(found["paths"]) == ["/digits"]
    operation = found["paths"]["/digits"]["post"]
    assert operation["operationId"] == "digits_predict"
    assert operation["tags"] == ["digits"]


def test_the_version_changes_with_what_clients_see_and_not_with_weights() -> None:
    even = {**DIGITS, "split": {"cnn": 50, "linear": 50}}
    documents = {"cnn": described(), "linear": described()}
    first, second = (merge(table(digits=route), documents) for route in (DIGITS, even))
    assert first == second
    other = merge(table(digits=DIGITS), {"cnn": described({"type": "string"})})
    assert other["info"]["version"] != first["info"]["version"]


@pytest.mark.parametrize(
    ("match", "rewrite", "path", "outside"),
    [
        ("/digits", "/predict", "/predict", "/digits"),
        ("/digits", "/predict", "/predict/batch", "/digits/batch"),
        ("/digits", "/predict", "/predicted", None),
        ("/digits", "/predict", "/health/live", None),
        ({"exact": "/digits"}, "/predict", "/predict", "/digits"),
        ({"exact": "/digits"}, "/predict", "/predict/batch", None),
        ("/v1", None, "/v1/square", "/v1/square"),
        ("/v1", None, "/v2/square", None),
        ({"exact": "/v1/square"}, None, "/v1/square", "/v1/square"),
        ("/", None, "/predict", "/predict"),
        ("/a", "/", "/predict", "/a/predict"),
        ("/", "/predict", "/predict", "/"),
    ],
)
def test_a_rewrite_is_undone(match: Any, rewrite: Any, path: str, outside: Any) -> None:
    spec = {"match": match, "split": {"b": 1}, **({"rewrite": rewrite} if rewrite else {})}
    route = table(r=spec).routes["r"]
    assert client_path(route, path) == outside


def test_schemas_that_mean_the_same_are_kept_once() -> None:
    found = merged(table(digits=DIGITS), cnn=described(), linear=described())
    assert set(found["components"]["schemas"]) == {"Request", "Answer", PROBLEM}


def test_schemas_of_one_name_and_two_meanings_are_told_apart() -> None:
    text = {"type": "object", "properties": {"text": {"type": "string"}}}
    words = {"match": "/words", "rewrite": "/predict", "split": {"writer": 1}}
    found = merged(table(digits=DIGITS, words=words), cnn=described(), writer=described(text))
    schemas = found["components"]["schemas"]
    assert (schemas["Answer"], schemas["Answer_2"]) == (DIGIT, text)
    answer = found["paths"]["/words"]["post"]["responses"]["200"]
    reference = answer["content"]["application/json"]["schema"]["$ref"]
    assert reference == "#/components/schemas/Answer_2"


def test_equal_schemas_that_refer_to_different_ones_are_different() -> None:
    def with_item(item: str) -> Json:
        document = described({"type": "array", "items": {"$ref": "#/components/schemas/Item"}})
        document["components"]["schemas"]["Item"] = {"type": item}
        return document

    found = merged(table(digits=DIGITS), cnn=with_item("string"), linear=with_item("number"))
    schemas = found["components"]["schemas"]
    assert schemas["Answer_2"]["items"]["$ref"] == "#/components/schemas/Item_2"
    assert (schemas["Item"], schemas["Item_2"]) == ({"type": "string"}, {"type": "number"})


def test_two_versions_that_differ_give_the_union_of_both() -> None:
    better = {"type": "object", "properties": {"digit": {"type": "integer"}, "p": {}}}
    found = merged(table(digits=DIGITS), cnn=described(better), linear=described())
    operation = found["paths"]["/digits"]["post"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert schema == {"anyOf": [{"$ref": "#/components/schemas/Answer"},
                                {"$ref": "#/components/schemas/Answer_2"}]}  # fmt: skip
    assert operation["requestBody"]["required"] is True


def test_a_method_that_the_route_does_not_let_through_is_left_out() -> None:
    document = described()
    document["paths"]["/predict"]["get"] = {"responses": {"200": {"description": "hello"}}}
    route = {**DIGITS, "match": {"path": "/digits", "methods": ["POST"]}}
    found = merged(table(digits=route), cnn=document)
    assert set(found["paths"]["/digits"]) == {"post"}


def test_two_routes_of_one_path_share_its_operation_and_say_what_they_ask_for() -> None:
    one = {"match": {"path": "/predict", "json": {"model_type": "model_a"}}, "split": {"a": 1}}
    two = {"match": {"path": "/predict", "headers": {"x-model": "b"}}, "split": {"b": 1}}
    found = merged(table(one=one, two=two), a=described(), b=described({"type": "string"}))
    operation = found["paths"]["/predict"]["post"]
    assert operation["tags"] == ["one", "two"]
    (parameter,) = operation["parameters"]
    assert (parameter["name"], parameter["required"]) == ("x-model", False)
    tags = {tag["name"]: tag["description"] for tag in found["tags"]}
    assert "by `model_type` in the JSON body" in tags["one"]
    assert "by the header `x-model`" in tags["two"]


def test_what_a_route_is_chosen_by_and_who_answers_is_told_to_nobody() -> None:
    match = {
        "path": "/predict",
        "hosts": ["internal.secret-host.test"],
        "headers": {"x-canary": "secret-header"},
        "json": {"key": "secret-field"},
    }
    routes = {
        "canary": {"match": match, "split": {"secret-backend": 1, "secret-other": 1}},
        "stable": {"match": "/predict", "split": {"secret-old": 1}},
    }
    found = merged(
        table(**routes),
        **{
            "secret-backend": described(),
            "secret-other": described({"type": "string"}),
            "secret-old": described({"type": "number"}),
        },
    )
    assert "secret" not in json.dumps(found)
    assert "/predict" in found["paths"]


def ring(size: int, width: int) -> Json:
    """A document with `size` schemas, each of which refers to the next, in `width` more bytes."""
    document = described({"$ref": "#/components/schemas/S0"})
    for number in range(size):
        document["components"]["schemas"][f"S{number}"] = {
            "description": "x" * width,
            "properties": {"next": {"$ref": f"#/components/schemas/S{(number + 1) % size}"}},
        }
    return document


def test_schemas_that_are_linked_in_a_ring_cost_no_more_than_others() -> None:
    document = ring(2500, 600)
    tracemalloc.start()
    begun = time.process_time()
    found = merge(table(digits=DIGITS), {"cnn": document, "linear": described()})
    took_s, (_, most) = time.process_time() - begun, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took_s < 5
    assert most < 20 * len(json.dumps(document))
    assert "S2499" in found["components"]["schemas"]
    assert "/digits" in found["paths"]


def test_parts_in_rings_and_chains_mean_alike_where_all_that_they_lead_to_does() -> None:
    def linked(last: str) -> dict[tuple[str, str], Any]:
        links = {"A": "B", "B": "C", "C": "A", "D": "A", "E": "F", "F": "G", "G": ""}
        return {
            ("schemas", name): {"$ref": f"#/components/schemas/{to}"} if to else {"type": last}
            for name, to in links.items()
        }

    one, same, other = map(meanings, (linked("string"), linked("string"), linked("number")))
    assert one == same
    changed = {name for _, name in one if one["schemas", name] != other["schemas", name]}
    assert changed == {"E", "F", "G"}
    assert len(set(one.values())) == len(one)
    longer = linked("string")
    longer["schemas", "C"] = {"$ref": "#/components/schemas/A", "title": "other"}
    changed = {name for _, name in one if one["schemas", name] != meanings(longer)["schemas", name]}
    assert changed == {"A", "B", "C", "D"}


def test_a_chain_of_thousands_of_schemas_is_walked() -> None:
    document = ring(5000, 0)
    document["components"]["schemas"]["S4999"] = {"type": "string"}
    assert "S4999" in merge(table(digits=DIGITS), {"cnn": document})["components"]["schemas"]


@pytest.mark.parametrize(
    "operation",
    [
        {"parameters": "none"},
        {"parameters": [1, None]},
        {"parameters": [{"in": [], "name": {}}]},
        {"parameters": [{"in": "path", "name": ["x"]}], "responses": []},
        {"responses": {"200": 7}, "requestBody": 3},
        {"security": 7, "responses": {"200": {"content": {"a/b": 3}}}},
        {"requestBody": {"content": {"application/json": {"schema": {"anyOf": 5}}}}},
    ],
)
def test_a_malformed_operation_costs_its_own_description_only(operation: Json) -> None:
    bad = described(paths={"/predict": {"post": operation}})
    for documents in ({"cnn": bad, "linear": described()}, {"linear": described(), "cnn": bad}):
        routes = {"digits": DIGITS, "good": {"match": "/good", "split": {"linear": 1}}}
        good = described()
        good["paths"]["/good"] = good["paths"]["/predict"]
        found = merge(table(**routes), {**documents, "linear": good})
        assert "/good" in found["paths"]
        assert "post" in found["paths"]["/digits"]


def test_templates_of_one_shape_become_one_path() -> None:
    def items(name: str) -> Json:
        parameter = {"in": "path", "name": name, "required": True, "schema": {"type": "string"}}
        operation = {"parameters": [parameter], "responses": {"200": {"description": "it"}}}
        return described(paths={f"/items/{{{name}}}": {"get": operation}})

    route = {"match": "/items", "split": {"a": 1, "b": 1}}
    found = merged(table(items=route), a=items("id"), b=items("key"))
    assert list(found["paths"]) == ["/items/{id}"]


def test_security_follows_its_schemes() -> None:
    def secured(kind: str) -> Json:
        document = described(security=[{"key": []}])
        document["components"]["securitySchemes"] = {
            "key": {"type": "apiKey", "in": kind, "name": "k"}
        }
        return document

    found = merged(table(digits=DIGITS), cnn=secured("header"), linear=secured("query"))
    operation = found["paths"]["/digits"]["post"]
    assert operation["security"] == [{"key": []}, {"key_2": []}]


def test_what_looks_like_a_reference_in_data_stays_as_it_is() -> None:
    document = described()
    odd = {"$ref": "#/components/schemas/Answer"}
    schema = document["components"]["schemas"]["Request"] = {
        "type": "object",
        "properties": {"default": {"$ref": "#/components/schemas/Answer"}, "x": {"default": odd}},
    }
    found = merged(table(digits=DIGITS), linear=described({"type": "string"}), cnn=document)
    assert found["components"]["schemas"]["Request_2"]["properties"]["x"] == {"default": odd}
    moved = found["components"]["schemas"]["Request_2"]["properties"]["default"]
    assert moved == {"$ref": "#/components/schemas/Answer_2"}
    assert schema["properties"]["default"] == odd


def nested(depth: int) -> Json:
    node: Json = {}
    for _ in range(depth):
        node = {"properties": {"x": node}}
    return node


@pytest.mark.parametrize(
    "document",
    [None, [], "x", {}, {"openapi": "2.0", "paths": {}}, {"openapi": "3.1.0", "paths": []},
     {"openapi": "3.1.0", "paths": {"/predict": 3}}, {"swagger": "2.0", "paths": {}},
     {"openapi": "3.1.0", "paths": {"/predict": {"post": []}}},
     {"openapi": "3.1.0", "paths": {}, "components": nested(5000)}],
    ids=[str(number) for number in range(10)],
)  # fmt: skip
def test_a_document_that_is_none_is_left_out_and_the_route_is_named(document: Any) -> None:
    found = merge(table(digits=DIGITS), {"cnn": document})
    validate(found)
    assert found["paths"] == {}
    assert "No instance describes: digits." in found["info"]["description"]


def test_the_errors_of_the_gateway_are_described_once() -> None:
    found = merged(table(digits=DIGITS), cnn=described())
    default = found["paths"]["/digits"]["post"]["responses"]["default"]
    schema = default["content"]["application/problem+json"]["schema"]
    assert schema == {"$ref": f"#/components/schemas/{PROBLEM}"}
    assert "queue_full" in found["components"]["schemas"][PROBLEM]["properties"]["code"]["enum"]


def test_an_instance_cannot_take_the_gateways_own_name() -> None:
    document = described()
    document["components"]["schemas"][PROBLEM] = {"type": "string"}
    found = merged(table(digits=DIGITS), cnn=document)
    assert found["components"]["schemas"][PROBLEM]["type"] == "object"
    assert found["components"]["schemas"][f"{PROBLEM}_2"] == {"type": "string"}


def test_either_is_flat_distinct_and_knows_that_anything_is_anything() -> None:
    a, b, c = {"type": "string"}, {"type": "number"}, {"type": "boolean"}
    assert either(a, a) == a
    assert either(either(a, b), either(b, c)) == {"anyOf": [a, b, c]}
    assert either(a, {}) == {}


def test_a_union_with_itself_is_itself_and_its_order_matters_to_nobody() -> None:
    one = described()["paths"]["/predict"]["post"]
    other = {**one, "requestBody": {"content": {"text/plain": {"schema": {"type": "string"}}}}}
    assert union(one, one) == one
    ways = [union(one, other), union(other, one)]
    for way in ways:
        assert set(way["requestBody"]["content"]) == {"application/json", "text/plain"}
        assert way["requestBody"]["required"] is False


def test_a_client_that_is_made_from_it_sends_what_the_instances_take() -> None:
    strict = {**PIXELS, "properties": {"pixels": {"type": "array", "minItems": 1}}}
    document = described()
    document["components"]["schemas"]["Request"] = strict
    found = merged(table(digits=DIGITS), cnn=document, linear=document)
    operation = schemathesis.openapi.from_dict(found)["/digits"]["POST"]

    @settings(max_examples=20, deadline=None)
    @given(case=operation.as_strategy())
    def sends(case: Any) -> None:
        assert (case.method, case.formatted_path) == ("POST", "/digits")
        jsonschema.validate(case.body, strict)

    sends()
