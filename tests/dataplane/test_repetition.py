"""A head that comes again is known by its bytes, and means what it meant: no more, no less."""

import pytest

from tests.dataplane.rig import Conversation, until

HOST = b"Host: gw.test\r\n"


def post(body: bytes, extra: bytes = b"") -> bytes:
    head = b"POST /x HTTP/1.1\r\n%bContent-Length: %d\r\n%b\r\n" % (HOST, len(body), extra)
    return head + body


async def seen_by(rig, stub, requests: list[bytes], **options) -> list[tuple[bytes, bytes]]:
    """What an instance got of `requests`, which one client sends on one connection."""
    seen: list[tuple[bytes, bytes]] = []

    async def script(conversation: Conversation) -> None:
        while True:
            seen.append(await conversation.request())
            await conversation.answer(seen[-1][1])

    gateway, instance = await rig(**options), await stub(script)
    gateway.one(instance)
    peer = await gateway.connect()
    for request in requests:
        peer.write(request)
        answer = await peer.answer()
        assert answer.status == 200
        assert answer.body == seen[-1][1]
    return seen


def line(head: bytes, name: bytes) -> bytes:
    (found,) = [each for each in head.split(b"\r\n") if each.lower().startswith(name + b":")]
    return found


@pytest.mark.parametrize(
    "extra", [b"", b"Authorization: canary\r\n", b"X-Long: %b\r\n" % (b"x" * 2000)]
)
async def test_every_repetition_has_its_own_body_and_its_own_id(rig, stub, extra: bytes) -> None:
    bodies = [b"one", b"two", b"six"]
    seen = await seen_by(rig, stub, [post(body, extra) for body in bodies])
    assert [body for _, body in seen] == bodies
    for name in (b"x-request-id", b"traceparent"):
        assert len({line(head, name) for head, _ in seen}) == 3
    assert len({line(head, b"content-length") for head, _ in seen}) == 1


async def test_a_head_that_only_begins_alike_is_read_anew(rig, stub) -> None:
    requests = [post(b"one"), post(b"three"), post(b"two", b"X-A: 1\r\n"), post(b"one")]
    seen = await seen_by(rig, stub, requests)
    assert [body for _, body in seen] == [b"one", b"three", b"two", b"one"]
    assert [b"X-A: 1" in head for head, _ in seen] == [False, False, True, False]


async def test_a_repetition_may_come_in_pieces_and_before_its_turn(rig, stub) -> None:
    seen: list[bytes] = []

    async def script(conversation: Conversation) -> None:
        while True:
            _, body = await conversation.request()
            seen.append(body)
            await conversation.answer(body)

    gateway, instance = await rig(), await stub(script)
    gateway.one(instance)
    peer = await gateway.connect()
    first = post(b"one")
    peer.write(first + post(b"two") + post(b"six")[:-1])
    await until(lambda: len(seen) == 2)
    peer.write(b"x" + post(b"ten")[:20])
    await until(lambda: len(seen) == 3)
    peer.write(post(b"ten")[20:])
    assert [(await peer.answer()).body for _ in range(4)] == [b"one", b"two", b"six", b"ten"]


async def test_a_repeated_answer_is_passed_on_with_its_own_body(rig, stub) -> None:
    async def script(conversation: Conversation) -> None:
        number = 0
        while True:
            await conversation.request()
            number += 1
            extra = b"X-Number: 3\r\n" if number == 3 else b""
            await conversation.answer(b"%d" % number, extra=extra)

    gateway, instance = await rig(), await stub(script)
    gateway.one(instance)
    peer = await gateway.connect()
    answers = []
    for _ in range(5):
        peer.write(post(b"x"))
        answers.append(await peer.answer())
    assert [answer.body for answer in answers] == [b"1", b"2", b"3", b"4", b"5"]
    assert [answer.get("x-number") for answer in answers] == [None, None, "3", None, None]
    assert len({answer.get("x-request-id") for answer in answers}) == 5


async def test_an_edit_between_two_repetitions_decides_the_second(rig, stub) -> None:
    seen: list[bytes] = []

    async def script(conversation: Conversation) -> None:
        while True:
            head, _ = await conversation.request()
            seen.append(head.partition(b"\r\n")[0])
            await conversation.answer()

    gateway, instance = await rig(), await stub(script)
    peer = await gateway.connect()
    for rewrite in ("/a", "/b", "/a"):
        gateway.one(instance, route={"rewrite": rewrite, "match": "/x"})
        peer.write(post(b"1"))
        assert (await peer.answer()).get("x-headgate-revision") == str(gateway.revision)
    assert seen == [b"POST /a HTTP/1.1", b"POST /b HTTP/1.1", b"POST /a HTTP/1.1"]


