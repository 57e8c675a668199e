"""Which backend and instance: sticky, override, unavailable, queue, edits, draining."""

import asyncio

import pytest

from gateway.core.instance_load import FADE_S
from gateway.core.splitting import sticky_backend
from gateway.dataplane.observing import report
from gateway.telemetry.metrics import RETRIES
from tests.dataplane.rig import Answer, Conversation, echo, until

HOST = b"Host: gw.test\r\n"
GET = b"GET /x HTTP/1.1\r\n" + HOST + b"\r\n"


def get(*lines: bytes) -> bytes:
    return b"GET /x HTTP/1.1\r\n" + HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def two(one, other, **route):
    return {
        "backends": {"a": {"instances": [one.url]}, "b": {"instances": [other.url]}},
        "routes": {"r": {"match": "/", "split": {"a": 1, "b": 1}, **route}},
    }


async def test_a_sticky_key_keeps_its_backend(rig, stub):
    gateway = await rig()
    gateway.table(two(await stub(), await stub(), sticky={"header": "X-User"}))
    seen: dict[bytes, set[str | None]] = {}
    for _ in range(3):
        for user in (b"ann", b"bob", b"cy", b"dee", b"eve", b"flo"):
            answer = await gateway.ask(get(b"X-User: " + user))
            seen.setdefault(user, set()).add(answer.get("x-headgate-backend"))
    assert all(len(backends) == 1 for backends in seen.values())
    assert len(set.union(*seen.values())) == 2


async def test_a_cookie_can_be_the_sticky_key(rig, stub):
    gateway = await rig()
    gateway.table(two(await stub(), await stub(), sticky={"cookie": "uid"}))
    backends = {
        (await gateway.ask(get(b"Cookie: a=b; uid=7; c=d"))).get("x-headgate-backend")
        for _ in range(8)
    }
    assert len(backends) == 1


async def test_an_override_counts_only_where_the_route_allows_it(rig, stub):
    gateway, one, other = await rig(), await stub(), await stub()
    gateway.table(two(one, other, split={"a": 1, "b": 0}, override=True))
    forced = await gateway.ask(get(b"X-Headgate-Backend: b"))
    assert forced.get("x-headgate-backend") == "b"
    unknown = await gateway.ask(get(b"X-Headgate-Backend: zz"))
    assert (unknown.status, unknown.error) == (400, "bad_request")
    gateway.table(two(one, other, split={"a": 1, "b": 0}))
    assert (await gateway.ask(get(b"X-Headgate-Backend: b"))).get("x-headgate-backend") == "a"


async def test_no_weight_is_its_own_error(rig, stub):
    gateway = await rig()
    gateway.table(two(await stub(), await stub(), split={"a": 0, "b": 0}))
    assert (await gateway.ask(GET)).error == "no_weight"


async def test_r33_a_backend_that_is_down_is_redistributed_failed_or_replaced(rig, stub):
    gateway, one, other = await rig(), await stub(), await stub()

    async def outcome(policy) -> set[str | None]:
        gateway.table(two(one, other, on_unavailable=policy))
        gateway.hear({"a": {one.address: "up"}, "b": {}})
        answers = [await gateway.ask(GET) for _ in range(6)]
        return {answer.error or answer.get("x-headgate-backend") for answer in answers}

    assert await outcome("redistribute") == {"a"}
    assert await outcome("fail") == {"a", "no_backend"}
    assert await outcome({"fallback": "a"}) == {"a"}


async def test_failing_instances_are_better_than_none(rig, stub):
    gateway = await rig()
    instance = await stub()
    gateway.one(instance)
    gateway.hear({"b": {instance.address: "failing"}})
    assert (await gateway.ask(GET)).status == 200


