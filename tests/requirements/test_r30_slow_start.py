"""R30: an instance that loads for long, again and again, gets nothing before it is ready."""

import asyncio
import time

from tests.harness.gateway import one_backend, running_gateway
from tests.harness.load import Ask, failures, open_loop
from tests.harness.origin_process import OriginProcess

LOADING_S = 1.0


async def crash_and_load(stub: OriginProcess, times: int) -> list[tuple[float, float]]:
    """Kill and start `stub` by turns; the spans in which it was up but not ready."""
    spans = []
    for _ in range(times):
        await asyncio.to_thread(stub.kill)
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await asyncio.to_thread(stub.start, LOADING_S)
        spans.append((began, began + LOADING_S))  # its own clock started later
        await asyncio.sleep(LOADING_S + 1.2)
    return spans


async def test_r30_a_crash_loop_with_a_slow_start_costs_the_group_nothing() -> None:
    stubs = [OriginProcess(name=f"p{n}", service_s=0.005) for n in range(3)]
    try:
        for stub in stubs:
            stub.start()
        retries = {"attempts": 3, "on": ["connect_failure", "reset"]}
        document = one_backend(*stubs, route={"retries": retries})
        async with running_gateway(document) as gateway:
            load = asyncio.create_task(open_loop(gateway.url, 60, 8.5, lambda n: Ask(path=f"/{n}")))
            await asyncio.sleep(0.5)
            spans = await crash_and_load(stubs[0], 3)
            replies = await load
    finally:
        for stub in stubs:
            stub.kill()
    assert len(failures(replies)) <= len(replies) / 1000
    mine = [r for r in replies if r.header("x-headgate-instance") == stubs[0].address]
    early = [r for r in mine for began, ready in spans if began < r.intended and r.done < ready]
    assert early == []
    assert mine, "it never had traffic"
