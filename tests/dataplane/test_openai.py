"""What clients of OpenAI's API get of the gateway itself: its errors, and the list of models."""

import json
from typing import Any

import pytest

from gateway.core.access import hash_of
from tests.dataplane.rig import until

KEY, OTHER = "hg_" + "k" * 43, "hg_" + "o" * 43
CHAT = b"/v1/chat/completions"
GET = b"GET %b HTTP/1.1\r\nHost: gw.test\r\n%b\r\n"


def post(path: bytes, body: Any, lines: bytes = b"") -> bytes:
    data = json.dumps(body).encode()
    head = b"POST %b HTTP/1.1\r\nHost: gw.test\r\n%bContent-Length: %d\r\n\r\n"
    return head % (path, lines, len(data)) + data


def bearer(key: str) -> bytes:
    return f"Authorization: Bearer {key}\r\n".encode()


def serve(gateway, instance, matches: dict[str, Any], routes: Any = None, **more: Any) -> None:
    made = {name: {"match": match, "split": {"b": 1}} for name, match in matches.items()}
    for name, said in (routes or {}).items():
        made[name] |= said
    gateway.table({"backends": {"b": {"instances": [instance.url]}}, "routes": made, **more})


def asks(model: str, path: str = "/v1/chat/completions", **more: Any) -> dict[str, Any]:
    return {"path": path, "json": {"model": model}, **more}


async def listed(gateway, path: bytes = b"/v1/models", lines: bytes = b"") -> list[str]:
    answer = await gateway.ask(GET % (path, lines))
    assert answer.status == 200, answer.body
    assert answer.get("content-type") == "application/json"
    said = json.loads(answer.body)
    assert said["object"] == "list"
    for each in said["data"]:
        assert each == {
            "id": each["id"], "object": "model", "created": 0, "owned_by": "headgate",
        }  # fmt: skip
    return [each["id"] for each in said["data"]]


async def test_the_list_holds_each_model_that_a_route_asks_for_once(rig, stub):
    gateway, instance = await rig(), await stub()
    matches = {
        "b-chat": asks("b"),
        "a": asks("a", "/v1"),
        "b-embeds": asks("b", "/v1/embeddings"),
        "org": asks("meta/llama-3", "/v1/completions", methods=["POST"]),
        "other": {"path": "/v1/x", "json": {"kind": "c", "size": 3}},
        "far": asks("far", "/elsewhere/v1/chat/completions"),
    }
    serve(gateway, instance, matches)
    assert await listed(gateway) == ["b", "a", "meta/llama-3"]
    assert await listed(gateway, b"/v1/models?limit=2") == ["b", "a", "meta/llama-3"]
    assert await listed(gateway, b"/elsewhere/v1/models") == ["far"]
    answer = await gateway.ask(GET % (b"/v1/models", b""))
    assert answer.get("x-headgate-revision") == str(gateway.revision)
    assert instance.connections == 0
    assert gateway.count() == 4  # as whatever else the gateway answers itself


async def test_one_model_is_shown_by_its_name(rig, stub):
    gateway, instance = await rig(), await stub()
    serve(gateway, instance, {"a": asks("a"), "org": asks("meta/llama-3")})
    for path in (b"/v1/models/meta/llama-3", b"/v1/models/meta%2Fllama-3"):
        answer = await gateway.ask(GET % (path, b""))
        assert json.loads(answer.body)["id"] == "meta/llama-3"
    answer = await gateway.ask(GET % (b"/v1/models/c", b""))
    assert (answer.status, answer.error) == (404, "no_route")
    assert json.loads(answer.body)["error"]["type"] == "not_found_error"


async def test_the_list_follows_the_table_on_an_open_connection(rig, stub):
    gateway, instance = await rig(), await stub()
    peer = await gateway.connect()
    for models in ("a", "ab", "b", ""):
        serve(gateway, instance, {name: asks(name) for name in models} | {"x": "/x"})
        peer.write(GET % (b"/v1/models", b""))
        answer = await peer.answer()
        found = [each["id"] for each in json.loads(answer.body).get("data", [])]
        assert (found, answer.status) == (list(models), 200 if models else 404)


async def test_a_route_for_the_list_itself_goes_first_and_a_wider_one_does_not(rig, stub):
    gateway, instance = await rig(), await stub()
    serve(gateway, instance, {"a": asks("a"), "rest": "/"})
    assert await listed(gateway) == ["a"]
    assert (await gateway.ask(GET % (b"/v1/modelsX", b""))).get("x-headgate-route") == "rest"
    serve(gateway, instance, {"a": asks("a"), "own": "/v1/models"})
    for path in (b"/v1/models", b"/v1/models/a"):
        assert (await gateway.ask(GET % (path, b""))).get("x-headgate-route") == "own"
    serve(gateway, instance, {"rest": "/v1"})
    assert (await gateway.ask(GET % (b"/v1/models", b""))).get("x-headgate-route") == "rest"


