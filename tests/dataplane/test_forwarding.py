"""Requests go through, whole and unchanged, and come back."""

import re

import orjson
import pytest

from gateway.dataplane.plane import Plane
from tests.dataplane.rig import Conversation, echo

GET = b"GET /x HTTP/1.1\r\nHost: gw.test\r\n\r\n"
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def tell_head(conversation: Conversation) -> None:
    """Answers with the head that came."""
    while True:
        head, _ = await conversation.request()
        await conversation.answer(head)


async def test_a_request_is_forwarded_and_answered(rig, stub):
    gateway, instance = await rig(), await stub()
    gateway.one(instance)
    answer = await gateway.ask(
        b"POST /x?y=1 HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 5\r\n\r\nhello"
    )
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.get("x-headgate-route") == "r"
    assert answer.get("x-headgate-backend") == "b"
    assert answer.get("x-headgate-instance") == instance.address
    assert answer.get("x-headgate-revision") == "1"
    assert len(answer.get("x-request-id") or "") == 32


async def test_many_requests_share_connections(rig, stub):
    gateway, instance = await rig(), await stub()
    gateway.one(instance)
    peer = await gateway.connect()
    for _ in range(20):
        peer.write(GET)
        assert (await peer.answer()).status == 200
    assert instance.connections == 1


async def test_the_instance_sees_the_added_headers(rig, stub):
    seen: list[bytes] = []

    async def script(conversation: Conversation) -> None:
        while True:
            head, _ = await conversation.request()
            seen.append(head)
            await conversation.answer()

    gateway, instance = await rig(node="gate-1"), await stub(script)
    gateway.one(instance, route={"match": "/x", "rewrite": "/predict"})
    answer = await gateway.ask(
        b"GET /x/a?q=1 HTTP/1.1\r\nHost: gw.test\r\nX-Forwarded-For: 6.6.6.6\r\n"
        b"X-Custom:  spaced \r\nX-Custom: two\r\nConnection: X-Gone\r\nX-Gone: 1\r\n\r\n"
    )
    head = seen[0]
    assert head.startswith(b"GET /predict/a?q=1 HTTP/1.1\r\nHost: gw.test\r\n")
    assert b"X-Custom:  spaced \r\nX-Custom: two\r\n" in head
    assert b"X-Forwarded-For: 127.0.0.1\r\n" in head
    assert b"6.6.6.6" not in head
    assert b"X-Gone" not in head
    assert b"Via: 1.1 gate-1\r\n" in head
    assert b"X-Headgate-Timeout-Ms: 120000\r\n" in head
    assert b"X-Request-Id: " + (answer.get("x-request-id") or "").encode() in head
    assert b"traceparent: 00-" in head


async def test_the_gateways_own_errors_are_problem_documents(rig, stub):
    gateway, instance = await rig(), await stub()
    gateway.one(instance, route={"match": {"path": "/x", "methods": ["POST"]}})
    missing = await gateway.ask(b"GET /nowhere HTTP/1.1\r\nHost: gw.test\r\n\r\n")
    wrong = await gateway.ask(GET)
    assert (missing.status, missing.error) == (404, "no_route")
    assert missing.get("content-type") == "application/problem+json"
    assert (wrong.status, wrong.error, wrong.get("allow")) == (405, "method_not_allowed", "POST")


async def test_an_error_says_what_was_decided_before_it(rig, stub):
    async def leave(conversation: Conversation) -> None:
        await conversation.request()

    gateway, instance = await rig(), await stub(leave)
    gateway.one(instance, route={"match": "/x"})
    lost = await gateway.ask(GET)
    assert (lost.status, lost.error) == (502, "upstream_broke")
    decided = {"route": "r", "backend": "b", "instance": instance.address, "revision": "1"}
    assert {name: lost.get(f"x-headgate-{name}") for name in decided} == decided
    document = orjson.loads(lost.body)
    assert sorted(document) == ["code", "detail", "request_id", "status", "title", "type"]
    assert (document["status"], document["code"]) == (502, "upstream_broke")
    assert document["request_id"] == lost.get("x-request-id")
    undecided = await gateway.ask(b"GET /none HTTP/1.1\r\nHost: gw.test\r\n\r\n")
    assert [undecided.get(f"x-headgate-{name}") for name in decided] == [None] * 4
    assert undecided.get("x-request-id") == orjson.loads(undecided.body)["request_id"]