async def test_of_two_clients_with_one_head_each_is_forwarded_for_its_own_address(
    rig, stub
) -> None:
    seen: list[bytes] = []

    async def script(conversation: Conversation) -> None:
        while True:
            head, _ = await conversation.request()
            seen.append(line(head, b"x-forwarded-for"))
            await conversation.answer()

    gateway, instance = await rig(trusted_proxies=("127.0.0.1",)), await stub(script)
    gateway.one(instance)
    peers = [await gateway.connect(), await gateway.connect()]
    for peer, said in zip(peers * 2, (b"1.1.1.1", b"2.2.2.2", b"1.1.1.1", b"3.3.3.3"), strict=True):
        peer.write(post(b"1", b"X-Forwarded-For: %b\r\n" % said))
        await peer.answer()
    wanted = (b"1.1.1.1", b"2.2.2.2", b"1.1.1.1", b"3.3.3.3")
    assert seen == [b"X-Forwarded-For: %b, 127.0.0.1" % said for said in wanted]


async def test_r09_every_repetition_that_expects_it_is_asked_for_its_body_once(rig, stub) -> None:
    gateway, instance = await rig(), await stub()
    gateway.one(instance)
    peer = await gateway.connect()
    for body in (b"one", b"two", b"six"):
        head, _, _ = post(body, b"Expect: 100-continue\r\n").partition(body)
        peer.write(head)
        assert (await peer.answer()).status == 100
        peer.write(body)
        answer = await peer.answer()
        assert (answer.status, answer.body) == (200, body)


async def test_what_differs_from_the_last_head_is_passed_on_as_it_came(rig, stub) -> None:
    same = b"POST /x HTTP/1.1\r\nHost: gw.test\r\n"
    starts = [
        same,
        same,
        b"PUT /x HTTP/1.1\r\nHost: gw.test\r\n",
        b"PUT /y HTTP/1.1\r\nHost: gw.test\r\n",
        b"PUT /y HTTP/1.1\r\nHost: other.test\r\n",
        b"PUT /y HTTP/1.1\r\nHost: other.test\r\nVia: 1.1 there\r\n",
        b"PUT /y HTTP/1.1\r\nHost: other.test\r\nX-A: 1\r\n",
        b"PUT /y HTTP/1.1\r\nHost: other.test\r\nX-A: 2\r\n",
        same,
    ]
    requests = [
        b"%bContent-Length: %d\r\n\r\n%b" % (start, number, b"x" * number)
        for number, start in enumerate(starts, 1)
    ]
    seen = await seen_by(rig, stub, requests, node="here")
    for start, (head, _) in zip(starts, seen, strict=True):
        assert head.startswith(start.partition(b"Via:")[0])
        assert line(head, b"x-forwarded-host")[18:] == line(start, b"host")[6:]
    vias = [line(head, b"via") for head, _ in seen]
    assert vias == [b"Via: 1.1 there, 1.1 here" if n == 5 else b"Via: 1.1 here" for n in range(9)]


async def test_each_request_of_a_client_is_routed_by_the_host_that_it_names(rig, stub) -> None:
    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await conversation.answer(b"")

    gateway, instance = await rig(), await stub(script)
    match = {"path": "/", "hosts": ["one.test"]}
    gateway.one(instance, route={"match": match})
    peer = await gateway.connect()
    found = []
    for number, host in enumerate((b"one.test", b"ONE.test:80", b"two.test", b"one.test")):
        peer.write(b"GET /%d HTTP/1.1\r\nHost: %b\r\n\r\n" % (number, host))
        found.append((await peer.answer()).status)
    assert found == [200, 200, 404, 200]


@pytest.mark.parametrize(
    ("route", "led"), [({}, b"/v1/x"), ({"match": "/v1", "rewrite": "/p"}, b"/p/x")]
)
async def test_a_query_is_each_requests_own(rig, stub, route, led: bytes) -> None:
    asked: list[bytes] = []

    async def script(conversation: Conversation) -> None:
        while True:
            head, _ = await conversation.request()
            asked.append(head.split(b" ")[1])
            await conversation.answer()

    gateway, instance = await rig(), await stub(script)
    gateway.one(instance, route=route)
    peer = await gateway.connect()
    queries = [b"", b"?user=1", b"?user=2", b"?", b"?a/../b", b"", b"?user=2"]
    for query in queries:
        peer.write(b"GET /v1/x%b HTTP/1.1\r\n%b\r\n" % (query, HOST))
        assert (await peer.answer()).status == 200
    assert asked == [led + query for query in queries]
    peer.write(b"GET /v1/x?user=%%00 HTTP/1.1\r\n%b\r\n" % HOST)
    assert (await peer.answer()).status == 400
    assert len(asked) == len(queries)
