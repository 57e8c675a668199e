"""R30: an instance that loads for long, again and again, gets nothing before it is ready."""

import asyncio
import time

import pytest

from tests.harness.accounting import assert_counted
from tests.harness.gateway import one_backend, running_gateway
from tests.harness.load import failures, get_each, open_loop
from tests.harness.origin_process import OriginProcess


async def crash_and_load(
    stub: OriginProcess, times: int, loading_s: float
) -> list[tuple[float, float]]:
    """Kill and start `stub` by turns; the spans in which it was up but not ready."""
    spans = []
    for _ in range(times):
        await asyncio.to_thread(stub.kill)
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await asyncio.to_thread(stub.start, loading_s)
        spans.append((began, began + loading_s))  # its own clock started later
        await asyncio.sleep(loading_s + 1.2)
    return spans


async def _crashes(times: int, loading_s: float) -> None:
    stubs = [OriginProcess(name=f"p{n}", service_s=0.005) for n in range(3)]
    try:
        for stub in stubs:
            stub.start()
        retries = {"attempts": 3, "on": ["connect_failure", "reset"]}
        document = one_backend(*stubs, route={"retries": retries})
        async with running_gateway(document) as gateway:
            seconds = 1 + times * (loading_s + 1.7)
            load = asyncio.create_task(open_loop(gateway.url, 60, seconds, get_each, timeout=60))
            await asyncio.sleep(0.5)
            spans = await crash_and_load(stubs[0], times, loading_s)
            replies = await load
            await assert_counted(gateway, replies)
    finally:
        for stub in stubs:
            stub.kill()
    assert len(failures(replies)) <= len(replies) / 1000
    mine = [r for r in replies if r.header("x-headgate-instance") == stubs[0].address]
    early = [r for r in mine for began, ready in spans if began < r.intended and r.done < ready]
    assert early == []
    assert mine, "it never had traffic"


async def test_r30_a_crash_loop_with_a_slow_start_costs_the_group_nothing() -> None:
    await _crashes(3, 1.0)


@pytest.mark.soak
async def test_r30_a_crash_loop_of_a_model_that_loads_for_half_a_minute_costs_nothing() -> None:
    await _crashes(3, 30.0)
