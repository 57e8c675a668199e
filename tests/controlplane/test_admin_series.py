"""The last hour, as the admin API tells it: the series, and the events of before."""

import json
import time

import pytest

from gateway.controlplane.watch.rates import GATEWAY, Of, What
from tests.controlplane.conftest import Admin

SERIES = "/admin/v1/series"


def play(admin: Admin) -> None:
    """Half an hour of requests, up to now."""
    now = time.monotonic()
    for second in range(1800, -1, -1):
        counts: dict[What, int] = {"2xx": 9, "5xx": 1, 700: 10}
        of: list[Of] = [("route", "digits"), ("backend", "old"), GATEWAY]
        admin.parts.hour.add(now - second, dict.fromkeys(of, counts))


async def test_a_route_and_a_backend_are_told_with_the_whole_gateway(admin: Admin) -> None:
    play(admin)
    status, found, _ = await admin.ask("GET", f"{SERIES}?route=digits&backend=old&step=60")
    assert status == 200
    assert found["step_s"] == 60
    assert len(found["until"]) in (30, 31)
    assert found["until"][-1] == pytest.approx(time.time(), abs=60)
    for each in (found["gateway"], found["routes"]["digits"], found["backends"]["old"]):
        assert set(each["requests_per_s"]) == {10.0}
        assert set(each["answers_per_s"]["5xx"]) == {1.0}
        assert {len(row) for row in each["latency_ms"].values()} == {len(found["until"])}


async def test_the_last_minutes_alone_are_a_shorter_answer(admin: Admin) -> None:
    play(admin)
    _, found, _ = await admin.ask("GET", f"{SERIES}?last=300")
    assert len(found["until"]) == 30
    assert (found["routes"], found["backends"]) == ({}, {})


async def test_of_a_gateway_that_has_just_started_there_is_nothing(admin: Admin) -> None:
    _, found, _ = await admin.ask("GET", f"{SERIES}?route=digits")
    assert found["until"] == []
    assert found["routes"]["digits"]["requests_per_s"] == []


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("route=nobody", 404, "nobody"),
        ("backend=nobody", 404, "nobody"),
        ("step=15", 400, "multiple of 10"),
        ("step=0", 400, "?step"),
        ("last=3601", 400, "1 to 3600"),
        ("&".join(f"route=digits{n}" for n in range(51)), 404, "digits0"),
    ],
)
async def test_what_is_no_series_is_said(admin: Admin, query: str, status: int, said: str) -> None:
    found, problem, _ = await admin.ask("GET", f"{SERIES}?{query}")
    assert (found, said in problem["detail"]) == (status, True), problem


async def test_who_comes_late_hears_the_events_of_before_in_their_order(admin: Admin) -> None:
    for weight in (20, 21, 22):
        await admin.ask("PATCH", "/admin/v1/routes/digits/weights", {"digits-cnn": weight})
    async with admin.client.get("/admin/v1/events?last=3600") as response:
        blocks = [(await response.content.readuntil(b"\n\n")).decode() for _ in range(4)]
    found = [json.loads(block.split("data: ", 1)[1]) for block in blocks]
    assert [event["type"] for event in found] == ["hello", "edit", "edit", "edit"]
    assert [event["revision"] for event in found] == [4, 2, 3, 4]


async def test_a_stream_that_goes_on_hears_nothing_twice(admin: Admin) -> None:
    await admin.ask("PATCH", "/admin/v1/routes/digits/weights", {"digits-cnn": 20})
    async with admin.client.get("/admin/v1/events?last=60") as response:
        await response.content.readuntil(b"\n\n")
        edit = (await response.content.readuntil(b"\n\n")).decode()
    last = edit.split("id: ")[1].split("\n")[0]
    await admin.ask("PATCH", "/admin/v1/routes/digits/weights", {"digits-cnn": 21})
    headers = {"Last-Event-ID": last}
    async with admin.client.get("/admin/v1/events?last=60", headers=headers) as response:
        await response.content.readuntil(b"\n\n")
        event = (await response.content.readuntil(b"\n\n")).decode()
    assert '"revision":3' in event