async def test_what_is_not_to_be_exposed_is_in_no_answer(rig, stub):
    gateway, instance = await rig(expose=False), await stub()
    gateway.one(instance, route={"match": "/x"})
    for path in (b"/x", b"/none", b"/-/health"):
        answer = await gateway.ask(b"GET " + path + b" HTTP/1.1\r\nHost: gw.test\r\n\r\n")
        told = [n for n, _ in answer.fields if n.startswith("x-") and n != "x-headgate-error"]
        assert told == [], path


@pytest.mark.parametrize("extra", [b"", b"Endpoint-Load-Metrics: JSON {}\r\n"])
async def test_an_answer_without_a_date_is_given_that_of_its_coming(rig, stub, extra):
    """RFC 9110, 6.6.1."""

    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await conversation.answer(extra=extra)

    gateway, instance = await rig(), await stub(script)
    gateway.one(instance)
    peer = await gateway.connect()
    for seconds, told in ((0.5, "00"), (0.9, "00"), (1.0, "01"), (0.0, "00")):
        gateway.plane.wall = lambda now=seconds: now
        peer.write(GET)
        answer = await peer.answer()
        dates = [value for name, value in answer.fields if name == "date"]
        assert dates == [f"Thu, 01 Jan 1970 00:00:{told} GMT"]
    assert instance.connections == 1


@pytest.mark.parametrize("name", [b"Date", b"date"])
async def test_the_date_of_an_instance_passes_as_it_came(rig, stub, name):
    said = b"%b: Tue, 15 Nov 1994 08:12:31 GMT" % name

    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await conversation.answer(extra=said + b"\r\n")

    gateway, instance = await rig(), await stub(script)
    gateway.one(instance)
    peer = await gateway.connect()
    for _ in range(2):
        peer.write(GET)
        answer = await peer.answer()
        assert answer.head.lower().count(b"\r\ndate:") == 1
        assert said in answer.head.split(b"\r\n")


async def test_every_request_without_a_trace_begins_one(rig, stub):
    traces: list[list[bytes]] = []

    async def script(conversation: Conversation) -> None:
        while True:
            head, _ = await conversation.request()
            found = re.findall(rb"traceparent: 00-([0-9a-f]{32})-([0-9a-f]{16})-00\r\n", head)
            traces.append([trace for trace, span in found if span != b"0" * 16])
            await conversation.answer()

    gateway, instance = await rig(trusted_proxies=("127.0.0.0/8",)), await stub(script)
    gateway.one(instance)
    named = (b"", b"order-7", b"order-7", b"4bf92f3577b34da6a3ce929d0e0e4736", b"0" * 32)
    for name in named:
        line = b"X-Request-Id: " + name + b"\r\n" if name else b""
        await gateway.ask(GET[:-2] + line + b"\r\n")
    assert [len(found) for found in traces] == [1] * len(named)
    assert traces[1] == traces[2] != traces[0], "one request, one trace"
    assert traces[3] == [named[3]]
    assert traces[4] != [named[4]]


async def test_a_state_of_no_trace_is_not_passed_on(rig, stub):
    seen: list[list[bytes]] = []

    async def script(conversation: Conversation) -> None:
        while True:
            head, _ = await conversation.request()
            seen.append(re.findall(rb"(?i)tracestate: *([^\r]*)", head))
            await conversation.answer()

    gateway, instance = await rig(), await stub(script)
    gateway.one(instance)
    state = b"tracestate: a=1\r\nTraceState: b=2\r\n"
    trace = b"traceparent: 00-" + b"ab" * 16 + b"-" + b"cd" * 8 + b"-01\r\n"
    for lines in (state + trace, state, trace, state + trace + b"Connection: traceparent\r\n"):
        await gateway.ask(GET[:-2] + lines + b"\r\n")
    assert seen == [[b"a=1", b"b=2"], [], [], []]


