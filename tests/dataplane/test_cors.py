"""Preflights are the gateway's, and pages of named origins may read every answer."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.core.access import hash_of
from tests.dataplane.rig import Answer, Conversation, Rig, StubInstance

MakeRig = Callable[..., Awaitable[Rig]]
MakeStub = Callable[..., Awaitable[StubInstance]]
KEY = "hg_" + "k" * 43
APP = b"https://app.example.com"
PREFLIGHT = (
    b"OPTIONS %b HTTP/1.1\r\nHost: gw.test\r\nOrigin: %b\r\n"
    b"Access-Control-Request-Method: %b\r\nAccess-Control-Request-Headers: content-type\r\n%b\r\n"
)
POST = b"POST %b HTTP/1.1\r\nHost: gw.test\r\nOrigin: %b\r\nContent-Length: 2\r\n%b\r\n{}"


async def own_cors(conversation: Conversation) -> None:
    """An instance that has CORS of its own."""
    while True:
        head, _ = await conversation.request()
        own = b"Access-Control-Allow-Origin: *\r\nContent-Type: text/plain\r\n"
        await conversation.answer(head, extra=own)


def origins(answer: Answer) -> list[str]:
    return [value for name, value in answer.fields if name == "access-control-allow-origin"]


def varies(answer: Answer) -> set[str]:
    return {
        each.strip().lower()
        for name, value in answer.fields
        if name == "vary"
        for each in value.split(",")
    }


def serve(rig: Rig, stub: StubInstance, **more: Any) -> None:
    cors = {"origins": [APP.decode()], "max_age": "10m", "expose": ["Retry-After"]}
    rig.table(
        {
            "backends": {
                "b": {"instances": [stub.url]},
                "down": {"instances": ["http://127.0.0.1:9"]},
            },
            "routes": {
                "r": {
                    "match": {"path": "/", "methods": ["POST"]},
                    "split": {"b": 1},
                    "cors": cors,
                    "limits": {"requests": "1/m", "burst": 2},
                },
                "down": {"match": "/down", "split": {"down": 1}, "cors": cors, "access": "open"},
                "plain": {"match": "/plain", "split": {"b": 1}, "access": "open"},
                "v2": {
                    "match": {"path": "/x", "headers": {"X-Version": "2"}},
                    "split": {"b": 1},
                    "cors": cors,
                    "access": "open",
                },
                "json": {
                    "match": {"path": "/j", "json": {"model": "a"}},
                    "split": {"b": 1},
                    "cors": cors,
                },
            },
            "keys": {"acme": {"hashes": [hash_of(KEY)]}},
            **more,
        }
    )


@pytest.mark.parametrize("method", [b"POST", b"GET"])
async def test_a_preflight_needs_no_key_takes_no_limit_and_asks_no_instance(
    rig: MakeRig, stub: MakeStub, method: bytes
) -> None:
    gateway, instance = await rig(), await stub(own_cors)
    serve(gateway, instance)
    peer = await gateway.connect()
    for _ in range(5):  # more than the limit
        peer.write(PREFLIGHT % (b"/", APP, method, b""))
        answer = await peer.answer()
        if method == b"GET":  # the route is for POST alone: whoever asks is answered as ever
            assert (answer.status, origins(answer)) == (405, [])
            continue
        assert (answer.status, origins(answer)) == (204, [APP.decode()])
        assert answer.get("content-length") is None
        assert answer.get("access-control-allow-methods") == "POST"
        assert answer.get("access-control-max-age") == "600"
        assert "Content-Type" in (answer.get("access-control-allow-headers") or "")
        assert varies(answer) >= {"origin", "access-control-request-headers"}
    peer.close()
    assert instance.connections == 0


async def test_a_page_that_is_not_named_is_told_nothing(rig: MakeRig, stub: MakeStub) -> None:
    gateway, instance = await rig(), await stub(own_cors)
    serve(gateway, instance)
    answer = await gateway.ask(PREFLIGHT % (b"/", b"https://evil.org", b"POST", b""))
    assert (answer.status, origins(answer)) == (204, [])
    assert "origin" in varies(answer)
    key = b"X-API-Key: %b\r\n" % KEY.encode()
    answer = await gateway.ask(POST % (b"/", b"https://evil.org", key))
    assert (answer.status, origins(answer)) == (200, [])
    assert "origin" in varies(answer)


async def test_a_route_without_cors_has_its_instances_answer_preflights(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway, instance = await rig(), await stub(own_cors)
    serve(gateway, instance)
    answer = await gateway.ask(PREFLIGHT % (b"/plain", APP, b"POST", b""))
    assert (answer.status, origins(answer)) == (200, ["*"])
    assert b"\r\nAccess-Control-Request-Method: POST\r\n" in answer.body


@pytest.mark.parametrize("path", [b"/x", b"/j"])
async def test_a_preflight_is_for_a_route_whose_headers_or_body_it_cannot_have(
    rig: MakeRig, stub: MakeStub, path: bytes
) -> None:
    gateway, instance = await rig(), await stub(own_cors)
    serve(gateway, instance)
    answer = await gateway.ask(PREFLIGHT % (path, APP, b"POST", b""))
    assert (answer.status, origins(answer)) == (204, [APP.decode()])


async def test_a_page_reads_that_its_method_is_not_allowed(rig: MakeRig, stub: MakeStub) -> None:
    gateway, instance = await rig(), await stub(own_cors)
    serve(gateway, instance)
    get = b"GET / HTTP/1.1\r\nHost: gw.test\r\nOrigin: %b\r\n\r\n"
    for origin, told in ((APP, [APP.decode()]), (b"https://evil.org", [])):
        answer = await gateway.ask(get % origin)
        assert (answer.status, answer.get("allow"), origins(answer)) == (405, "POST", told)


@pytest.mark.parametrize("target", [b"/", b"/v2/none", b"/v1/models/none", b"/down"])
async def test_a_refusal_that_a_cache_may_keep_says_that_it_varies_by_origin(
    rig: MakeRig, stub: MakeStub, target: bytes
) -> None:
    gateway = await rig()
    serve(gateway, await stub(own_cors))
    if target.startswith(b"/v1"):
        serve_models(gateway, await stub(own_cors))
    answer = await gateway.ask(b"GET %b HTTP/1.1\r\nHost: gw.test\r\n\r\n" % target)
    assert answer.status in (404, 405, 502, 503)
    assert (varies(answer), origins(answer)) == ({"origin"}, [])


MODELS = b"GET /v1/models%b HTTP/1.1\r\nHost: gw.test\r\n%b\r\n"
OTHER = b"https://other.example"


def serve_models(rig: Rig, stub: StubInstance, **more: Any) -> None:
    """Two models, which pages of APP and of OTHER may ask for."""

    def route(model: str, origin: bytes) -> dict[str, Any]:
        exact = {"exact": "/v1/chat/completions", "methods": ["POST"], "json": {"model": model}}
        cors = {"origins": [origin.decode()], "expose": ["Retry-After"]}
        return {"match": exact, "split": {"b": 1}, "cors": cors}

    routes = {"small": route("small", APP), "large": route("large", OTHER)}
    rig.table({"backends": {"b": {"instances": [stub.url]}}, "routes": routes, **more})


async def test_a_page_that_may_ask_a_model_reads_the_list_of_models(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway, instance = await rig(), await stub()
    serve_models(gateway, instance, keys={"acme": {"hashes": [hash_of(KEY)], "routes": ["small"]}})
    key = b"Authorization: Bearer %b\r\n" % KEY.encode()
    for origin in (APP, OTHER):
        from_page = b"Origin: %b\r\n" % origin
        asked = [(b"", key, 200), (b"/small", key, 200), (b"/large", key, 404), (b"", b"", 401)]
        for path, lines, status in asked:
            answer = await gateway.ask(MODELS % (path, from_page + lines))
            assert (answer.status, origins(answer)) == (status, [origin.decode()])
            assert answer.get("access-control-expose-headers") == "Retry-After"
            assert "origin" in varies(answer)
    for lines in (b"Origin: https://evil.org\r\n", b""):
        answer = await gateway.ask(MODELS % (b"", key + lines))
        assert (answer.status, origins(answer)) == (200, [])
        assert "origin" in varies(answer)


async def test_a_preflight_for_the_list_of_models_is_answered(rig: MakeRig, stub: MakeStub) -> None:
    gateway, instance = await rig(), await stub(own_cors)
    serve_models(gateway, instance)
    for path in (b"/v1/models", b"/v1/models/small?x=1"):
        answer = await gateway.ask(PREFLIGHT % (path, OTHER, b"GET", b""))
        assert (answer.status, origins(answer)) == (204, [OTHER.decode()])
        assert answer.get("access-control-allow-methods") == "GET, HEAD"
        assert "Authorization" in (answer.get("access-control-allow-headers") or "")
        assert answer.get("x-headgate-route") is None, "a list is no route's"
    answer = await gateway.ask(PREFLIGHT % (b"/v1/models", b"https://evil.org", b"GET", b""))
    assert (answer.status, origins(answer)) == (204, [])
    answer = await gateway.ask(PREFLIGHT % (b"/v1/models", APP, b"DELETE", b""))
    assert (answer.status, origins(answer)) == (404, [])
    assert instance.connections == 0


async def test_the_list_of_models_is_for_no_page_where_no_route_has_cors(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway, instance = await rig(), await stub()
    gateway.table(
        {
            "backends": {"b": {"instances": [instance.url]}},
            "routes": {"a": {"match": {"path": "/v1", "json": {"model": "a"}}, "split": {"b": 1}}},
        }
    )
    answer = await gateway.ask(MODELS % (b"", b"Origin: %b\r\n" % APP))
    assert (answer.status, origins(answer), varies(answer)) == (200, [], set())


async def test_a_page_reads_answers_and_refusals(rig: MakeRig, stub: MakeStub) -> None:
    gateway, instance = await rig(), await stub(own_cors)
    serve(gateway, instance)
    key = b"X-API-Key: %b\r\n" % KEY.encode()
    answers = [
        await gateway.ask(POST % (b"/", APP, key)),  # its instance's own words are replaced
        await gateway.ask(POST % (b"/", APP, b"")),
        await gateway.ask(POST % (b"/down", APP, b"")),
        await gateway.ask(POST % (b"/j", APP, b"")),  # refused before its body chose a route
        await gateway.ask(POST % (b"/", APP, key)),
        await gateway.ask(POST % (b"/", APP, key)),
    ]
    assert [answer.status for answer in answers] == [200, 401, 502, 401, 200, 429]
    for answer in answers:
        assert origins(answer) == [APP.decode()]
        assert answer.get("access-control-expose-headers") == "Retry-After"
        assert "origin" in varies(answer)
    large = POST.replace(b"Length: 2\r", b"Length: 99999999\r") % (b"/", APP, key)
    answer = await gateway.ask(large)
    assert (answer.status, origins(answer)) == (429, [APP.decode()])


async def test_an_edit_of_cors_holds_from_the_next_request_on(rig: MakeRig, stub: MakeStub) -> None:
    gateway, instance = await rig(), await stub(own_cors)
    peer = await gateway.connect()
    for cors, expected in (
        ({"origins": ["*"]}, ["*"]),
        ({"origins": [APP.decode()]}, [APP.decode()]),
        (None, ["*"]),
    ):
        gateway.one(instance, route={"cors": cors} if cors else {})
        peer.write(POST % (b"/", APP, b""))
        assert origins(await peer.answer()) == expected
    peer.close()
