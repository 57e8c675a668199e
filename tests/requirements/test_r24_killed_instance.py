"""R24: a killed instance costs at most what was in flight on it, and comes back by itself."""

import asyncio
import time

import pytest

from tests.harness.accounting import assert_counted
from tests.harness.gateway import one_backend, running_gateway
from tests.harness.load import Ask, open_loop
from tests.harness.origin_process import OriginProcess

RETRIES = {"attempts": 3, "on": ["connect_failure", "reset"]}
DEFAULTS = {"interval": "1s", "timeout": "1s", "rise": 2, "fall": 3}
RATE = 100  # of short forms: a fifth of a core, for a machine that has others to serve
RATES = pytest.mark.parametrize("rate", [RATE, pytest.param(200, marks=pytest.mark.soak)])


def mixed(number: int) -> Ask:
    if number % 2:
        return Ask("POST", "/x", body=b"{}", id=f"POST {number}")
    return Ask("GET", "/x", id=f"GET {number}")


async def test_r24_kill_9_of_one_in_three_costs_no_idempotent_request() -> None:
    rate = 200  # as it is required; of fewer, chance has too large a part in the first second
    stubs = [OriginProcess(name=f"p{n}") for n in range(3)]
    try:
        for stub in stubs:
            stub.start()
        document = one_backend(*stubs, health=DEFAULTS, route={"retries": RETRIES})
        async with running_gateway(document) as gateway:
            began = time.monotonic()
            load = asyncio.create_task(open_loop(gateway.url, rate, 12, mixed, timeout=60))
            await asyncio.sleep(2)
            aimed = time.monotonic()
            stubs[0].kill()
            killed = time.monotonic()
            await asyncio.sleep(2)
            starting = time.monotonic()  # it may be up again before `start` returns
            await asyncio.to_thread(stubs[0].start)
            back = time.monotonic()
            replies = await load
            await assert_counted(gateway, replies)
            up = (await gateway.metrics()).by("headgate_instance_up", "instance")
    finally:
        for stub in stubs:
            stub.kill()
    # Where the machine stands still, what was to come in turn comes as a crowd.
    assert "queue_full" not in {r.header("x-headgate-error") for r in replies}, "a crowd came"
    assert [r.id for r in replies if not r.ok and r.id.startswith("GET")] == []
    lost = [r for r in replies if not r.ok]
    assert all(r.status == 502 for r in lost), lost[:3]
    assert all(r.took_s <= 1 for r in lost), [r.took_s for r in lost]
    assert all(r.intended <= killed and r.done >= aimed for r in lost), "it was not sent yet"
    open_then = [r for r in replies if r.intended <= killed and r.done >= aimed]
    assert len(lost) <= max(4, len(open_then) / 2), "more than can be in flight on one of three"
    mine = [r.intended for r in replies if r.header("x-headgate-instance") == stubs[0].address]
    assert [t for t in mine if began <= t < aimed], "it had traffic before"
    assert [t for t in mine if killed + 1 < t < starting] == [], "requests to a dead instance"
    again = [t for t in mine if t > starting]
    assert min(again) <= back + 3, (again[0], back)  # rise × interval + 1 s
    first = [t for t in again if t <= again[0] + 1]
    # Empty as it is, it would have more than its third at once.
    assert len(first) <= 0.8 * rate / 3, f"{len(first)} requests in its first second: no ramp"
    assert set(up.values()) == {1}, up