@pytest.mark.parametrize(
    "said",
    [b"", b"no", b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01", TRACE.upper(), b"ff" + TRACE[2:]],
)
async def test_what_is_no_trace_is_replaced_by_one_that_begins(rig, stub, said):
    gateway, instance = await rig(), await stub(tell_head)
    gateway.one(instance)
    lines = b"traceparent: " + said + b"\r\ntracestate: a=1\r\n"
    head = (await gateway.ask(GET[:-2] + lines + b"\r\n")).body
    assert re.findall(rb"traceparent: *([^\r]*)", head)[0].endswith(b"-00")
    assert head.count(b"traceparent") == 1
    assert b"tracestate" not in head


async def test_of_two_traces_neither_is_passed_on(rig, stub):
    gateway, instance = await rig(), await stub(tell_head)
    gateway.one(instance)
    head = (await gateway.ask(GET[:-2] + (b"traceparent: " + TRACE + b"\r\n") * 2 + b"\r\n")).body
    assert TRACE not in head
    assert head.count(b"traceparent") == 1


async def test_what_a_trusted_proxy_leaves_empty_the_gateway_says(rig, stub):
    gateway, instance = await rig(trusted_proxies=("127.0.0.0/8",)), await stub(tell_head)
    gateway.one(instance)
    lines = b"X-Forwarded-For:\r\nX-Forwarded-Proto: \r\nX-Forwarded-Host:\r\n"
    head = (await gateway.ask(GET[:-2] + lines + b"\r\n")).body
    found = re.findall(rb"(X-Forwarded-[A-Za-z]*): *([^\r]*)", head)
    assert found == [
        (b"X-Forwarded-For", b"127.0.0.1"),
        (b"X-Forwarded-Proto", b"http"),
        (b"X-Forwarded-Host", b"gw.test"),
    ]


async def test_what_a_trusted_proxy_nominates_goes_no_further(rig, stub):
    gateway, instance = await rig(trusted_proxies=("127.0.0.0/8",)), await stub(tell_head)
    gateway.one(instance)
    lines = b"Connection: X-Real-IP, Forwarded\r\nX-Real-IP: 192.0.2.7\r\nForwarded: for=a\r\n"
    head = (await gateway.ask(GET[:-2] + lines + b"\r\n")).body
    assert b"X-Real-IP" not in head
    assert b"\r\nForwarded:" not in head
    head = (await gateway.ask(GET[:-2] + lines + b"X-Forwarded-Port: 443\r\n\r\n")).body
    assert b"X-Real-IP" not in head
    assert b"X-Forwarded-Port: 443\r\n" in head


async def test_health_is_answered_by_the_worker(rig):
    gateway = await rig()
    request = b"GET /-/health HTTP/1.1\r\nHost: gw.test\r\n\r\n"
    assert (await gateway.ask(request)).status == 200
    gateway.plane.lame = True
    refused = await gateway.ask(request)
    assert (refused.status, refused.error, refused.get("connection")) == (503, "draining", "close")


async def test_a_chunked_body_reaches_the_instance_whole(rig, stub):
    gateway, instance = await rig(), await stub()
    gateway.one(instance)
    answer = await gateway.ask(
        b"POST /x HTTP/1.1\r\nHost: gw.test\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nX-Sum: 1\r\n\r\n"
    )
    assert answer.body == b"abcdefg"


async def test_split_is_kept(rig, stub):
    gateway = await rig()
    one, two = await stub(), await stub()
    gateway.table(
        {
            "backends": {"a": {"instances": [one.url]}, "b": {"instances": [two.url]}},
            "routes": {"r": {"match": "/", "split": {"a": 9, "b": 1}}},
        }
    )
    peer = await gateway.connect()
    backends = []
    for _ in range(200):
        peer.write(GET)
        backends.append((await peer.answer()).get("x-headgate-backend"))
    assert abs(backends.count("a") - 180) <= 8


def test_ids_never_repeat():
    class Clock:
        def call_later(self, delay, callback): ...

        def call_soon(self, callback): ...

    from gateway.core.options import DataplaneOptions

    plane = Plane(DataplaneOptions(), Clock())
    assert len({plane.fresh_id() for _ in range(10_000)}) == 10_000


__all__ = ["echo"]
