"""Requests go through, whole and unchanged, and come back."""

from gateway.dataplane.context import Plane
from tests.dataplane.rig import Conversation, echo

GET = b"GET /x HTTP/1.1\r\nHost: gw.test\r\n\r\n"


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
    assert abs(backends.count("a") - 180) <= 4


def test_ids_never_repeat():
    class Clock:
        def call_later(self, delay, callback): ...

    from gateway.core.options import DataplaneOptions

    plane = Plane(DataplaneOptions(), Clock())
    assert len({plane.fresh_id() for _ in range(10_000)}) == 10_000


__all__ = ["echo"]
