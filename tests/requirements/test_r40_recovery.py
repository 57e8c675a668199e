"""R40: when the flood ends so does the trouble, even among clients that retry."""

import asyncio

from tests.harness.gateway import one_backend, running_gateway
from tests.harness.load import Ask, Client, Reply, ask, failures, open_loop, percentile
from tests.harness.origins import origins, served
from tests.harness.stretch import Stretch

CAPACITY = 2 * 2 / 0.04
ASK = Ask("POST", "/x", body=b"{}")


async def stubborn(url: str, client: Client) -> Reply:
    """Tries up to three times, at once, as an impatient client does."""
    for _ in range(3):
        reply = await ask(client, url, ASK, asyncio.get_running_loop().time(), 5)
        if reply.ok:
            break
    return reply


async def test_r40_after_a_flood_of_retrying_clients_all_is_normal_within_five_seconds() -> None:
    async with origins(2, each=lambda: served(2, 0.04)) as stubs:
        queue = {"size": 512, "timeout": "500ms"}
        async with running_gateway(one_backend(*stubs, queue=queue)) as gateway:
            client, crowd = Client(), []
            for _ in range(int(CAPACITY * 2 * 3)):
                crowd.append(asyncio.create_task(stubborn(gateway.url, client)))
                await asyncio.sleep(1 / (CAPACITY * 2))
            await asyncio.sleep(2)
            async with Stretch() as work:
                replies = await open_loop(gateway.url, CAPACITY * 0.7, 3, lambda n: ASK)
            await asyncio.gather(*crowd)
            await client.close()
    assert len(failures(replies)) <= len(replies) * 0.01, failures(replies)
    # Where the machine is somebody else's too, all takes so many times as long.
    stretch = work.between(replies[0].intended, replies[-1].intended)
    took = [r.took_s for r in replies]
    assert percentile(took, 50) <= 0.1 * stretch, (sorted(took), stretch)
    assert percentile(took, 95) <= 0.3 * stretch, (sorted(took), stretch)
