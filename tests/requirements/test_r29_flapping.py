"""R29: a port that flaps neither fails requests nor floods the log."""

import asyncio

import pytest

from tests.harness.accounting import assert_counted
from tests.harness.gateway import one_backend, running_gateway
from tests.harness.load import failures, get_each, open_loop
from tests.harness.origins import Origin, after, origins
from tests.requirements.test_r24_killed_instance import DEFAULTS


async def flap(stub: Origin, seconds: float) -> None:
    for _ in range(int(seconds)):
        await asyncio.sleep(0.5)
        await stub.stop()
        await asyncio.sleep(0.5)
        await stub.start()


async def _flapping(seconds: float) -> None:
    async with origins(3, after(0.005)) as stubs:
        retries = {"attempts": 3, "on": ["connect_failure", "reset"]}
        document = one_backend(*stubs, health=DEFAULTS, route={"retries": retries})
        async with running_gateway(document) as gateway:
            flapping = asyncio.create_task(flap(stubs[0], seconds))
            replies = await open_loop(gateway.url, 80, seconds, get_each, timeout=60)
            await flapping
            await assert_counted(gateway, replies)
            lines = [x for x in gateway.log_text().splitlines() if stubs[0].address in x]
    assert len(failures(replies)) <= len(replies) / 1000, failures(replies)
    changes = [line for line in lines if ", now " in line]
    assert len(changes) <= 2 + seconds / 3, changes  # 2: it came up; 3 s: fall × interval
    assert len(lines) <= 3 + seconds, lines  # with its ejections


async def test_r29_a_flapping_port_fails_no_idempotent_request() -> None:
    await _flapping(6)


@pytest.mark.soak
async def test_r29_a_minute_of_flapping_fails_no_idempotent_request() -> None:
    await _flapping(60)
