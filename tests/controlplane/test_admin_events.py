"""The event stream: what happens is told as it happens, and once more to who missed it."""

import json

import pytest

from gateway.controlplane.events import Events
from tests.controlplane.conftest import Admin

WEIGHTS = "/admin/v1/routes/digits/weights"


async def test_events_are_streamed_as_they_happen_and_end_with_the_gateway(admin: Admin) -> None:
    async with admin.client.get("/admin/v1/events") as response:
        assert response.content_type == "text/event-stream"
        hello = await response.content.readuntil(b"\n\n")
        assert b"event: hello" in hello
        await admin.ask("PATCH", WEIGHTS, {"digits-cnn": 20})
        event = (await response.content.readuntil(b"\n\n")).decode()
        number, kind, data = event.strip().split("\n")
        assert number.startswith("id: ")
        assert kind == "event: edit"
        assert json.loads(data.removeprefix("data: "))["revision"] == 2
        admin.parts.events.close()
        assert await response.content.read() == b""


async def heard(admin: Admin, count: int, after: str = "", query: str = "") -> list[dict[str, str]]:
    """The fields of the first `count` events of a stream that goes on after that id."""
    headers = {"Last-Event-ID": after} if after else {}
    async with admin.client.get(f"/admin/v1/events{query}", headers=headers) as response:
        blocks = [(await response.content.readuntil(b"\n\n")).decode() for _ in range(count)]
    return [dict(line.split(": ", 1) for line in block.strip().split("\n")) for block in blocks]


async def test_a_stream_that_broke_goes_on_where_it_was(admin: Admin) -> None:
    (hello,) = await heard(admin, 1)
    for weight in (20, 21, 22):
        await admin.ask("PATCH", WEIGHTS, {"digits-cnn": weight})
    again = await heard(admin, 4, after=hello["id"])
    assert [json.loads(event["data"]).get("revision") for event in again] == [4, 2, 3, 4]
    assert again[0]["id"] == hello["id"], "broken off before the rest it goes on from here again"
    (_, last) = await heard(admin, 2, after=again[2]["id"])
    assert (last["id"], json.loads(last["data"])["revision"]) == (again[3]["id"], 4)


@pytest.mark.parametrize("after", ["another.3", "x", "7", "another.", "\u00b2"])
async def test_a_stream_that_cannot_go_on_says_that_something_is_missing(
    admin: Admin, after: str
) -> None:
    hello, lost = await heard(admin, 2, after=after)
    assert hello["event"] == "hello"
    assert lost["event"] == "lost"
    assert json.loads(lost["data"])["events"] is None


async def test_a_look_back_that_broke_off_goes_on_where_it_was(admin: Admin) -> None:
    for weight in (20, 21, 22):
        await admin.ask("PATCH", WEIGHTS, {"digits-cnn": weight})
    hello, *told = await heard(admin, 4, query="?last=3600")
    again = await heard(admin, 4, after=hello["id"], query="?last=3600")
    assert again[1:] == told, "broken off before the first of them it begins with that again"
    (_, *rest) = await heard(admin, 3, after=told[0]["id"], query="?last=3600")
    assert rest == told[1:]


async def read(events: Events, after: str = "", last_s: float = 0.0) -> tuple[str, list[str]]:
    """The id before what a subscriber hears at once, and the types of that."""
    subscription = events.subscribe(after, last_s=last_s)
    subscription.close()
    return subscription.begun, [event["type"] async for event in subscription]


async def test_who_was_told_by_one_process_goes_on_at_the_one_after_the_next() -> None:
    first, second, third = Events(), Events(), Events()
    for kind in ("a", "b", "c"):
        first.publish({"type": kind})
    told = first.since(0)
    second.take_up(told, is_all=True)
    begun, heard_all = await read(second, last_s=3600.0)
    assert heard_all == ["a", "b", "c"]
    newest, nothing = await read(second)
    assert nothing == []
    third.take_up(told, is_all=True)
    third.publish({"type": "d"})
    assert (await read(third, after=newest))[1] == ["d"]
    assert (await read(second, after=begun))[1] == ["a", "b", "c"]
