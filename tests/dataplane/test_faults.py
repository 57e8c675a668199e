"""Blame, retries, cancellation, deadlines, ejection (R19, R24, R26, R31, R32, R41–R43)."""

import asyncio
import contextlib
import resource
import time
from dataclasses import replace

import orjson
import pytest

from gateway.core.health import AVOID_S
from gateway.dataplane.attempt import UNREAD_S
from gateway.dataplane.permits import Permits
from gateway.telemetry.metrics import RETRIES, RETRIES_DENIED
from tests.dataplane.clocks import Standstill, StoppedClock
from tests.dataplane.rig import Conversation, until
from tests.harness.black_hole import BlackHole

HOST = b"Host: gw.test\r\n"
GET = b"GET /x HTTP/1.1\r\n" + HOST + b"\r\n"
POST = b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nhi"


async def hang(conversation: Conversation) -> None:
    await conversation.request()
    await conversation.reader.read()


async def drop(conversation: Conversation) -> None:
    await conversation.request()
    conversation.reset()


def named(name: bytes):
    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await conversation.answer(name)

    return script


async def test_r24_a_dead_instance_costs_nothing_that_was_not_sent(rig, stub):
    gateway = await rig(retry_min_per_s=0.0, retry_percent=0.0)
    dead, alive = await stub(named(b"dead")), await stub(named(b"alive"))
    gateway.one(dead, alive, backend={"balance": "round_robin"})
    await dead.stop()
    for _ in range(4):
        answer = await gateway.ask(POST)
        assert (answer.status, answer.body) == (200, b"alive")


@pytest.mark.parametrize("balance", ["least_loaded", "round_robin", "random"])
async def test_r24_who_refused_a_connection_is_the_last_choice(rig, stub, balance):
    gateway = await rig(StoppedClock(), retry_min_per_s=0.0, retry_percent=0.0)
    dead, gone, alive = [await stub(named(b"alive")) for _ in range(3)]
    gateway.one(dead, gone, alive, backend={"balance": balance})
    await dead.stop()
    await gone.stop()
    answers = [await gateway.ask(POST) for _ in range(20)]
    assert sum(answer.status != 200 for answer in answers) <= 1, "one may meet both"
    assert gateway.seen.count("refused") <= 2