class Held:
    """An instance that answers once it is `released`."""

    def __init__(self) -> None:
        self.released = asyncio.Event()

    async def __call__(self, conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await self.released.wait()
            await conversation.answer()


async def test_requests_queue_for_room_and_are_all_answered(rig, stub):
    held = Held()
    gateway, instance = await rig(), await stub(held)
    gateway.one(instance, backend={"max_in_flight": 2})
    asking = [asyncio.ensure_future(gateway.ask(GET)) for _ in range(8)]
    await until(lambda: len(gateway.plane.live.backends["b"].waiting) == 6)
    held.released.set()
    answers = await asyncio.gather(*asking)
    assert [answer.status for answer in answers] == [200] * 8
    assert instance.connections == 2


async def test_a_full_queue_refuses_at_once(rig, stub):
    held = Held()
    gateway, instance = await rig(), await stub(held)
    gateway.one(instance, backend={"max_in_flight": 1, "queue": {"size": 1}})
    first = asyncio.ensure_future(gateway.ask(GET))
    await until(lambda: gateway.plane.live.backends["b"].in_flight == 1)
    second = asyncio.ensure_future(gateway.ask(GET))
    await until(lambda: len(gateway.plane.live.backends["b"].waiting) == 1)
    third = await gateway.ask(GET)
    assert (third.status, third.error) == (503, "queue_full")
    assert b"(queue.size)" in third.body, "the setting is named where one meets it"
    assert int(third.get("retry-after") or 0) >= 1
    held.released.set()
    assert (await first).status == (await second).status == 200


async def test_r09_a_body_is_asked_for_unless_every_backend_would_refuse_it(rig, stub):
    release = asyncio.Event()

    async def held(conversation: Conversation) -> None:
        await conversation.request()
        await release.wait()
        await conversation.answer()

    gateway, one, other = await rig(), await stub(held), await stub(held)
    full = {"max_in_flight": 1, "queue": {"size": 0}}
    backends = {name: {"instances": [it.url], **full} for name, it in (("a", one), ("b", other))}
    route = {"match": "/", "split": {"a": 1, "b": 1}, "override": True}
    gateway.table({"backends": backends, "routes": {"r": route}})
    head = b"POST /x HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 1\r\n"
    asks = head + b"Expect: 100-continue\r\n\r\n"
    taken = []
    for name in ("a", "b"):
        peer = await gateway.connect()
        peer.write(asks)  # the ticket may still lead to the one that has room
        assert (await peer.answer()).status == 100
        peer.close()
        busy = head + b"X-Headgate-Backend: %b\r\n\r\nx" % name.encode()
        taken.append(asyncio.ensure_future(gateway.ask(busy)))
        await until(lambda: gateway.plane.live.backends[name].in_flight == 1)
    refused = await gateway.ask(asks)
    assert (refused.status, refused.error) == (503, "queue_full")
    release.set()
    assert [(await each).status for each in taken] == [200, 200]


@pytest.mark.parametrize("expects", [b"", b"Expect: 100-continue\r\n"])
async def test_r32_a_refusal_for_want_of_instances_speaks_of_no_queue(rig, expects):
    gateway = await rig()
    backends, route = {"b": {"instances": []}}, {"match": "/", "split": {"b": 1}}
    gateway.table({"backends": backends, "routes": {"r": {**route, "on_unavailable": "fail"}}})
    head = b"POST /x HTTP/1.1\r\nHost: gw.test\r\nContent-Length: 1\r\n"
    refused = await gateway.ask(head + expects + b"\r\n" + (b"" if expects else b"x"))
    assert (refused.status, refused.error) == (503, "no_backend")
    assert b"No instance" in refused.body
    assert b"queue" not in refused.body


async def test_waiting_too_long_is_a_503(rig, stub):
    async def hang(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.reader.read()

    gateway = await rig()
    gateway.one(await stub(hang), backend={"max_in_flight": 1, "queue": {"timeout": "60s"}})
    first = await gateway.connect()
    first.write(GET)
    backend = gateway.plane.live.backends["b"]
    await until(lambda: backend.in_flight == 1)
    second = asyncio.ensure_future(gateway.ask(GET))
    await until(lambda: len(backend.waiting) == 1)
    gateway.plane.wheel.set(backend.waiting[0], gateway.plane.now())
    answer = await second
    assert (answer.status, answer.error) == (503, "queue_timeout")
    assert b"(queue.timeout)" in answer.body, "the setting is named where one meets it"
    assert not backend.waiting


async def test_an_idle_instance_is_told_to_run_nothing_though_each_report_counts_its_own(rig, stub):
    async def reports(conversation: Conversation) -> None:
        await conversation.request()
        await conversation.answer(
            extra=b'endpoint-load-metrics: JSON {"named_metrics": {"queue": 0, "running": 1,'
            b' "slots": 1, "wait_ms": 0.0}}\r\n'
        )

    gateway, instance = await rig(), await stub(reports)
    gateway.one(instance)
    await gateway.ask(GET)
    live = gateway.plane.live.backends["b"].instances[instance.address]
    told = report(live, live.load.reported_at)
    assert told == {"queue": 0.0, "running": 0.0, "slots": 1.0, "wait_ms": 0.0}


async def test_the_load_report_is_read_and_removed(rig, stub):
    async def reports(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await conversation.answer(
                extra=b'endpoint-load-metrics: JSON {"named_metrics": {"queue": 3, "running": 2,'
                b' "slots": 4, "wait_ms": 12.5}}\r\n'
            )

    gateway, instance = await rig(), await stub(reports)
    gateway.one(instance)
    answer = await gateway.ask(GET)
    assert answer.get("endpoint-load-metrics") is None
    live = gateway.plane.live.backends["b"].instances[instance.address]
    assert live.report == (3.0, 2.0, 4.0, 12.5)
    assert live.load.slots == 4
    told = {"queue": 3.0, "running": 1.0, "slots": 4.0, "wait_ms": 12.5}
    assert report(live, live.load.reported_at + FADE_S) == told
    assert report(live, live.load.reported_at + FADE_S + 0.1) is None, "it is no longer known"


async def test_an_edit_keeps_what_stays_and_drains_what_goes(rig, stub):
    held = Held()
    gateway, stays, goes = await rig(), await stub(held), await stub(held)
    gateway.one(stays, goes, backend={"balance": "round_robin"})
    asking = [asyncio.ensure_future(gateway.ask(GET)) for _ in range(4)]
    backend = gateway.plane.live.backends["b"]
    await until(lambda: backend.in_flight == 4)
    kept, gone = (backend.instances[each.address] for each in (stays, goes))
    gateway.one(stays)
    assert backend.instances == {stays.address: kept}
    assert kept.load.in_flight == 2
    held.released.set()
    assert {answer.status for answer in await asyncio.gather(*asking)} == {200}
    assert (await gateway.ask(GET)).get("x-headgate-revision") == "2"
    await until(lambda: goes.open == 0)
    assert not gone.load.in_flight
    assert not gone.pool.connections
    assert stays.open > 0


async def test_a_draining_instance_gets_nothing_new(rig, stub):
    gateway, works, drains = await rig(), await stub(), await stub()
    gateway.one(works, drains, backend={"states": {drains.address: "draining"}})
    for _ in range(6):
        assert (await gateway.ask(GET)).get("x-headgate-instance") == works.address


async def test_a_json_field_chooses_the_route(rig, stub):
    gateway, one, other = await rig(), await stub(), await stub()
    gateway.table(
        {
            "backends": {"a": {"instances": [one.url]}, "b": {"instances": [other.url]}},
            "routes": {
                "special": {
                    "match": {"path": "/x", "json": {"model": "m1"}},
                    "split": {"b": 1},
                },
                "rest": {"match": "/x", "split": {"a": 1}, "max_body": "1KiB"},
            },
        }
    )

    async def route(body: bytes) -> str | None:
        peer = await gateway.connect()
        peer.write(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(body))
        await asyncio.sleep(0.01)
        peer.write(body)
        answer = await peer.answer()
        return answer.error or answer.get("x-headgate-route")

    assert await route(b'{"model": "m1"}') == "special"
    assert await route(b'{"model": "m2"}') == "rest"
    assert await route(b"not json") == "rest"
    assert await route(b'{"pad": "' + b"x" * 2000 + b'"}') == "body_too_large"


async def test_names_are_connected_to_by_their_resolved_address(rig, stub):
    gateway, instance = await rig(), await stub()
    url = f"dns+http://models.test:{instance.port}"
    gateway.table(
        {
            "backends": {"b": {"instances": [url]}},
            "routes": {"r": {"match": "/", "split": {"b": 1}}},
        }
    )
    assert (await gateway.ask(GET)).error == "no_backend"
    gateway.plane.live.resolve({"b": {url: ["127.0.0.1"]}})
    gateway.hear({"b": {instance.address: "up"}})
    answer = await gateway.ask(GET)
    assert answer.get("x-headgate-instance") == instance.address


async def drop(conversation: Conversation) -> None:
    await conversation.request()
    conversation.reset()


GRUMPY = {"eject": {"failures": 1_000_000}}


async def test_r56_what_is_tried_again_elsewhere_leaves_the_shares_of_the_rest_alone(rig, stub):
    gateway, breaks, works = await rig(retry_min_per_s=1e9), await stub(drop), await stub()
    document = two(breaks, works, split={"a": 60, "b": 40})
    document["backends"] = {name: {**spec, **GRUMPY} for name, spec in document["backends"].items()}
    gateway.table(document)
    peer = await gateway.connect()
    count = 300
    for number in range(1, count + 1):
        peer.write(GET)
        assert (await peer.answer()).get("x-headgate-backend") == "b"
        assert abs(breaks.connections - 0.6 * number) <= 8, number
    assert gateway.plane.counters.value(RETRIES, "r", "reset") == breaks.connections


async def test_r56_shares_hold_among_sticky_forced_and_json_requests(rig, stub):
    gateway, one, other = await rig(), await stub(), await stub()
    document = two(one, other, split={"a": 97, "b": 3}, sticky={"header": "X-User"}, override=True)
    document["routes"]["r"]["match"] = {"path": "/", "json": {"model": "m"}}
    gateway.table(document)
    body = b'{"model": "m"}'

    def post(*lines: bytes) -> bytes:
        fields = b"".join(line + b"\r\n" for line in (*lines, b"Content-Length: %d" % len(body)))
        return b"POST /x HTTP/1.1\r\n" + HOST + fields + b"\r\n" + body

    peer = await gateway.connect()

    async def ask(*lines: bytes) -> Answer:
        peer.write(post(*lines))
        return await peer.answer()

    seen = {"a": 0, "b": 0}
    for number in range(1, 301):
        answer = await ask()
        seen[answer.get("x-headgate-backend") or ""] += 1
        assert abs(seen["b"] - 0.03 * number) <= 8, number
        forced = await ask(b"X-Headgate-Backend: b")
        assert forced.get("x-headgate-backend") == "b"
        assert (await ask(b"X-User: u%d" % number)).status == 200


async def test_r33_a_request_that_failed_goes_to_the_fallback_and_nowhere_else(rig, stub):
    gateway = await rig(retry_min_per_s=1e9)
    breaks, small, spare = await stub(drop), await stub(), await stub()
    gateway.table(
        {
            "backends": {
                "big": {"instances": [breaks.url], **GRUMPY},
                "small": {"instances": [small.url]},
                "spare": {"instances": [spare.url]},
            },
            "routes": {
                "r": {
                    "match": "/",
                    "split": {"big": 90, "small": 10},
                    "on_unavailable": {"fallback": "spare"},
                }
            },
        }
    )
    seen = [(await gateway.ask(GET)).get("x-headgate-backend") for _ in range(50)]
    assert abs(seen.count("spare") - 45) <= 8
    assert abs(seen.count("small") - 5) <= 8


async def test_r33_who_waits_for_a_backend_that_goes_is_redistributed_too(rig, stub):
    async def outcome(policy) -> set[str | None]:
        gateway, stuck, other = await rig(), await stub(hang), await stub()
        document = two(stuck, other, on_unavailable=policy, sticky={"header": "X-User"})
        document["backends"]["a"]["max_in_flight"] = 1
        gateway.table(document)
        backend = gateway.plane.live.backends["a"]
        sticks = next(  # a client whose key is a's
            f"X-User: {n}".encode()
            for n in range(100)
            if sticky_backend("r", str(n).encode(), (("a", 1), ("b", 1))) == "a"
        )
        asking = [asyncio.ensure_future(gateway.ask(get(sticks))) for _ in range(4)]
        await until(lambda: len(backend.waiting) == 3)
        gateway.hear({"a": {}, "b": {other.address: "up"}})
        await until(lambda: sum(each.done() for each in asking) == 3)
        done = [each for each in asking if each.done()]
        await gateway.stop()
        await asyncio.gather(*asking)
        return {each.result().error or each.result().get("x-headgate-backend") for each in done}

    assert await outcome("redistribute") == {"b"}
    assert await outcome({"fallback": "b"}) == {"b"}
    assert await outcome("fail") == {"no_backend"}


async def waiting_for_a(rig, stub, count: int):
    """A gateway where so many wait for backend a, whose only place is taken, two instances for
    `two`, and what asks."""
    gateway, stuck, other = await rig(), await stub(hang), await stub()
    document = two(stuck, other)
    document["backends"]["a"]["max_in_flight"] = 1
    document["routes"]["r"]["split"] = {"a": 1}
    gateway.table(document)
    backend = gateway.plane.live.backends["a"]
    asking = [asyncio.ensure_future(gateway.ask(get())) for _ in range(count + 1)]
    await until(lambda: len(backend.waiting) == count)
    return gateway, (stuck, other), asking


@pytest.mark.parametrize("edits", [1, 2], ids=["in one edit", "the weights before"])
async def test_r57_who_waits_for_a_backend_that_is_replaced_goes_to_the_new_one(rig, stub, edits):
    gateway, instances, asking = await waiting_for_a(rig, stub, 3)
    after = two(*instances, split={"b": 1})
    if edits == 2:
        gateway.table(after)
    gateway.table({**after, "backends": {"b": after["backends"]["b"]}})
    await until(lambda: sum(each.done() for each in asking) == 3)
    answers = [each.result() for each in asking if each.done()]
    assert {each.get("x-headgate-backend") for each in answers} == {"b"}
    assert {each.get("x-headgate-revision") for each in answers} == {str(gateway.revision)}
    await gateway.stop()
    await asyncio.gather(*asking)


async def test_who_waits_for_a_backend_that_is_replaced_is_let_in_by_the_new_table(rig, stub):
    gateway, instances, asking = await waiting_for_a(rig, stub, 1)
    after = two(*instances, split={"b": 1}, access="keys")
    gateway.table({**after, "backends": {"b": after["backends"]["b"]}})
    await until(lambda: any(each.done() for each in asking))
    assert [each.result().error for each in asking if each.done()] == ["unauthorized"]
    await gateway.stop()
    await asyncio.gather(*asking)


async def hang(conversation: Conversation) -> None:
    await conversation.request()
    await conversation.reader.read()


def in_turn(may_answer: asyncio.Semaphore):
    """An instance that answers one request each time that it may."""

    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await may_answer.acquire()
            await conversation.answer()

    return script


async def three_wait_as_it_is(rig, stub, state: str, other=None, **route):
    """A gateway where three wait for the one instance of backend a as an edit makes it `state`,
    the semaphore by which that answers, and the four that ask. `other` is what b is beside its
    instance, and its script."""
    may_answer = asyncio.Semaphore(0)
    script, more = other or (echo, {})
    gateway, one, spare = await rig(), await stub(in_turn(may_answer)), await stub(script)
    document = two(one, spare, split={"a": 1, "b": 0}, **route)
    document["backends"]["a"]["max_in_flight"] = 1
    document["backends"]["b"].update(more)
    gateway.table(document)
    backend = gateway.plane.live.backends["a"]
    asking = [asyncio.ensure_future(gateway.ask(GET)) for _ in range(4)]
    await until(lambda: len(backend.waiting) == 3)
    document["backends"]["a"]["states"] = {one.address: state}
    gateway.table(document)
    return gateway, may_answer, asking


FALLBACK = {"on_unavailable": {"fallback": "b"}}


async def test_who_waits_for_an_only_instance_that_is_drained_is_of_what_it_finishes(rig, stub):
    gateway, may_answer, asking = await three_wait_as_it_is(rig, stub, "draining")
    assert (await gateway.ask(GET)).error == "no_backend"
    for _ in asking:
        may_answer.release()
    assert {each.status for each in await asyncio.gather(*asking)} == {200}
    assert (await gateway.ask(GET)).error == "no_backend"


async def test_who_waits_for_an_only_instance_that_is_disabled_is_told_so(rig, stub):
    _, may_answer, asking = await three_wait_as_it_is(rig, stub, "disabled")
    await until(lambda: sum(each.done() for each in asking) == 3)
    may_answer.release()
    errors = [each.error for each in await asyncio.gather(*asking)]
    assert (errors.count("no_backend"), errors.count(None)) == (3, 1)


async def test_who_waits_for_one_that_is_drained_goes_where_the_route_says(rig, stub):
    _, may_answer, asking = await three_wait_as_it_is(rig, stub, "draining", **FALLBACK)
    await until(lambda: sum(each.done() for each in asking) == 3)
    may_answer.release()
    took = [each.get("x-headgate-backend") for each in await asyncio.gather(*asking)]
    assert (took.count("a"), took.count("b")) == (1, 3)


async def test_who_waits_for_one_that_is_drained_stays_where_its_fallback_is_full(rig, stub):
    small = in_turn(may_go_on := asyncio.Semaphore(0)), {"max_in_flight": 1, "queue": {"size": 1}}
    _, may_answer, asking = await three_wait_as_it_is(rig, stub, "draining", small, **FALLBACK)
    for semaphore in (may_answer, may_go_on):
        for _ in asking:
            semaphore.release()
    took = [each.get("x-headgate-backend") for each in await asyncio.gather(*asking)]
    assert (took.count("a"), took.count("b")) == (2, 2)


async def test_who_waits_for_one_that_drains_is_told_so_once_it_is_gone(rig, stub):
    gateway, _, asking = await three_wait_as_it_is(rig, stub, "draining")
    gateway.hear({"a": {}})
    await until(lambda: sum(each.done() for each in asking) == 3)
    assert {each.result().error for each in asking if each.done()} == {"no_backend"}
    await gateway.stop()
    await asyncio.gather(*asking)
