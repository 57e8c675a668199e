"""R46: when half of the capacity goes, the other half keeps working at its best."""

import asyncio
import signal
from statistics import mean

from tests.harness.gateway import one_backend, running_gateway
from tests.harness.load import Ask, open_loop
from tests.harness.origin_process import OriginProcess

EACH = 2 / 0.04  # two slots of 40 ms


async def test_r46_goodput_follows_the_capacity_that_is_left() -> None:
    stubs = [OriginProcess(name=f"p{n}", slots=2, service_s=0.04) for n in range(2)]
    try:
        for stub in stubs:
            stub.start()
        document = one_backend(
            *stubs,
            health={"interval": "500ms", "timeout": "500ms", "rise": 2, "fall": 3},
            queue={"size": 512, "timeout": "500ms"},
            timeouts={"response": "2s"},
        )
        async with running_gateway(document) as gateway:
            make = lambda n: Ask("POST", "/x", body=b"{}")  # noqa: E731
            load = asyncio.create_task(open_loop(gateway.url, 1.5 * EACH, 10, make, poisson=True))
            await asyncio.sleep(2)
            stubs[1].send(signal.SIGSTOP)
            replies = await load
    finally:
        for stub in stubs:
            stub.kill()
    last = [r for r in replies if r.intended > replies[-1].intended - 4]
    good = [r for r in last if r.ok and r.took_s <= 1]
    # What one can do is told by what it did: on a busy machine 40 ms are 42.
    held_s = mean(float(r.header("x-held-s")) for r in last if r.ok)
    assert len(good) >= 0.9 * 2 / held_s * 4, f"{len(good)} of {2 / held_s * 4}"
    assert {r.status for r in last} <= {200, 503}
