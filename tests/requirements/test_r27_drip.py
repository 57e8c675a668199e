"""R27: an instance that drips is cut at the deadline, counted as failing and left alone."""

import asyncio

from tests.harness.accounting import assert_counted
from tests.harness.gateway import one_backend, running_gateway
from tests.harness.load import delayed, failures, get_each, open_loop
from tests.harness.origins import Exchange, after, origins


async def drip(exchange: Exchange) -> None:
    """A whole head at once, then a byte now and then."""
    await exchange.read()
    exchange.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        exchange.write(b"x")
        await exchange.sleep(0.2)


async def test_r27_a_dripping_instance_is_cut_at_the_deadline_and_ejected() -> None:
    # A tenth of a second, so that a fifth of it is more than what a process waits for its turn.
    async with origins(6, after(0.1)) as stubs:
        stubs[0].respond = drip
        # By turns: least_loaded leaves a dripping instance alone before it can be ejected.
        more = {"route": {"deadline": "1s"}, "eject": {"base": "30s"}, "balance": "round_robin"}
        async with (
            running_gateway(one_backend(*stubs[:3], **more)) as gateway,
            running_gateway(one_backend(*stubs[3:], **more)) as twin,
        ):
            replies, twins = await asyncio.gather(
                open_loop(gateway.url, 60, 6, get_each), open_loop(twin.url, 60, 6, get_each)
            )
            await assert_counted(gateway, replies)
            ejected = (await gateway.metrics()).total("headgate_ejections_total")
    assert failures(twins) == [], failures(twins)
    bad = [r for r in replies if not r.ok]
    assert bad, "the dripping instance was never asked"
    assert min(r.took_s for r in bad) >= 0.8
    assert all(r.took_s <= 1.6 for r in bad), [r.took_s for r in bad]
    assert ejected >= 1
    late = [r for r in replies[-120:] if not r.ok]
    assert late == [], (late, "requests still go to the dripping instance")
    both = [(r, twin) for r, twin in zip(replies, twins, strict=True) if r.ok]
    share = delayed(*zip(*both, strict=True), 1.2)
    assert share <= 0.01, share
