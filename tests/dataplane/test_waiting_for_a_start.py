"""Requests of a backend that starts on demand: they wait for its start, and for nothing else."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from gateway.core.retrying import START_AGAIN_S
from tests.dataplane.clocks import StoppedClock
from tests.dataplane.rig import Answer, Conversation, Rig, StubInstance
from tests.harness.gateway import eventually

MakeRig = Callable[..., Awaitable[Rig]]
MakeStub = Callable[..., Awaitable[StubInstance]]
POST = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi"
GET = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n"
ASLEEP: dict[str, Any] = {
    "serve": {"model": "m:A", "start": "demand"}, "placed": ["fleet://b"],
}  # fmt: skip


async def target(conversation: Conversation) -> None:
    """Answers with what was asked for."""
    while True:
        head, _ = await conversation.request()
        await conversation.answer(head.split(b" ")[1])


def serve(rig: Rig, **more: Any) -> None:
    rig.table(
        {
            "backends": {"b": {**ASLEEP, **more.pop("backend", {})}, **more.pop("others", {})},
            "routes": {"r": {"match": "/", "split": {"b": 1}, **more}},
        }
    )


def start(rig: Rig, *stubs: StubInstance) -> None:
    """The fleet has it there, and it is well."""
    rig.plane.live.resolve({"b": {"fleet://b": [stub.address for stub in stubs]}})
    rig.hear({"b": {stub.address: "up" for stub in stubs}})


async def waiting(rig: Rig, count: int) -> None:
    await eventually(lambda: len(rig.plane.live.backends["b"].waiting) == count)


async def test_all_who_wait_are_answered_after_one_wish(rig: MakeRig, stub: MakeStub) -> None:
    gateway, instance = await rig(), await stub(target)
    serve(gateway)
    asked = [asyncio.create_task(gateway.ask(POST)) for _ in range(20)]
    await waiting(gateway, 20)
    assert list(gateway.plane.asked) == ["b"]
    start(gateway, instance)
    answers: list[Answer] = await asyncio.gather(*asked)
    assert [answer.status for answer in answers] == [200] * 20
    assert gateway.counted()[("POST", "200", "")] == 20

    # Unloaded, those that come wait for the next start, also while one of before is under way.
    gateway.plane.asked.clear()
    start(gateway)
    again = asyncio.create_task(gateway.ask(POST))
    await waiting(gateway, 1)
    start(gateway, instance)
    assert (await again).status == 200


async def test_who_waits_for_a_start_is_not_turned_away_by_an_edit_that_starts_it_anyway(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway, instance = await rig(), await stub(target)
    boot = {"serve": {"model": "m:A", "start": "boot"}}
    serve(gateway)
    asked = [asyncio.create_task(gateway.ask(POST))]
    await waiting(gateway, 1)
    serve(gateway, backend=boot)
    asked.append(asyncio.create_task(gateway.ask(POST)))
    await waiting(gateway, 2)
    start(gateway, instance)
    assert [(await each).status for each in asked] == [200, 200]

    # Now it is one as any other: nobody waits for it once it is nowhere.
    start(gateway)
    assert (await gateway.ask(POST)).error == "no_backend"


async def test_nobody_waits_for_one_that_an_edit_starts_and_that_fails_or_is_stopped(
    rig: MakeRig,
) -> None:
    gateway = await rig()
    boot = {"model": "m:A", "start": "boot"}
    serve(gateway)
    asked = asyncio.create_task(gateway.ask(POST))
    await waiting(gateway, 1)
    serve(gateway, backend={"serve": boot})
    gateway.plane.demand = {"b": (0.0, True)}
    gateway.plane.live.hear_of_demand()
    assert (await asked).error == "no_backend"

    gateway.plane.demand = {}
    serve(gateway)
    asked = asyncio.create_task(gateway.ask(POST))
    await waiting(gateway, 1)
    serve(gateway, backend={"serve": {**boot, "replicas": 0}})
    assert (await asked).error == "no_backend"


async def test_where_the_model_answers_is_known_once_it_is_there(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway, instance = await rig(), await stub(target)
    serve(gateway, match="/a")
    asked = asyncio.create_task(gateway.ask(POST))
    await waiting(gateway, 1)
    gateway.plane.serve_at({"b": "/predict"})
    start(gateway, instance)
    assert (await asked).body == b"/predict"


async def test_beyond_the_bounds_of_the_queue_it_is_said_when_to_come_again(rig: MakeRig) -> None:
    gateway = await rig(StoppedClock())
    serve(gateway, backend={"queue": {"size": 1, "timeout": "5s"}})
    gateway.plane.demand = {"b": (42.0, False)}
    first = asyncio.create_task(gateway.ask(POST))
    await waiting(gateway, 1)
    second = await gateway.ask(POST)
    assert (second.status, second.error) == (503, "queue_full")
    assert second.get("retry-after") == "42"
    gateway.later(5.0)
    late = await first
    assert (late.status, late.error) == (503, "queue_timeout")
    assert late.get("retry-after") == "37"
    assert b"being loaded" in late.body


async def test_a_start_that_nobody_waited_for_to_its_end_is_over_when_it_is_there(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway, instance = await rig(), await stub(target)
    serve(gateway, backend={"queue": {"size": 1, "timeout": "50ms"}})
    gateway.plane.demand = {"b": (42.0, False)}
    assert (await gateway.ask(POST)).error == "queue_timeout"
    begun = gateway.plane.live.backends["b"].start
    assert begun.is_awaited, "it is still being loaded"
    start(gateway, instance)
    assert not begun.is_awaited, "the time until the next one is there is counted anew"
    assert (await gateway.ask(POST)).status == 200


async def test_who_only_looks_wakes_nobody(rig: MakeRig) -> None:
    gateway = await rig()
    serve(gateway)
    answer = await gateway.ask(GET)
    assert (answer.status, answer.error) == (503, "no_backend")
    assert b"a prediction loads it" in answer.body
    assert not gateway.plane.asked


async def test_who_only_looks_is_answered_by_another_backend_that_is_awake(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway, instance = await rig(), await stub(target)
    serve(gateway, split={"b": 1, "c": 1}, others={"c": {"instances": [instance.url]}})
    assert {(await gateway.ask(GET)).status for _ in range(4)} == {200}
    # A prediction goes where its ticket says, and has it started.
    asked = [asyncio.create_task(gateway.ask(POST)) for _ in range(4)]
    await waiting(gateway, 2)
    start(gateway, instance)
    assert {(await each).status for each in asked} == {200}


async def test_what_cannot_be_loaded_is_said_to_who_waits_and_to_who_comes(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway, instance = await rig(), await stub(target)
    serve(gateway)
    asked = asyncio.create_task(gateway.ask(POST))
    await waiting(gateway, 1)
    gateway.plane.demand = {"b": (0.0, True)}
    gateway.plane.live.hear_of_demand()
    answer = await asked
    assert (answer.status, answer.error) == (503, "no_backend")
    assert (await gateway.ask(POST)).status == 503
    # The share of one that cannot be loaded goes where the route says.
    serve(gateway, split={"b": 1, "c": 1}, others={"c": {"instances": [instance.url]}})
    assert {(await gateway.ask(POST)).status for _ in range(4)} == {200}


async def test_who_asks_for_what_cannot_be_loaded_is_told_when_it_is_tried_again(
    rig: MakeRig,
) -> None:
    gateway = await rig()
    serve(gateway)
    asked = asyncio.create_task(gateway.ask(POST))
    await waiting(gateway, 1)
    gateway.plane.demand = {"b": (0.0, True)}
    gateway.plane.live.hear_of_demand()
    for answer in (await asked, await gateway.ask(POST)):
        assert (answer.status, answer.error) == (503, "no_backend")
        assert answer.get("retry-after") == f"{START_AGAIN_S:.0f}"
    # Where another one may be back any moment, nobody is kept away for so long.
    serve(gateway, split={"b": 1, "c": 1}, others={"c": {"instances": ["http://127.0.0.1:9"]}})
    gateway.hear({"c": {"127.0.0.1:9": "down"}})
    assert (await gateway.ask(POST)).get("retry-after") == "1"


async def test_whoever_is_waited_for_is_asked_for_again_of_another_control_process(
    rig: MakeRig,
) -> None:
    gateway = await rig()
    serve(gateway)
    asked = asyncio.create_task(gateway.ask(POST))
    await waiting(gateway, 1)
    gateway.plane.asked.clear()
    gateway.plane.live.ask_again()
    assert list(gateway.plane.asked) == ["b"]
    asked.cancel()


async def test_requests_at_an_instance_that_lost_its_place_are_still_told(
    rig: MakeRig, stub: MakeStub
) -> None:
    gateway = await rig()
    answer_now = asyncio.Event()

    async def slow(conversation: Conversation) -> None:
        await conversation.request()
        await answer_now.wait()
        await conversation.answer()

    instance = await stub(slow)
    serve(gateway)
    start(gateway, instance)
    asked = asyncio.create_task(gateway.ask(POST))
    backend = gateway.plane.live.backends["b"]
    await eventually(lambda: backend.in_flight == 1)
    start(gateway)
    assert [each.load.in_flight for each in backend.leaving] == [1]
    assert backend.asleep
    answer_now.set()
    assert (await asked).status == 200
    assert [each.load.in_flight for each in backend.leaving] == [0]
