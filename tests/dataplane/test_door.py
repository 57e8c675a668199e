"""Who is let in by a worker, what instances learn of it, and what is counted."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway.controlplane.watch.counters import Totals
from gateway.core.access import hash_of
from gateway.core.strangers import BURST, HOLD_S, MAX_ADDRESSES, Strangers
from gateway.dataplane.connection import BODY
from gateway.telemetry.metrics import CONSUMED, LIMITED
from tests.dataplane.clocks import StoppedClock
from tests.dataplane.rig import Conversation, Rig, StubInstance, until

MakeRig = Callable[..., Awaitable[Rig]]
MakeStub = Callable[..., Awaitable[StubInstance]]
KEY = "hg_" + "k" * 43
OTHER = "hg_" + "o" * 43
GET = b"GET %b HTTP/1.1\r\nHost: gw.test\r\n%b\r\n"
BEARER = b"Authorization: Bearer %b\r\n"


async def tell(conversation: Conversation) -> None:
    """Answers every request with the head that came."""
    while True:
        head, _ = await conversation.request()
        await conversation.answer(head)


def keys(**more: Any) -> dict[str, Any]:
    return {"acme": {"hashes": [hash_of(KEY)], **more}, "beta": {"hashes": [hash_of(OTHER)]}}


def serve(
    rig: Rig, stub: StubInstance, keys: Any = None, default_limits: Any = None, **route: Any
) -> None:
    document = {
        "backends": {"b": {"instances": [stub.url]}},
        "routes": {
            "r": {"match": "/", "split": {"b": 1}, **route},
            "open": {"match": "/open", "split": {"b": 1}, "access": "open"},
            "shut": {"match": "/shut", "split": {"b": 1}, "access": "keys"},
        },
    }
    more = {"keys": keys, "default_limits": default_limits}
    rig.table({**document, **{section: said for section, said in more.items() if said}})


def consumed(rig: Rig) -> dict[str, int]:
    """Consumer, route and code of all that was counted of consumers."""
    rig.plane.ledger.flush()
    totals = Totals(rig.plane.counters.book.memory)
    totals.read()
    return {
        " ".join((*labels, *key)): int(count)
        for labels, tally in totals.of(CONSUMED).items()
        for key, count in tally.counts.items()
        if isinstance(key, tuple)
    }


def limited(rig: Rig) -> dict[str, int]:
    """Consumer, route and limit of all that was refused by one."""
    totals = Totals(rig.plane.counters.book.memory)
    totals.read()
    series = totals.of(LIMITED).items()
    return {" ".join(labels): int(sum(tally.counts.values())) for labels, tally in series}


async def test_without_a_key_configured_everybody_comes_in_with_all_they_bring(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway = await rig()
    serve(gateway, await stub(tell))
    answer = await gateway.ask(GET % (b"/", BEARER % b"anything"))
    assert answer.status == 200
    assert b"authorization: bearer anything" in answer.body.lower()
    assert b"x-headgate-consumer" not in answer.body.lower()
    assert (await gateway.ask(GET % (b"/shut", b""))).error == "unauthorized"


async def test_once_a_key_is_configured_it_is_asked_for_and_not_passed_on(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway = await rig()
    serve(gateway, await stub(tell), keys())
    for credentials in (BEARER % KEY.encode(), b"x-api-key:  %b \r\n" % KEY.encode()):
        answer = await gateway.ask(GET % (b"/", credentials + b"Accept: x\r\n"))
        assert answer.status == 200
        assert KEY.encode() not in answer.body
        assert b"\r\nX-Headgate-Consumer: acme\r\n" in answer.body
        assert b"\r\nAccept: x\r\n" in answer.body
    for wrong in (
        b"",
        BEARER % b"wrong",
        b"Authorization: Basic eDp5\r\n",
        BEARER % KEY[1:].encode(),
    ):
        answer = await gateway.ask(GET % (b"/", wrong))
        assert (answer.status, answer.error) == (401, "unauthorized")
        assert answer.get("www-authenticate") == 'Bearer realm="headgate"'
    assert (await gateway.ask(GET % (b"/open", b""))).status == 200
    assert consumed(gateway) == {"acme r 200": 2}
    assert gateway.count("unauthorized") == 4


async def test_an_unknown_and_a_wrong_key_are_answered_alike(rig: MakeRig, stub: MakeStub) -> None:
    gateway = await rig(expose=False)
    serve(gateway, await stub(tell), keys())
    near, far = KEY[:-1] + "x", "y"
    answers = [await gateway.ask(GET % (b"/", BEARER % each.encode())) for each in (near, far)]
    for answer in answers:
        answer.fields = [field for field in answer.fields if field[0] != "date"]
    one, other = answers
    assert one.fields == other.fields
    assert one.body.partition(b'"request_id"')[0] == other.body.partition(b'"request_id"')[0]


async def test_a_key_that_does_not_open_the_route_or_expired_is_forbidden(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway = await rig()
    serve(gateway, await stub(tell), keys(routes=["shut"], expires="2027-01-01T00:00:00Z"))
    now = [0.0]
    gateway.plane.wall = lambda: now[0]
    peer = await gateway.connect()
    for path, wall, status in ((b"/shut", 0.0, 200), (b"/", 0.0, 403), (b"/shut", 2e9, 403)):
        now[0] = wall
        peer.write(GET % (path, BEARER % KEY.encode()))
        answer = await peer.answer()
        assert (answer.status, answer.error) == (status, None if status == 200 else "forbidden")
    peer.close()
    assert consumed(gateway) == {"acme shut 200": 1, "acme r 403": 1, "acme shut 403": 1}


async def test_an_edit_holds_from_the_next_request_of_a_connection_on(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway, instance = await rig(), await stub(tell)
    peer = await gateway.connect()

    async def ask() -> tuple[int, bytes]:
        peer.write(GET % (b"/", BEARER % KEY.encode()))
        answer = await peer.answer()
        return answer.status, answer.body

    serve(gateway, instance)
    assert KEY.encode() in (await ask())[1]
    serve(gateway, instance, keys())
    assert b"Consumer: acme" in (await ask())[1]
    serve(gateway, instance, {"renamed": {"hashes": [hash_of(KEY)]}})
    assert b"Consumer: renamed" in (await ask())[1]
    serve(gateway, instance, keys(), pass_credentials=True)
    status, body = await ask()
    assert KEY.encode() in body
    assert b"Consumer: acme" in body
    serve(gateway, instance, keys(), access="open")
    status, body = await ask()
    assert (status, KEY.encode() in body, b"Consumer" in body) == (200, False, False)
    serve(gateway, instance, {"beta": keys()["beta"]})
    assert (await ask())[0] == 401
    serve(gateway, instance)
    assert KEY.encode() in (await ask())[1]
    peer.close()


async def test_each_request_of_a_connection_is_whose_key_it_brings(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway = await rig()
    stub_ = await stub(tell)
    serve(gateway, stub_, keys())
    acme, beta = BEARER % KEY.encode(), b"X-API-Key: %b\r\n" % OTHER.encode()
    basic = b"Authorization: Basic eDp5\r\n"
    peer = await gateway.connect()
    asked = (
        (acme, "acme"), (acme, "acme"), (beta, "beta"), (basic + beta, "beta"), (acme, "acme"),
        (acme + beta, "acme"), (beta, "beta"), (basic, ""), (b"", ""), (beta, "beta"),
    )  # fmt: skip
    for number, (lines, whose) in enumerate(asked):
        peer.write(GET % (b"/%d" % number, lines))  # no head is like another
        answer = await peer.answer()
        assert (answer.status, number) == (200 if whose else 401, number)
        assert not whose or b"\r\nX-Headgate-Consumer: %b\r\n" % whose.encode() in answer.body
        assert KEY.encode() not in answer.body
    serve(gateway, stub_, {"acme": keys()["acme"]})
    for number, (lines, status) in enumerate(((beta, 401), (acme, 200), (beta, 401))):
        peer.write(GET % (b"/again%d" % number, lines))
        assert (await peer.answer()).status == status
    peer.close()
    assert consumed(gateway) == {"acme r 200": 5, "beta r 200": 4}


async def test_nobody_can_say_to_be_a_consumer(rig: MakeRig, stub: MakeStub) -> None:
    gateway = await rig(underscore_headers="pass", trusted_proxies=("127.0.0.1",))
    serve(gateway, await stub(tell), keys())
    forged = b"X-Headgate-Consumer: root\r\nX_Headgate_Consumer: root\r\n"
    for path, more in ((b"/open", b""), (b"/", BEARER % KEY.encode())):
        answer = await gateway.ask(GET % (path, forged + more))
        assert answer.status == 200
        assert b"root" not in answer.body


async def test_what_is_refused_is_refused_before_its_body(rig: MakeRig, stub: MakeStub) -> None:
    gateway = await rig()
    serve(gateway, await stub(tell), keys())
    head = b"POST %b HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    for path in (b"/", b"/shut"):
        answer = await gateway.ask(head % path)
        assert (answer.status, answer.get("connection")) == (401, "close")
    json_route = {"match": {"path": "/", "json": {"model": "a"}}}
    serve(gateway, await stub(tell), keys(), **json_route)
    assert (await gateway.ask(head % b"/")).status == 401
    serve(gateway, await stub(tell), None, access="keys", **json_route)
    assert (await gateway.ask(head % b"/")).status == 401
    serve(gateway, await stub(tell), keys(), access="open", **json_route)
    assert (await gateway.ask(head % b"/")).status == 100


async def test_a_stranger_learns_of_no_model_however_its_body_comes(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway = await rig()
    by_model = {"match": {"path": "/", "json": {"model": "a"}}}
    serve(gateway, await stub(tell), keys(), **by_model)
    head = b"POST / HTTP/1.1\r\nHost: gw.test\r\nContent-Length: %d\r\n%b\r\n"
    for body in (b'{"model": "a"}', b'{"model": "b"}', b"no JSON"):
        for credentials in (b"", BEARER % b"wrong"):
            answer = await gateway.ask(head % (len(body), credentials) + body)
            assert (answer.status, answer.error) == (401, "unauthorized"), body
    known = head % (14, BEARER % KEY.encode())
    assert (await gateway.ask(known + b'{"model": "b"}')).error == "no_route"
    assert (await gateway.ask(known + b'{"model": "a"}')).status == 200
    assert consumed(gateway) == {"acme  404": 1, "acme r 200": 1}


async def test_where_a_body_decides_who_is_beyond_its_limit_is_refused_before_it(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway = await rig()
    document = keys(limits={"requests": "1/m"})
    instance, by_model = await stub(tell), {"match": {"path": "/", "json": {"model": "a"}}}
    serve(gateway, instance, document, **by_model)
    body, head = b'{"model": "a"}', b"POST / HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 14\r\n"
    mine, waits = BEARER % KEY.encode(), b"Expect: 100-continue\r\n"
    assert (await gateway.ask(head + mine + b"\r\n" + body)).status == 200
    refused = await gateway.ask(head + mine + waits + b"\r\n")
    assert (refused.status, refused.error) == (429, "rate_limited")
    assert 55 <= int(refused.get("retry-after") or "0") <= 60
    assert limited(gateway) == {"acme  requests": 1}
    theirs = BEARER % OTHER.encode()
    assert (await gateway.ask(head + theirs + waits + b"\r\n")).status == 100
    # What its body asks for may be a route that is open to all.
    serve(gateway, instance, document, access="open", **by_model)
    assert (await gateway.ask(head + mine + waits + b"\r\n")).status == 100


async def test_who_is_known_before_the_body_may_be_revoked_while_it_comes(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway, instance = await rig(), await stub(tell)
    serve(gateway, instance, keys())
    peer = await gateway.connect()
    peer.write(
        b"POST / HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 9\r\n%b\r\n1234"
        % (BEARER % KEY.encode())
    )
    await until(lambda: any(client.state == BODY for client in gateway.plane.clients))
    serve(gateway, instance, {"beta": keys()["beta"]})
    peer.write(b"56789")
    assert (await peer.answer()).status == 401
    assert instance.connections == 0
    peer.close()


async def test_a_websocket_and_a_mirror_know_the_consumer_and_not_its_key(
    rig: MakeRig, stub: MakeStub
) -> None:
    seen: list[bytes] = []

    async def note(conversation: Conversation) -> None:
        while True:
            head, _ = await conversation.request()
            seen.append(head)
            if b"upgrade: websocket" in head.lower():
                conversation.write(
                    b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
                )
                await conversation.reader.read()
                return
            await conversation.answer()

    gateway, instance, copy = await rig(), await stub(note), await stub(note)
    gateway.table(
        {
            "backends": {"b": {"instances": [instance.url]}, "m": {"instances": [copy.url]}},
            "routes": {"r": {"match": "/", "split": {"b": 1}, "mirror": {"backend": "m"}}},
            "keys": keys(),
        }
    )
    assert (await gateway.ask(GET % (b"/", BEARER % KEY.encode()))).status == 200
    await until(lambda: len(seen) == 2)
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    assert (await gateway.ask(GET % (b"/", upgrade))).status == 401
    answer = await gateway.ask(GET % (b"/", upgrade + BEARER % KEY.encode()))
    assert answer.status == 101
    assert len(seen) == 3
    for head in seen:
        assert b"\r\nX-Headgate-Consumer: acme\r\n" in head
        assert KEY.encode() not in head


async def test_the_access_log_names_the_consumer_and_holds_no_key(
    rig: MakeRig, stub: MakeStub, tmp_path: Any
) -> None:
    path = tmp_path / "access.log"
    gateway = await rig(access_log=str(path))
    serve(gateway, await stub(tell), keys())
    await gateway.ask(GET % (b"/?key=" + KEY.encode(), BEARER % KEY.encode()))
    await gateway.ask(GET % (b"/", BEARER % (OTHER[:-1].encode() + b"x")))
    gateway.plane.ledger.flush()
    gateway.plane.log.close()
    known, unknown = path.read_text().splitlines()
    assert '"consumer":"acme"' in known
    assert "consumer" not in unknown
    assert "hg_" not in path.read_text()


async def test_the_access_log_names_the_revision_that_had_no_route(
    rig: MakeRig, stub: MakeStub, tmp_path: Any
) -> None:
    path = tmp_path / "access.log"
    gateway = await rig(access_log=str(path))
    serve(gateway, await stub(tell), match="/x")
    assert (await gateway.ask(GET % (b"/none", b""))).status == 404
    gateway.plane.ledger.flush()
    gateway.plane.log.close()
    assert f'"revision":{gateway.plane.snapshot.revision},' in path.read_text()
    assert gateway.plane.snapshot.revision


@pytest.mark.parametrize("retired", [("consumer", "acme"), ("route", "r")])
async def test_consumers_that_are_gone_are_counted_together(
    rig: MakeRig, stub: MakeStub, retired: tuple[str, str]
) -> None:
    gateway = await rig()
    serve(gateway, await stub(tell), keys())
    peer = await gateway.connect()
    for _ in range(2):
        peer.write(GET % (b"/", BEARER % KEY.encode()))
        await peer.answer()
        gateway.plane.ledger.flush()
        gateway.plane.counters.retire([retired], "retired-1")
    peer.close()
    place = "(retired-1) r 200" if retired[0] == "consumer" else "acme (retired-1) 200"
    assert consumed(gateway) == {place: 2}


async def test_beyond_a_limit_requests_are_refused_and_told_when_to_come_again(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway = await rig(StoppedClock())
    serve(gateway, await stub(tell), keys(limits={"requests": "2/m", "burst": 2}))
    peer = await gateway.connect()
    answers = []
    for _ in range(3):
        peer.write(GET % (b"/", BEARER % KEY.encode()))
        answers.append(await peer.answer())
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[0].get("ratelimit-policy") == '"key";q=2;w=60'
    assert answers[0].get("ratelimit") == '"key";r=1;t=30'
    assert answers[1].get("ratelimit") == '"key";r=0;t=30', "one more is there as soon"
    refused = answers[2]
    assert refused.error == "rate_limited"
    assert refused.get("retry-after") == "30"
    assert refused.get("ratelimit") == '"key";r=0;t=30'
    head = (
        b"POST / HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 9\r\nExpect: 100-continue\r\n%b\r\n"
    )
    assert (await gateway.ask(head % (BEARER % KEY.encode()))).status == 429
    assert (await gateway.ask(GET % (b"/", BEARER % OTHER.encode()))).status == 200
    assert limited(gateway) == {"acme r requests": 2}
    assert consumed(gateway) == {"acme r 200": 2, "acme r 429": 2, "beta r 200": 1}
    peer.close()


async def test_a_route_that_is_edited_lets_keys_in_as_it_says_now(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway, instance = await rig(), await stub(tell)
    peer = await gateway.connect()
    bearer = BEARER % KEY.encode()
    set_a = {"request": {"set": {"X-A": "1"}}}
    for number, more in enumerate(({}, {"pass_credentials": True}, {"headers": set_a}, {})):
        serve(gateway, instance, keys(), **more)
        for path in (b"/%d" % number, b"/%d" % number, b"/again"):  # the same head, and others
            peer.write(GET % (path, bearer))
            body = (await peer.answer()).body.lower()
            assert (b"hg_" in body) == ("pass_credentials" in more)
            assert (b"\r\nx-a: 1\r\n" in body) == ("headers" in more)
            assert b"\r\nx-headgate-consumer: acme\r\n" in body
    peer.close()


async def test_what_the_gateway_answers_itself_under_a_rate_tells_what_is_left(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway, instance = await rig(), await stub(tell)
    few, of_all = keys(limits={"requests": "1/m", "burst": 3}), {"requests": "1/m", "burst": 5}
    serve(gateway, instance, few, limits=of_all, max_body="1KiB")
    bearer = BEARER % KEY.encode()
    assert (await gateway.ask(GET % (b"/", bearer))).status == 200
    chunked = b"POST / HTTP/1.1\r\nHost: gw.test\r\nTransfer-Encoding: chunked\r\n%b\r\n"
    refused = await gateway.ask(chunked % bearer + b"800\r\n%b\r\n0\r\n\r\n" % bytes(2048))
    assert refused.error == "body_too_large", "it was not let in, and took nothing"
    assert refused.get("ratelimit") is None
    serve(gateway, instance, few, limits=of_all, split={"b": 0})
    answer = await gateway.ask(GET % (b"/", bearer))
    assert answer.error == "no_weight"
    left = [value.partition(";t=")[0] for name, value in answer.fields if name == "ratelimit"]
    assert left == ['"key";r=1', '"route";r=3']
    policies = [value for name, value in answer.fields if name == "ratelimit-policy"]
    assert policies == ['"key";q=3;w=180', '"route";q=5;w=300']


async def test_a_websocket_under_a_rate_is_told_what_is_left_whatever_else_is_exposed(
    rig: MakeRig, stub: MakeStub
) -> None:
    async def switch(conversation: Conversation) -> None:
        await conversation.request()
        conversation.write(b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        await conversation.reader.read()

    instance = await stub(switch)
    for expose in (True, False):
        gateway = await rig(StoppedClock(), expose=expose)
        serve(gateway, instance, keys(limits={"requests": "1/m", "burst": 3}))
        upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        answer = await gateway.ask(GET % (b"/", upgrade + BEARER % KEY.encode()))
        assert (answer.status, answer.get("x-request-id") is not None) == (101, expose)
        assert answer.get("ratelimit") == '"key";r=2;t=60'


async def test_who_has_too_much_under_way_is_told_what_is_left_of_its_rate(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway, came, held = await rig(), asyncio.Event(), asyncio.Event()

    async def hold(conversation: Conversation) -> None:
        await conversation.request()
        came.set()
        await held.wait()
        await conversation.answer(b"ok")

    serve(gateway, await stub(hold), keys(limits={"requests": "1/m", "burst": 3, "in_flight": 1}))
    bearer = BEARER % KEY.encode()
    peer = await gateway.connect()
    peer.write(GET % (b"/", bearer))
    await until(came.is_set)
    refused = await gateway.ask(GET % (b"/", bearer))
    assert refused.error == "rate_limited"
    assert (refused.get("ratelimit") or "").startswith('"key";r=2;t=')
    held.set()
    assert (await peer.answer()).status == 200
    peer.close()


async def test_a_routes_limit_is_for_all_and_takes_nothing_from_a_refused_one(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway, instance = await rig(), await stub(tell)
    serve(
        gateway, instance, keys(limits={"requests": "1/m"}), limits={"requests": "2/m", "burst": 2}
    )
    asked = [KEY, KEY, KEY, OTHER, OTHER]
    answers = [await gateway.ask(GET % (b"/", BEARER % each.encode())) for each in asked]
    assert [answer.status for answer in answers] == [200, 429, 429, 200, 429]
    assert limited(gateway) == {"acme r requests": 2, "beta r route_requests": 1}
    serve(gateway, instance, limits={"requests": "4/m", "burst": 4})
    assert (await gateway.ask(GET % (b"/", b""))).get("ratelimit-policy") == '"route";q=4;w=60'


async def test_what_is_under_way_counts_until_its_body_ends(rig: MakeRig, stub: MakeStub) -> None:
    async def hang(conversation: Conversation) -> None:
        await conversation.request()
        conversation.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        await conversation.request()

    gateway = await rig()
    serve(gateway, await stub(hang), keys(), default_limits={"in_flight": 1})
    slow = await gateway.connect()
    slow.write(GET % (b"/", BEARER % KEY.encode()))
    await slow.reader.readuntil(b"\r\n\r\n")
    answer = await gateway.ask(GET % (b"/", BEARER % KEY.encode()))
    assert (answer.status, answer.get("retry-after")) == (429, "1")
    slow.close()
    await until(lambda: not gateway.plane.clients)
    again = await gateway.connect()
    again.write(GET % (b"/", BEARER % KEY.encode()))
    assert b" 200 " in await again.reader.readuntil(b"\r\n\r\n")
    again.close()
    assert limited(gateway) == {"acme r in_flight": 1}


@pytest.mark.parametrize(
    "before",
    [
        {},
        {"keys": keys(limits={"requests": "9/s"}), "limits": {"requests": "9/s"}},
        {"keys": keys(limits={"in_flight": 5})},
    ],
)
@pytest.mark.parametrize(
    "limit",
    [
        {"keys": keys(limits={"in_flight": 2})},
        {"default_limits": {"in_flight": 2}},
        {"limits": {"in_flight": 2}},
        {"keys": keys(limits={"requests": "9/s", "in_flight": 2}), "limits": {"in_flight": 2}},
    ],
)
async def test_a_limit_that_is_added_counts_what_is_under_way(
    rig: MakeRig, stub: MakeStub, before: dict[str, Any], limit: dict[str, Any]
) -> None:
    async def hang(conversation: Conversation) -> None:
        await conversation.request()
        conversation.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        await conversation.reader.read()

    gateway, instance = await rig(), await stub(hang)
    ask = GET % (b"/", BEARER % KEY.encode())
    peers = []

    async def begin() -> None:
        peer = await gateway.connect()
        peer.write(ask)
        assert b" 200 " in await peer.reader.readuntil(b"\r\n\r\n")
        peers.append(peer)

    async def leave() -> None:
        clients = len(gateway.plane.clients)
        peers.pop().close()
        await until(lambda: len(gateway.plane.clients) < clients)

    serve(gateway, instance, **{"keys": keys(), **before})
    for _ in range(3):
        await begin()
    for _ in range(2):  # the same limits once more count nothing twice
        serve(gateway, instance, **{"keys": keys(), **limit})
    assert (await gateway.ask(ask)).error == "rate_limited"
    await leave()
    assert (await gateway.ask(ask)).error == "rate_limited"
    await leave()
    await begin()
    assert (await gateway.ask(ask)).error == "rate_limited"
    serve(gateway, instance, **{"keys": keys(), **before})
    while peers:
        await leave()
    serve(gateway, instance, **{"keys": keys(), **limit})
    for _ in range(2):
        await begin()
    assert (await gateway.ask(ask)).error == "rate_limited"
    for peer in peers:
        peer.close()


async def test_a_flood_of_one_consumer_leaves_the_queue_to_others(
    rig: MakeRig, stub: MakeStub
) -> None:
    free, seen = asyncio.Event(), []

    async def wait(conversation: Conversation) -> None:
        while True:
            head, _ = await conversation.request()
            seen.append("acme" if b"Consumer: acme" in head else "beta")
            await free.wait()
            await conversation.answer()

    gateway, instance = await rig(), await stub(wait)
    gateway.table(
        {
            "backends": {
                "b": {"instances": [instance.url], "max_in_flight": 1, "queue": {"size": 3}}
            },
            "routes": {"r": {"match": "/", "split": {"b": 1}}},
            "keys": keys(),
        }
    )
    backend = gateway.plane.live.backends["b"]
    peers = []
    for secret in (KEY, KEY, KEY, KEY, OTHER, KEY, OTHER):
        peer = await gateway.connect()
        peer.write(GET % (b"/", BEARER % secret.encode()))
        peers.append(peer)
        # Each is under way, waits or was refused before the next one comes.
        await until(
            lambda: len(peers) == len(seen) + len(backend.waiting) + gateway.count("queue_full")
        )
    free.set()
    answers = [await peer.answer() for peer in peers]
    assert [answer.status for answer in answers] == [200, 200, 200, 503, 200, 503, 503]
    assert seen == ["acme", "acme", "beta", "acme"]
    for peer in peers:
        peer.close()


async def test_who_asks_again_and_again_without_a_key_is_held_up_and_nobody_else(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway = await rig()
    serve(gateway, await stub(tell), keys())
    gateway.plane.strangers = strangers = Strangers()
    later = gateway.plane.now() + 3600.0  # nothing is forgotten while this test runs
    while not strangers.came(b"127.0.0.1", later):
        pass
    peer = await gateway.connect()
    began = time.monotonic()
    for _ in range(2):  # the second one is not read
        peer.write(GET % (b"/", BEARER % b"wrong"))
    assert (await peer.answer()).status == 401
    (client,) = gateway.plane.clients
    await until(lambda: client.is_paused)
    assert (await gateway.ask(GET % (b"/", BEARER % KEY.encode()))).status == 200
    assert (await asyncio.wait_for(peer.answer(), 30)).status == 401  # when its time is over
    assert time.monotonic() - began >= HOLD_S
    peer.close()


def test_addresses_without_a_key_are_counted_apart_and_few_are_remembered() -> None:
    strangers, now = Strangers(), 100.0
    assert [strangers.came(b"a", now) for _ in range(BURST + 3)] == [False] * BURST + [True] * 3
    assert not strangers.came(b"b", now)
    assert not strangers.came(b"a", now + 0.006)
    assert strangers.came(b"a", now + 0.006)
    for number in range(2 * MAX_ADDRESSES):
        strangers.came(b"%d" % number, now)
    assert not strangers.came(b"a", now)
