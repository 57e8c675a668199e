"""Headers that a route sets, adds and removes, in both directions."""

from collections.abc import Awaitable, Callable

from tests.dataplane.rig import Conversation, Rig, StubInstance

MakeRig = Callable[..., Awaitable[Rig]]
MakeStub = Callable[..., Awaitable[StubInstance]]
GET = b"GET %b HTTP/1.1\r\nHost: gw.test\r\nX-Old: 1\r\nCookie: a=b\r\nX-Kept: 2\r\n%b\r\n"
REQUEST = {"set": {"X-Old": "new", "Authorization": "Basic eDp5"}, "remove": ["cookie"]}
RESPONSE = {"set": {"Server": "gw"}, "add": {"X-Frame-Options": "DENY"}, "remove": ["X-Secret"]}


async def tell(conversation: Conversation) -> None:
    while True:
        head, _ = await conversation.request()
        await conversation.answer(head, extra=b"Server: uvicorn\r\nX-Secret: s\r\nX-Kept: y\r\n")


async def test_instances_and_clients_get_what_the_rules_say(rig: MakeRig, stub: MakeStub) -> None:
    gateway, instance = await rig(), await stub(tell)
    gateway.one(instance, route={"headers": {"request": REQUEST, "response": RESPONSE}})
    peer = await gateway.connect()
    for _ in range(2):  # what is remembered of a head is as good
        peer.write(GET % (b"/", b"Authorization: Bearer client\r\n"))
        answer = await peer.answer()
        told = answer.body.split(b"\r\n")
        assert b"X-Old: new" in told
        assert b"X-Old: 1" not in told
        assert b"Authorization: Basic eDp5" in told
        assert b"X-Kept: 2" in told
        assert not any(line.lower().startswith((b"cookie", b"authorization: be")) for line in told)
        assert [value for name, value in answer.fields if name == "server"] == ["gw"]
        assert answer.get("x-frame-options") == "DENY"
        assert answer.get("x-secret") is None
        assert answer.get("x-kept") == "y"
    peer.close()


async def test_two_routes_of_one_path_have_each_its_own_rules(rig: MakeRig, stub: MakeStub) -> None:
    gateway, instance = await rig(), await stub(tell)
    gateway.table(
        {
            "backends": {"b": {"instances": [instance.url]}},
            "routes": {
                name: {
                    "match": {"path": "/", "json": {"model": name}},
                    "split": {"b": 1},
                    "headers": {"request": {"set": {"X-Model": name}}} if name != "c" else {},
                }
                for name in ("a", "b", "c")
            },
        }
    )
    peer = await gateway.connect()
    for name in ("a", "b", "a", "c", "b"):  # the heads are the same, byte for byte
        body = b'{"model": "%b"}' % name.encode()
        peer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 14\r\n\r\n" + body)
        answer = await peer.answer()
        told = [line for line in answer.body.split(b"\r\n") if line.startswith(b"X-Model")]
        assert told == ([b"X-Model: " + name.encode()] if name != "c" else [])
    peer.close()