async def test_r24_a_websocket_goes_where_somebody_takes_the_connection(rig, stub):
    async def script(conversation: Conversation) -> None:
        await conversation.head()
        conversation.write(b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        await conversation.reader.read()

    gateway = await rig(StoppedClock(), retry_min_per_s=0.0, retry_percent=0.0)
    dead, alive = await stub(script), await stub(script)
    gateway.one(dead, alive, backend={"balance": "round_robin"})
    await dead.stop()
    for _ in range(4):
        upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        assert (await gateway.ask(b"GET /x HTTP/1.1\r\n" + HOST + upgrade)).status == 101
    assert gateway.seen == ["refused"], "the first was sent on"


async def test_r28_a_large_body_of_which_nothing_was_sent_goes_elsewhere(rig, stub):
    size = 1 << 20  # more than is kept once it was sent, or held at a time
    gateway, alive, gone = await rig(), await stub(named(b"alive")), await stub()
    gateway.one(gone, alive, backend={"balance": "round_robin", "timeouts": {"connect": "300ms"}})
    live = gateway.plane.live.backends["b"].instances[gone.address]
    with contextlib.closing(BlackHole()) as hole:
        live.pool.port = hole.port
        for _ in range(2):
            peer = await gateway.connect()
            peer.write(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % size)
            peer.write(bytes(size))
            async with asyncio.timeout(30):
                answer = await peer.answer()
            assert (answer.status, answer.body) == (200, b"alive")
    assert gateway.seen == ["unreachable"]


def unready(extra: bytes):
    """An instance that says 503 with its load, and what else is in `extra`."""
    load = b'{"named_metrics": {"queue": 0, "running": 1, "slots": 1, "wait_ms": 1.0}}'
    head = b"endpoint-load-metrics: JSON " + load + b"\r\nRetry-After: 1\r\n" + extra

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.answer(b"no", 503, head)

    return script


async def test_r69_who_is_about_to_leave_is_left_without_an_error(rig, stub):
    gateway = await rig(retry_min_per_s=0.0, retry_percent=0.0)
    leaving, stays = await stub(unready(b"Connection: close\r\n")), await stub(named(b"ok"))
    gateway.one(leaving, stays, backend={"balance": "round_robin"})
    answers = [await gateway.ask(POST) for _ in range(6)]
    assert {answer.status for answer in answers} == {200}
    assert leaving.connections


TWO = {"routes": {"r": {"match": "/", "split": {"a": 1, "b": 1}}}}


async def test_r24_a_version_that_loads_again_gives_its_whole_share_to_the_others(rig, stub):
    """Nobody has been refused a connection and no probe came by: the first answer must do."""
    gateway = await rig(StoppedClock(), retry_min_per_s=0.0, retry_percent=0.0)
    loads, works = await stub(unready(b"Connection: close\r\n")), await stub(named(b"ok"))
    versions = {"a": {"instances": [loads.url]}, "b": {"instances": [works.url]}}
    gateway.table({"backends": versions, **TWO})
    answers = await asyncio.gather(*(gateway.ask(POST) for _ in range(40)))
    assert {answer.status for answer in answers} == {200}
    asked = loads.connections
    assert {(await gateway.ask(POST)).status for _ in range(10)} == {200}
    assert loads.connections == asked
    assert "turned_away" in gateway.seen  # the probes look at once


async def test_r41_to_move_on_costs_only_where_somebody_takes_requests(rig, stub):
    gateway = await rig(StoppedClock(), retry_min_per_s=0.0, retry_percent=0.0)
    one, two = [await stub(unready(b"Connection: close\r\n")) for _ in range(2)]
    versions = {"a": {"instances": [one.url]}, "b": {"instances": [two.url]}}
    gateway.table({"backends": versions, **TWO})
    answers = [await gateway.ask(POST) for _ in range(20)]
    assert {answer.status for answer in answers} == {503}
    assert one.connections + two.connections <= 20 + 1


async def test_r41_who_refuses_connections_is_tried_again_for_a_price(rig, stub):
    gateway = await rig(StoppedClock(), retry_min_per_s=0.0, retry_percent=0.0)
    dead = [await stub(named(b"dead")) for _ in range(3)]
    gateway.one(*dead)
    for each in dead:
        await each.stop()
    answers = [await gateway.ask(POST) for _ in range(20)]
    assert {answer.error for answer in answers} == {"connect_failed"}
    assert gateway.timed() == 0, "no instance answered"
    assert gateway.retries() <= len(dead) - 1


async def test_r24_a_version_that_died_is_asked_again_after_a_moment(rig, stub):
    gateway = await rig(StoppedClock(), retry_min_per_s=1.0, retry_percent=0.0)
    dies, works = await stub(named(b"a")), await stub(named(b"b"))
    versions = {"a": {"instances": [dies.url]}, "b": {"instances": [works.url]}}
    gateway.table({"backends": versions, **TWO})
    await dies.stop()
    answers = [await gateway.ask(POST) for _ in range(40)]
    assert {(answer.status, answer.body) for answer in answers} == {(200, b"b")}
    await dies.start(dies.port)
    live = gateway.plane.live.backends["a"]
    assert live.vacant
    gateway.later(AVOID_S)
    await until(lambda: not live.vacant)
    assert {(await gateway.ask(POST)).body for _ in range(4)} == {b"a", b"b"}


async def hung(conversation) -> None:
    while True:
        await conversation.request()


@pytest.mark.parametrize("policy", ["redistribute", {"fallback": "b"}])
async def test_r33_a_version_that_hangs_goes_where_the_route_says(rig, stub, policy):
    """Its probes fail and so do its requests, though connections to it are made."""
    gateway = await rig(StoppedClock())
    hangs, works = await stub(hung), await stub(named(b"b"))
    versions = {"a": {"instances": [hangs.url]}, "b": {"instances": [works.url]}}
    split = {"a": 1, "b": 1} if policy == "redistribute" else {"a": 1}
    route = {"match": "/", "split": split, "on_unavailable": policy}
    gateway.table({"backends": versions, "routes": {"r": route}})
    live = gateway.plane.live.backends["a"]
    (instance,) = live.instances.values()
    up = {"b": {works.address: "up"}}
    for _ in range(5):
        instance.note("timeout", gateway.plane.now())
    assert not live.vacant, "its probes speak for it"
    gateway.hear({"a": {hangs.address: "failing"}, **up})
    gateway.later(60.0)
    answers = [await gateway.ask(POST) for _ in range(20)]
    assert {(answer.status, answer.body) for answer in answers} == {(200, b"b")}
    gateway.hear({"a": {hangs.address: "up"}, **up})
    assert not live.vacant


async def test_r32_a_version_whose_probes_fail_and_whose_requests_do_not_goes_on(rig, stub):
    gateway = await rig(StoppedClock())
    one, two = await stub(named(b"a")), await stub(named(b"b"))
    versions = {"a": {"instances": [one.url]}, "b": {"instances": [two.url]}}
    gateway.table({"backends": versions, **TWO})
    gateway.hear({"a": {one.address: "failing"}, "b": {two.address: "up"}})
    assert {(await gateway.ask(POST)).body for _ in range(4)} == {b"a", b"b"}
    live = gateway.plane.live.backends["a"]
    (instance,) = live.instances.values()
    for _ in range(5):
        instance.note("timeout", gateway.plane.now())
    assert live.vacant
    instance.note("success", gateway.plane.now())
    assert not live.vacant
    assert {(await gateway.ask(POST)).body for _ in range(4)} == {b"a", b"b"}


@pytest.mark.parametrize("is_well", [True, False], ids=["well again", "still ill"])
async def test_r32_a_version_whose_health_path_is_wrong_is_tried_again_when_it_was_ill(
    rig, stub, is_well
):
    """No probe will ever say that it is well: one request in a while asks. Of one that answers no
    probe either nothing is to be hoped."""

    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await conversation.answer(b"a", 200 if is_well else 502)

    gateway = await rig(StoppedClock())
    one, two = await stub(script), await stub(named(b"b"))
    versions = {
        "a": {"instances": [one.url], "eject": {"failures": 3, "base": "5s", "max": "8s"}},
        "b": {"instances": [two.url]},
    }
    gateway.table({"backends": versions, **TWO})
    live = gateway.plane.live.backends["a"]
    (instance,) = live.instances.values()

    def probed(*signals: str) -> None:
        for signal in signals:
            instance.note(signal, gateway.plane.now())

    async def asked(count: int) -> int:
        """How many of so many requests `a` got."""
        return [(await gateway.ask(POST)).body for _ in range(count)].count(b"a")

    probed(*["late"] * 3, *["gateway_error"] * 3)
    assert live.vacant
    gateway.later(60.0)
    assert await asked(20) == 0
    probed("unready")
    if is_well:
        assert await asked(20) > 5
        return
    assert await asked(20) == 1
    for wait_s in (8.0, 8.0):
        gateway.later(wait_s - 0.5)
        assert await asked(20) == 0
        gateway.later(0.5)
        assert await asked(20) == 1


async def test_r24_a_fallback_takes_over_at_once_too(rig, stub):
    gateway = await rig(StoppedClock(), retry_min_per_s=1000.0)
    loads, spare = await stub(unready(b"Connection: close\r\n")), await stub(named(b"ok"))
    versions = {"a": {"instances": [loads.url]}, "b": {"instances": [spare.url]}}
    route = {"match": "/", "split": {"a": 1}, "on_unavailable": {"fallback": "b"}}
    gateway.table({"backends": versions, "routes": {"r": route}})
    answers = [await gateway.ask(POST) for _ in range(10)]
    assert {answer.status for answer in answers[1:]} == {200}
    assert loads.connections == 1


async def test_r32_the_only_version_is_asked_even_if_it_just_took_nothing(rig, stub):
    gateway = await rig()
    only = await stub(named(b"ok"))
    gateway.one(only)
    await only.stop()
    assert (await gateway.ask(POST)).error == "connect_failed"
    await only.start(only.port)
    assert (await gateway.ask(POST)).status == 200


async def test_r41_who_is_merely_full_is_believed(rig, stub):
    gateway = await rig(retry_min_per_s=1000.0)
    full = await stub(unready(b""))
    gateway.one(full, await stub(named(b"ok")), backend={"balance": "round_robin"})
    statuses = {(await gateway.ask(POST)).status for _ in range(2)}
    assert statuses == {200, 503}


async def test_r26_a_reset_is_retried_elsewhere_only_where_it_is_harmless(rig, stub):
    gateway = await rig(retry_min_per_s=1000.0)
    breaks, works = await stub(drop), await stub(named(b"ok"))
    gateway.one(breaks, works, backend={"balance": "round_robin", "eject": {"failures": 1000}})
    answers = [await gateway.ask(GET) for _ in range(10)]
    assert {answer.status for answer in answers} == {200}
    answers = [await gateway.ask(POST) for _ in range(10)]
    assert {answer.status for answer in answers} == {200, 502}
    assert {a.error for a in answers if a.status == 502} == {"upstream_broke"}


class NoDescriptors:
    """No file descriptor is left in this process while it is entered."""

    def __enter__(self) -> None:
        self.limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, self.limits[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, self.limits)


async def test_r36_want_of_our_own_descriptors_is_nobodys_blame(rig, stub):
    gateway = await rig(retry_min_per_s=1000.0)
    instance = await stub(named(b"ok"))
    gateway.one(instance, backend={"eject": {"failures": 1}})
    (live,) = gateway.plane.live.backends["b"].instances.values()
    peers = [await gateway.connect() for _ in range(6)]
    await until(lambda: len(gateway.plane.clients) == 6)
    with NoDescriptors():
        for peer in peers:
            peer.write(POST)
        answers = [await peer.answer() for peer in peers]
    assert {(answer.status, answer.error) for answer in answers} == {(502, "connect_failed")}
    assert "file descriptor" in answers[0].body.decode()
    assert gateway.seen == []
    assert not live.load.avoid_until
    assert not gateway.plane.live.backends["b"].vacant
    assert (await gateway.ask(POST)).status == 200


async def test_r36_connections_that_only_teach_make_room_when_descriptors_are_short(rig, stub):
    gateway, instance = await rig(), await stub()
    gateway.one(instance)
    (live,) = gateway.plane.live.backends["b"].instances.values()
    live.pool.idling.closed(gateway.plane.now(), 0.05)
    live.pool.idle_limit_s = live.pool.idling.limit_s
    peers = [await gateway.connect() for _ in range(2)]
    peers[0].write(POST)
    assert (await peers[0].answer()).status == 200
    await until(lambda: bool(live.pool.watched))
    with NoDescriptors():
        peers[1].write(POST)
        assert (await peers[1].answer()).status == 502
    await until(lambda: instance.open == 0)
    assert not live.pool.watched


async def test_who_does_not_accept_in_time_is_busy_and_not_a_new_process(rig, stub):
    """Its answer of 503 is its own, and no sign of a model that loads."""
    busy = False

    async def sheds(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.answer(b"later", 503 if busy else 200)

    gateway, instance = await rig(), await stub(sheds)
    gateway.one(instance, backend={"timeouts": {"connect": "100ms"}})
    (live,) = gateway.plane.live.backends["b"].instances.values()
    with contextlib.closing(BlackHole()) as hole:
        live.pool.port = hole.port
        answer = await gateway.ask(POST)
    assert (answer.status, answer.error) == (502, "connect_failed")
    assert gateway.seen == ["unreachable"]
    live.pool.timeouts = replace(live.pool.timeouts, connect_s=60.0)
    live.pool.port, busy = instance.port, True
    answer = await gateway.ask(POST)
    assert (answer.status, answer.body) == (503, b"later")
    assert "turned_away" not in gateway.seen


async def test_a_name_without_an_address_is_no_evidence(rig, stub):
    gateway = await rig()
    gateway.one(await stub(), backend={"eject": {"failures": 1}})
    (live,) = gateway.plane.live.backends["b"].instances.values()
    live.pool.hosts = ()
    assert (await gateway.ask(POST)).error == "connect_failed"
    assert gateway.seen == ["unresolved"]
    assert not live.health.failures


async def test_r32_when_nobody_is_up_the_answer_is_503_at_once(rig, stub):
    gateway = await rig()
    gateway.one(await stub())
    gateway.hear({})
    answer = await gateway.ask(GET)
    assert (answer.status, answer.error) == (503, "no_backend")
    assert answer.get("retry-after") is not None


async def test_connect_failure_is_502(rig, stub):
    gateway, instance = await rig(), await stub()
    gateway.one(instance)
    await instance.stop()
    answer = await gateway.ask(GET)
    assert (answer.status, answer.error) == (502, "connect_failed")


@pytest.mark.paced
async def test_r42_a_deadline_is_told_and_kept(rig, stub):
    seen: list[bytes] = []

    async def script(conversation: Conversation) -> None:
        seen.append(await conversation.head())
        await conversation.reader.read()

    gateway, instance = await rig(), await stub(script)
    gateway.one(instance, route={"deadline": "200ms"})
    async with Standstill() as still:
        began = time.monotonic()
        answer = await gateway.ask(GET)
        took_s = time.monotonic() - began
        assert (answer.status, answer.error) == (504, "deadline")
        assert 0.2 <= took_s < 0.3 + still.seconds
        (line,) = [
            each for each in seen[0].split(b"\r\n") if each.startswith(b"X-Headgate-Timeout")
        ]
        assert 150 - 1000 * still.seconds <= int(line.split(b":")[1]) <= 200
        await until(lambda: instance.open == 0)
        assert time.monotonic() - began < took_s + 0.2 + still.seconds


async def test_r42_the_client_may_say_how_long_it_waits(rig, stub):
    gateway = await rig()
    gateway.one(await stub(hang))
    answer = await gateway.ask(b"GET /x HTTP/1.1\r\n" + HOST + b"X-Request-Timeout: 0.1\r\n\r\n")
    assert (answer.status, answer.error) == (504, "deadline")


@pytest.mark.parametrize(
    ("lines", "match"),
    [(b"", "/"), (b"X-Request-Timeout: 1\r\n", "/"), (b"X-Request-Timeout: 1\r\n", "json")],
    ids=["the route's", "the client's", "the client's, of a route that its body chooses"],
)
async def test_r42_a_deadline_passes_while_the_body_comes_in(rig, stub, lines, match):
    gateway, instance = await rig(StoppedClock()), await stub(named(b"ok"))
    route = {"match": {"path": "/", "json": {"model": "m"}}} if match == "json" else {}
    gateway.one(instance, route=route if lines else {"deadline": "1s"})
    peer = await gateway.connect()
    peer.write(b"POST /x HTTP/1.1\r\n" + HOST + lines + b"Content-Length: 13\r\n\r\n{")
    await until(lambda: any(client.exchange for client in gateway.plane.clients))
    gateway.later(1.0)
    async with asyncio.timeout(30):
        answer = await peer.answer()
    assert (answer.status, answer.error) == (504, "deadline")
    timer = "X-Request-Timeout" if lines else "deadline"
    assert orjson.loads(answer.body)["detail"] == f"The request's deadline passed ({timer})."
    assert instance.connections == 0


@pytest.mark.parametrize("gather", [1, 1000], ids=["a streamed body", "a gathered one"])
@pytest.mark.parametrize("took_s", [0.9, 1.0])
async def test_a_client_that_uploads_until_the_deadline_speaks_against_nobody(
    rig, stub, gather, took_s
):
    gateway, instance = await rig(StoppedClock(), gather=gather), await stub(hang)
    gateway.one(instance, route={"deadline": "1s"})
    peer = await gateway.connect()
    peer.write(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 13\r\n\r\nhalf")
    await until(lambda: any(client.exchange for client in gateway.plane.clients))
    if took_s < 1.0:
        gateway.later(took_s)
        (client,) = gateway.plane.clients
        peer.write(b" and half")
        await until(lambda: client.exchange.done and instance.open)
    gateway.later(1.0)
    async with asyncio.timeout(30):
        assert (await peer.answer()).error == "deadline"
    assert gateway.seen == []


async def test_r27_an_instance_that_had_the_time_is_told_by_its_deadline(rig, stub):
    gateway, instance = await rig(StoppedClock()), await stub(hang)
    gateway.one(instance, route={"deadline": "1s"})
    peer = await gateway.connect()
    peer.write(POST)
    await until(lambda: instance.open == 1)
    gateway.later(1.0)
    assert (await peer.answer()).error == "deadline"
    assert gateway.seen == ["timeout"]


async def test_a_deadline_that_was_spent_in_the_queue_speaks_against_nobody(rig, stub):
    asked, may_answer = 0, asyncio.Semaphore(0)

    async def script(conversation: Conversation) -> None:
        nonlocal asked
        while await conversation.head():
            asked += 1
            await may_answer.acquire()
            await conversation.answer()

    gateway, instance = await rig(StoppedClock()), await stub(script)
    gateway.one(instance, route={"deadline": "1s"}, backend={"max_in_flight": 1})
    for took_s in (0.1, 0.9):  # by the first answer it is known to be quick
        peer = await gateway.connect()
        peer.write(GET)
        await until(lambda: gateway.plane.live.backends["b"].in_flight == 1 and instance.open)
        if took_s == 0.9:
            late = await gateway.connect()
            late.write(GET)
            await until(lambda: len(gateway.plane.live.backends["b"].waiting) == 1)
        gateway.later(took_s)
        may_answer.release()
        assert (await peer.answer()).status == 200
    await until(lambda: asked == 3)
    gateway.later(0.1)
    assert (await late.answer()).error == "deadline"
    assert gateway.seen == []


async def test_a_deadline_that_another_instance_spent_speaks_against_nobody(rig, stub):
    breaks = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.head()
        if conversation.number == 1 and not breaks.is_set():
            await breaks.wait()
            conversation.reset()
        await conversation.reader.read()

    gateway = await rig(StoppedClock())
    instances = await stub(script), await stub(script)
    gateway.one(*instances, route={"deadline": "1s", "retries": {"attempts": 2}})
    peer = await gateway.connect()
    peer.write(GET)
    await until(lambda: sum(each.open for each in instances) == 1)
    gateway.later(0.9)
    breaks.set()
    await until(lambda: all(each.connections for each in instances))
    gateway.later(0.1)
    assert (await peer.answer()).error == "deadline"
    assert gateway.seen == ["reset"]


async def test_an_instance_that_never_answers_is_a_504(rig, stub):
    gateway = await rig()
    gateway.one(await stub(hang), backend={"timeouts": {"response": "100ms"}})
    answer = await gateway.ask(GET)
    assert (answer.status, answer.error) == (504, "response_timeout")
    assert b"(timeouts.response)" in answer.body, "the setting is named where one meets it"


async def test_an_instance_that_does_not_read_an_upload_is_a_504_that_names_the_other_timer(
    rig, stub
):
    async def script(conversation: Conversation) -> None:
        conversation.writer.transport.pause_reading()
        await asyncio.Event().wait()

    gateway = await rig()
    gateway.one(await stub(script), backend={"timeouts": {"response": "60s", "idle": "100ms"}})
    peer = await gateway.connect()
    size = 32 << 20
    peer.write(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % size)
    peer.write(bytes(size))
    answer = await peer.answer()
    assert (answer.status, answer.error) == (504, "response_timeout")
    assert b"(timeouts.idle)" in answer.body


async def test_an_instance_that_does_not_read_is_to_blame_for_the_deadline(rig, stub):
    async def script(conversation: Conversation) -> None:
        conversation.writer.transport.pause_reading()
        await asyncio.Event().wait()

    gateway = await rig()
    gateway.one(await stub(script), route={"deadline": "300ms"})
    peer = await gateway.connect()
    size = 32 << 20
    peer.write(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % size)
    peer.write(bytes(size))
    assert (await peer.answer()).error == "deadline"
    assert gateway.seen == ["timeout"]


@pytest.mark.paced
async def test_r43_a_client_that_leaves_takes_its_work_back(rig, stub):
    gateway, instance = await rig(), await stub(hang)
    gateway.one(instance)
    peer = await gateway.connect()
    peer.write(POST)
    await until(lambda: instance.open == 1)
    async with Standstill() as still:
        began = time.monotonic()
        peer.close()
        await until(lambda: instance.open == 0)
        assert time.monotonic() - began < 0.2 + still.seconds
    await until(lambda: gateway.count("client_left") == 1)
    backend = gateway.plane.live.backends["b"]
    assert backend.in_flight == 0


async def test_r43_a_client_that_leaves_the_queue_is_not_sent(rig, stub):
    gateway, instance = await rig(), await stub(hang)
    gateway.one(instance, backend={"max_in_flight": 1})
    first, second = await gateway.connect(), await gateway.connect()
    first.write(POST)
    await until(lambda: instance.open == 1)
    second.write(POST)
    backend = gateway.plane.live.backends["b"]
    await until(lambda: len(backend.waiting) == 1)
    second.close()
    await until(lambda: not backend.waiting)
    assert instance.connections == 1


async def test_r19_a_stalled_upload_holds_no_slot(rig, stub):
    gateway, instance = await rig(body_idle_s=0.1), await stub()
    gateway.one(instance)
    peer = await gateway.connect()
    peer.write(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\n\r\nab")
    answer = await peer.answer()
    assert (answer.status, answer.error) == (408, "request_timeout")
    assert instance.connections == 0


async def test_r19_a_trickling_large_upload_ends_too(rig, stub):
    gateway, instance = await rig(body_idle_s=0.2), await stub(hang)
    gateway.one(instance)
    peer = await gateway.connect()
    peer.write(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n")
    answering = asyncio.ensure_future(peer.answer())
    while not answering.done():
        peer.write(b"x")
        await asyncio.wait([answering], timeout=0.02)
    assert answering.result().status == 408
    await until(lambda: instance.open == 0)


async def test_r18_a_slow_head_is_ended(rig):
    gateway = await rig(head_timeout_s=0.1)
    peer = await gateway.connect()
    peer.write(b"GET / HTTP/1.1\r\nX:")
    assert (await peer.answer()).status == 408
    assert await peer.at_end() == b""


async def test_r21_an_idle_client_is_closed_cleanly(rig):
    gateway = await rig(keep_alive_s=0.1)
    peer = await gateway.connect()
    assert await peer.at_end() == b""


async def test_r22_an_idle_limit_is_learned_from_the_instance(rig, stub):
    over = asyncio.Event()

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.answer()
        await over.wait()

    gateway, instance = await rig(StoppedClock()), await stub(script)
    gateway.one(instance)
    (live,) = gateway.plane.live.backends["b"].instances.values()
    peer = await gateway.connect()
    for number in range(1, 11):
        peer.write(POST)
        assert (await peer.answer()).status == 200
        gateway.later(0.15)
        over.set()
        await until(lambda: not instance.open and not live.pool.connections)
        over.clear()
        assert instance.connections == number
    assert live.pool.idle_limit_s < 0.15


async def test_r22_one_early_end_costs_pooling_for_moments_only(rig, stub):
    """A server that ends each worker after so many requests (max_requests) has no idle limit."""

    over = asyncio.Event()

    async def recycled(conversation: Conversation) -> None:
        for _ in range(3 if conversation.number == 1 else 10_000):
            await conversation.request()
            await conversation.answer()
        await over.wait()

    gateway, instance = await rig(StoppedClock(), upstream_idle_s=2.0), await stub(recycled)
    gateway.one(instance)
    (live,) = gateway.plane.live.backends["b"].instances.values()
    peer = await gateway.connect()

    async def asked_after(idle_s: float) -> None:
        gateway.later(idle_s)
        peer.write(POST)
        assert (await peer.answer()).status == 200
        assert len(live.pool.watched) <= 4

    for _ in range(3):
        await asked_after(0.05)
    gateway.later(0.03)
    over.set()
    await until(lambda: not live.pool.connections)
    assert live.pool.idle_limit_s < 0.2
    for _ in range(60):
        await asked_after(0.3)
        await asyncio.sleep(0.01)  # for those that are watched, which are looked at by and by
        if live.pool.idle_limit_s > 0.3:
            break
    assert live.pool.idle_limit_s > 0.3
    connections = instance.connections
    for _ in range(5):
        await asked_after(0.2)
    assert instance.connections <= connections + 1


@pytest.mark.parametrize(
    ("says", "connections"),
    [
        (b"timeout=2", 2),
        (b"max=100, Timeout = 2", 2),
        (b"timeout=1", 3),
        (b"timeout=60", 1),
        (b"timeout=soon", 1),
    ],
)
async def test_r22_an_idle_limit_that_an_instance_announces_is_kept(rig, stub, says, connections):
    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await conversation.answer(extra=b"Keep-Alive: %b\r\n" % says)

    gateway, instance = await rig(StoppedClock()), await stub(script)
    gateway.one(instance)
    for pause_s in (0.0, 0.1, 1.1):  # with timeout=2 nothing is used that was idle for 1 s
        gateway.later(pause_s)
        answer = await gateway.ask(POST)
        assert answer.status == 200
        assert answer.get("keep-alive") is None, "it is said of one connection, not of two"
    assert instance.connections == connections


def says_408(came: asyncio.Event, says: asyncio.Event):
    """Answers one request of a connection, and 408 as the next one `came`: too late, it `says`."""

    async def script(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.answer(b"ok")
        await conversation.reader.read(1)
        came.set()
        await says.wait()
        conversation.write(b"HTTP/1.1 408 X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")

    return script


async def test_r22_a_request_that_met_the_end_of_an_idle_connection_is_sent_again(rig, stub):
    """Nothing was read, so it is harmless for a POST too; and it is no failure of anybody."""
    gateway = await rig(StoppedClock(), retry_min_per_s=0.0, retry_percent=0.0)
    at_once = asyncio.Event()
    at_once.set()
    only = await stub(says_408(asyncio.Event(), at_once))
    gateway.one(only, route={"retries": {"attempts": 1}})
    peer = await gateway.connect()
    for _ in range(5):
        peer.write(POST)
        answer = await peer.answer()
        assert (answer.status, answer.body) == (200, b"ok")
    assert only.connections == 5
    assert gateway.seen == []
    assert gateway.plane.counters.value(RETRIES, "r", "reset") == gateway.retries() == 4


async def test_r22_a_408_that_comes_late_is_about_the_request_itself(rig, stub):
    gateway = await rig(StoppedClock(), retry_min_per_s=0.0, retry_percent=0.0)
    came, says = asyncio.Event(), asyncio.Event()
    gateway.one(await stub(says_408(came, says)))
    peer = await gateway.connect()
    peer.write(POST)
    assert (await peer.answer()).status == 200
    peer.write(POST)
    await came.wait()
    gateway.later(UNREAD_S + 0.1)
    says.set()
    assert (await peer.answer()).status == 502


class AllTaken(Permits):
    """Other workers have all permits."""

    def acquire(self, limit: int) -> bool:
        return False


async def test_r41_a_retry_that_finds_no_room_costs_nothing(rig, stub):
    """One token, and the other instance's only turn is taken by another worker."""
    gateway = await rig(retry_min_per_s=1.0, retry_percent=0.0)
    breaks, full = await stub(drop), await stub(named(b"ok"))
    gateway.one(breaks, full, backend={"max_in_flight": 1, "eject": {"failures": 1000}})
    live = {each.address: each for each in gateway.plane.live.backends["b"].instances.values()}
    live[full.address].permits = AllTaken(None, "b", full.address)
    answers = [await gateway.ask(GET) for _ in range(3)]
    assert {answer.status for answer in answers} == {502}
    assert gateway.plane.counters.value(RETRIES_DENIED) == 0
    assert gateway.plane.can_pay(), "nobody was sent anywhere"


async def test_passive_failures_eject_and_time_brings_back(rig, stub):
    gateway = await rig(StoppedClock())
    breaks, works = await stub(drop), await stub(named(b"ok"))
    gateway.one(
        breaks, works,
        backend={"balance": "round_robin", "eject": {"failures": 2, "base": "5s"}},
    )  # fmt: skip
    for _ in range(6):
        await gateway.ask(POST)
    backend = gateway.plane.live.backends["b"]
    assert [each.address for each in backend.serving] == [works.address]
    assert backend.instances[breaks.address].health.ejections == 1
    gateway.later(5.0)
    await until(lambda: len(backend.serving) == 2)


async def test_the_last_instance_is_never_ejected(rig, stub):
    gateway, only = await rig(), await stub(drop)
    gateway.one(only, backend={"eject": {"failures": 1}})
    for _ in range(5):
        await gateway.ask(POST)
    assert len(gateway.plane.live.backends["b"].serving) == 1


async def test_r41_retries_are_paid_from_a_budget(rig, stub):
    gateway = await rig(StoppedClock(), retry_percent=0, retry_min_per_s=1.0)
    one, two = await stub(drop), await stub(drop)
    gateway.one(one, two, backend={"eject": {"failures": 1000}})
    for _ in range(20):
        assert (await gateway.ask(GET)).status == 502
    assert gateway.plane.counters.value(RETRIES_DENIED) >= 15


async def test_a_status_is_retried_where_the_route_says_so(rig, stub):
    async def busy(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await conversation.answer(b"busy", 503)

    gateway = await rig(retry_min_per_s=1000.0)
    gateway.one(
        await stub(busy), await stub(named(b"ok")),
        route={"retries": {"on": ["503"], "attempts": 2}}, backend={"balance": "round_robin"},
    )  # fmt: skip
    for _ in range(4):
        assert (await gateway.ask(POST)).body == b"ok"


async def test_the_body_is_sent_again_whole(rig, stub):
    async def drop_whole(conversation: Conversation) -> None:
        await conversation.request()
        conversation.reset()

    gateway = await rig()
    gateway.one(
        await stub(drop_whole), await stub(),
        route={"retries": {"on": ["reset"], "retry_safe": True}},
        backend={"balance": "round_robin", "eject": {"failures": 1000}},
    )  # fmt: skip
    body = b"x" * 200_000
    for _ in range(2):
        answer = await gateway.ask(
            b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 200000\r\n\r\n" + body
        )
        assert answer.body == body


async def test_an_internal_fault_is_a_500_and_nothing_else(rig, stub):
    gateway = await rig()
    gateway.one(await stub())
    gateway.plane.snapshot.route("r").route = None
    answer = await gateway.ask(GET)
    assert (answer.status, answer.error) == (500, "internal")


async def test_r27_a_dripping_instance_is_cut_at_the_deadline_and_ejected(rig, stub):
    dripping = asyncio.Event()

    async def drip(conversation: Conversation) -> None:
        await conversation.request()
        conversation.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        dripping.set()
        while True:
            conversation.write(b"x")
            await asyncio.sleep(0.02)

    gateway = await rig(StoppedClock())
    drips, works = await stub(drip), await stub(named(b"ok"))
    gateway.one(drips, works, route={"deadline": "100ms"}, backend={"balance": "round_robin"})
    answers = []
    for _ in range(4):
        asking = asyncio.ensure_future(gateway.ask(GET))
        await until(lambda: asking.done() or dripping.is_set())
        if dripping.is_set():
            dripping.clear()
            gateway.later(0.1)
        answers.append(await asking)
    assert {answer.whole for answer in answers} == {True, False}
    backend = gateway.plane.live.backends["b"]
    assert [each.address for each in backend.serving] == [works.address]


async def test_an_impatient_client_is_no_evidence_against_an_instance(rig, stub):
    gateway = await rig()
    gateway.one(await stub(hang), await stub(hang), backend={"balance": "round_robin"})
    for _ in range(8):
        await gateway.ask(b"GET /x HTTP/1.1\r\n" + HOST + b"X-Request-Timeout: 0.02\r\n\r\n")
    assert len(gateway.plane.live.backends["b"].serving) == 2


@pytest.mark.parametrize(
    ("lines", "route", "backend", "code", "seen"),
    [
        (b"X-Request-Timeout: 60\r\n", {}, {}, "deadline", []),
        (b"", {"deadline": "60s"}, {}, "deadline", ["timeout"]),
        (b"", {}, {"timeouts": {"response": "60s"}}, "response_timeout", ["timeout"]),
    ],
    ids=["the client's", "the route's", "the instance's"],
)
@pytest.mark.parametrize("in_parts", [False, True])
async def test_an_instance_that_says_first_that_time_is_up_is_met_as_if_it_had_said_nothing(
    rig, stub, lines, route, backend, code, seen, in_parts
):
    """It has the same deadline, and who looks at the clock first is chance."""

    async def too_late(conversation: Conversation) -> None:
        await conversation.request()
        clock.now += 60.0  # and no timer of the gateway's has looked yet
        if in_parts:
            conversation.write(b"HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 9\r\n\r\nto")
            await conversation.reader.read()
        else:
            await conversation.answer(b"too late", status=504)

    clock = StoppedClock()
    gateway = await rig(clock)
    gateway.one(await stub(too_late), route=route, backend=backend)
    async with asyncio.timeout(30):
        answer = await gateway.ask(b"GET /x HTTP/1.1\r\n" + HOST + lines + b"\r\n")
    assert (answer.status, answer.error) == (504, code)
    assert gateway.seen == seen


async def test_a_retry_does_not_fail_for_want_of_room(rig, stub):
    async def slow(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await asyncio.sleep(0.1)
            await conversation.answer(b"ok")

    gateway = await rig(retry_min_per_s=1000.0)
    breaks, works = await stub(drop), await stub(slow)
    gateway.one(breaks, works, backend={"balance": "round_robin", "eject": {"failures": 1000}})
    (live,) = [
        each
        for each in gateway.plane.live.backends["b"].instances.values()
        if each.address == works.address
    ]
    live.load.target = 1.0
    answers = await asyncio.gather(*(gateway.ask(GET) for _ in range(6)))
    assert {answer.status for answer in answers} == {200}