async def test_hosts_and_headers_of_a_route_hold_for_its_models(rig, stub):
    gateway, instance = await rig(), await stub()
    matches = {
        "here": asks("here", hosts=["gw.test"]),
        "wide": asks("wide", hosts=["*.test"]),
        "there": asks("there", hosts=["other.example"]),
        "beta": asks("beta", headers={"X-Ring": "beta"}),
    }
    serve(gateway, instance, matches)
    assert await listed(gateway) == ["here", "wide"]
    assert await listed(gateway, lines=b"X-Ring: beta\r\n") == ["here", "wide", "beta"]


async def test_a_key_sees_the_models_that_it_opens(rig, stub):
    gateway, instance = await rig(), await stub()
    keys = {
        "acme": {"hashes": [hash_of(KEY)], "routes": ["a", "b"]},
        "none": {"hashes": [hash_of(OTHER)], "routes": ["x"]},
    }
    matches = {name: asks(name) for name in "abc"} | {"x": "/x"}
    serve(gateway, instance, matches, {"c": {"access": "open"}}, keys=keys)
    assert await listed(gateway, lines=bearer(KEY)) == ["a", "b", "c"]
    assert await listed(gateway) == ["c"]
    serve(gateway, instance, matches, keys=keys)
    assert await listed(gateway, lines=bearer(KEY)) == ["a", "b"]
    refused = await gateway.ask(GET % (b"/v1/models", b""))
    assert (refused.status, refused.error) == (401, "unauthorized")
    assert refused.get("www-authenticate")
    refused = await gateway.ask(GET % (b"/v1/models", bearer(OTHER)))
    assert (refused.status, refused.error) == (403, "forbidden")
    hidden = await gateway.ask(GET % (b"/v1/models/c", bearer(KEY)))
    assert hidden.error == "no_route"


async def test_the_list_is_one_of_the_requests_that_a_key_may_make(rig, stub):
    gateway, instance = await rig(), await stub()
    keys = {"acme": {"hashes": [hash_of(KEY)], "limits": {"requests": "1/m", "burst": 2}}}
    serve(gateway, instance, {"a": asks("a")}, keys=keys)
    for _ in range(2):
        answer = await gateway.ask(GET % (b"/v1/models", bearer(KEY)))
        assert answer.get("ratelimit-policy")
        assert answer.status == 200
    answer = await gateway.ask(post(CHAT, {"model": "a"}, bearer(KEY)))
    assert (answer.status, answer.error) == (429, "rate_limited")
    answer = await gateway.ask(GET % (b"/v1/models", bearer(KEY)))
    assert (answer.status, answer.error) == (429, "rate_limited")
    assert int(answer.get("retry-after") or 0) > 1
    assert json.loads(answer.body)["error"]["type"] == "rate_limit_error"


async def test_a_list_that_is_asked_for_with_a_body_is_answered(rig, stub):
    gateway, instance = await rig(), await stub()
    serve(gateway, instance, {"a": asks("a")})
    peer = await gateway.connect()
    peer.write(GET % (b"/v1/models", b"Content-Length: 10\r\n") + b"12345")
    assert (await peer.answer()).status == 200
    peer.close()
    await until(lambda: not gateway.plane.clients)


@pytest.mark.parametrize("path", [CHAT, b"/v1/completions", b"/v1/embeddings", b"/llm/v1/models"])
async def test_errors_below_openais_paths_hold_what_its_clients_show(rig, stub, path):
    gateway, instance = await rig(), await stub()
    serve(gateway, instance, {"x": "/x"})
    answer = await gateway.ask(post(path, {"model": "a"}))
    said = json.loads(answer.body)
    assert (answer.status, answer.error) == (404, "no_route")
    assert answer.get("content-type") == "application/problem+json"
    assert said["code"] == "no_route"
    assert said["status"] == 404
    assert said["request_id"] == answer.get("x-request-id")
    assert said["error"] == {
        "message": said["detail"], "type": "not_found_error", "param": None, "code": "no_route",
    }  # fmt: skip


async def test_an_error_of_an_instance_that_is_gone_is_the_servers(rig, stub):
    gateway, instance = await rig(), await stub()
    serve(gateway, instance, {"a": asks("a")})
    await instance.stop()
    answer = await gateway.ask(post(CHAT, {"model": "a"}))
    said = json.loads(answer.body)["error"]
    assert (answer.status, said["code"], said["type"]) == (502, "connect_failed", "server_error")


async def test_a_model_that_nobody_has_is_named(rig, stub):
    gateway, instance = await rig(), await stub()
    serve(gateway, instance, {"a": asks("a")})
    answer = await gateway.ask(post(CHAT, {"model": "gpt-9" + "x" * 1000}))
    message = json.loads(answer.body)["error"]["message"]
    assert "no model is called 'gpt-9xxx" in message
    assert len(message) < 200


async def test_other_paths_keep_the_errors_that_they_had(rig, stub):
    gateway, instance = await rig(), await stub()
    serve(gateway, instance, {"a": asks("a")})
    for path in (b"/", b"/v1/predict", b"/v1", b"/v2/models", b"/x?to=/v1/models"):
        answer = await gateway.ask(post(path, {}))
        assert "error" not in json.loads(answer.body)