async def test_an_edit_of_rules_holds_from_the_next_request_on(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway, instance = await rig(), await stub(tell)
    peer = await gateway.connect()
    for value in ("1", "2", None):
        rules = {"request": {"set": {"X-Rule": value}}, "response": {"set": {"X-Rule": value}}}
        gateway.one(instance, route={"headers": rules} if value else {})
        peer.write(GET % (b"/", b""))
        answer = await peer.answer()
        assert (b"X-Rule: " in answer.body) == (value is not None)
        assert answer.get("x-rule") == value
    peer.close()


async def test_what_a_proxy_in_front_says_is_replaced_too(rig: MakeRig, stub: MakeStub) -> None:
    gateway, instance = await rig(trusted_proxies=("127.0.0.1/32",)), await stub(tell)
    rules = {"set": {"X-Forwarded-Prefix": "/new"}, "remove": ["X-Real-IP"]}
    gateway.one(instance, route={"headers": {"request": rules}})
    said = b"X-Forwarded-Prefix: /old\r\nX-Real-IP: 192.0.2.1\r\nX-Forwarded-For: 192.0.2.1\r\n"
    told = (await gateway.ask(GET % (b"/", said))).body
    assert told.count(b"X-Forwarded-Prefix") == 1
    assert b"X-Forwarded-Prefix: /new\r\n" in told
    assert b"X-Real-IP" not in told
    assert b"X-Forwarded-For: 192.0.2.1, 127.0.0.1\r\n" in told


async def test_a_browser_hears_the_gateways_word_on_origins_and_no_rules_beside_it(
    rig: MakeRig,
) -> None:
    gateway, app = await rig(), "https://app.example.com"
    rules = {
        "set": {"Access-Control-Allow-Origin": "*", "X-Frame-Options": "DENY"},
        "add": {"access-control-expose-headers": "X-Rule", "Vary": "Accept"},
    }
    gateway.table(
        {
            "backends": {"b": {"instances": ["http://127.0.0.1:9"]}},
            "routes": {
                "r": {
                    "match": "/",
                    "split": {"b": 1},
                    "cors": {"origins": [app], "expose": ["X-Cors"]},
                    "headers": {"response": rules},
                }
            },
        }
    )
    origin = f"Origin: {app}\r\n".encode()
    answer = await gateway.ask(GET % (b"/", origin))
    assert (answer.status, answer.get("x-frame-options")) == (502, "DENY")
    for name, said in (("allow-origin", app), ("expose-headers", "X-Cors")):
        assert [v for k, v in answer.fields if k == f"access-control-{name}"] == [said]
    assert [v for k, v in answer.fields if k == "vary"] == ["Accept", "Origin"]
    asked = b"OPTIONS / HTTP/1.1\r\nHost: h\r\n%bAccess-Control-Request-Method: GET\r\n\r\n"
    answer = await gateway.ask(asked % origin)
    assert (answer.status, answer.get("x-frame-options")) == (204, "DENY")
    assert [v for k, v in answer.fields if k == "access-control-allow-origin"] == [app]


async def test_what_the_gateway_answers_has_the_headers_that_are_added(rig: MakeRig) -> None:
    gateway = await rig()
    document = {
        "backends": {"b": {"instances": ["http://127.0.0.1:9"]}},
        "routes": {
            "r": {
                "match": "/",
                "split": {"b": 1},
                "headers": {"response": {**RESPONSE, "set": {"Content-Type": "x", "A": "b"}}},
            }
        },
    }
    gateway.table(document)
    answer = await gateway.ask(GET % (b"/", b""))
    assert (answer.status, answer.get("x-frame-options"), answer.get("a")) == (502, "DENY", "b")
    assert [v for k, v in answer.fields if k == "content-type"] == ["application/problem+json"]


async def test_who_is_refused_before_the_body_is_there_is_counted_and_dressed_at_the_route(
    rig: MakeRig,
) -> None:
    gateway = await rig()
    route = {
        "match": "/r",
        "split": {"b": 1},
        "max_body": "1KiB",
        "headers": {"response": RESPONSE},
    }
    document = {"backends": {"b": {"instances": ["http://127.0.0.1:9"]}}, "routes": {"r": route}}
    gateway.table(document)
    peer = await gateway.connect()
    peer.write(b"POST /r HTTP/1.1\r\nHost: h\r\nContent-Length: 9999\r\n\r\n")
    answer = await peer.answer()
    assert (answer.status, answer.get("x-frame-options")) == (413, "DENY")
    assert answer.get("x-headgate-route") == "r"


async def test_a_route_that_goes_while_the_body_comes_dresses_nothing(rig: MakeRig) -> None:
    gateway = await rig()
    route = {"match": "/r", "split": {"b": 1}, "headers": {"response": RESPONSE}}
    backends = {"b": {"instances": ["http://127.0.0.1:9"]}}
    gateway.table({"backends": backends, "routes": {"r": route}})
    peer = await gateway.connect()
    peer.write(b"POST /r HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert (await peer.answer()).status == 100
    gateway.table({"backends": backends, "routes": {"other": {**route, "match": "/other"}}})
    peer.write(b"ok")
    answer = await peer.answer()
    assert (answer.status, answer.get("x-frame-options")) == (404, None)
    assert answer.get("x-headgate-route") is None
