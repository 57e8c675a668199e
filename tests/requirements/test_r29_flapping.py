"""R29: a port that flaps neither fails requests nor floods the log."""

import asyncio

import pytest

from tests.harness.gateway import one_backend, running_gateway
from tests.harness.load import Ask, failures, open_loop
from tests.harness.origins import Origin, after, origins


async def flap(stub: Origin, seconds: float) -> None:
    for _ in range(int(seconds)):
        await asyncio.sleep(0.5)
        await stub.stop()
        await asyncio.sleep(0.5)
        await stub.start()


async def _flapping(seconds: float) -> None:
    async with origins(3, after(0.005)) as stubs:
        retries = {"attempts": 3, "on": ["connect_failure", "reset"]}
        health = {"interval": "200ms", "timeout": "500ms", "rise": 2, "fall": 3}
        document = one_backend(*stubs, health=health, route={"retries": retries})
        async with running_gateway(document) as gateway:
            flapping = asyncio.create_task(flap(stubs[0], seconds))
            replies = await open_loop(gateway.url, 80, seconds, lambda n: Ask(path=f"/{n}"))
            await flapping
            lines = [x for x in gateway.log_text().splitlines() if stubs[0].address in x]
    assert len(failures(replies)) <= len(replies) / 1000, failures(replies)
    assert len(lines) <= 4 * seconds + 5, lines[-20:]


async def test_r29_a_flapping_port_fails_no_idempotent_request() -> None:
    await _flapping(6)


@pytest.mark.soak
async def test_r29_a_minute_of_flapping_fails_no_idempotent_request() -> None:
    await _flapping(60)
