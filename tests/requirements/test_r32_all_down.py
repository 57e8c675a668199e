"""R32: with no instance left the answer is a quick 503; sick probes alone stop nothing."""

from tests.harness.gateway import eventually, one_backend, running_gateway
from tests.harness.load import Ask, failures, open_loop, percentile
from tests.harness.origins import origins
from tests.requirements.test_r24_killed_instance import DEFAULTS


async def test_r32_all_down_is_a_quick_503_and_ends_soon_after_one_is_back() -> None:
    async with origins(2) as stubs:
        async with running_gateway(one_backend(*stubs, health=DEFAULTS)) as gateway:
            for stub in stubs:
                await stub.stop()

            async def known() -> bool:
                return set((await gateway.health()).values()) == {"down"}

            async def refused() -> bool:
                return (await gateway.client.get(f"{gateway.url}/x")).status == 503

            await eventually(known, 4, "both instances are known to be down")
            await eventually(refused, 1, "the worker has heard of it")
            replies = await open_loop(gateway.url, 60, 2, lambda n: Ask(path=f"/{n}"))
            depth = (await gateway.metrics()).total("headgate_queue_depth")
            assert {r.status for r in replies} == {503}
            assert {r.header("x-headgate-error") for r in replies} == {"no_backend"}
            assert all(int(r.header("retry-after")) >= 1 for r in replies)
            assert percentile([r.took_s for r in replies], 95) <= 0.05
            assert depth == 0
            await stubs[0].start()

            async def served() -> bool:
                return (await gateway.client.get(f"{gateway.url}/x")).status == 200

            await eventually(served, 2, "success after one instance is back")


async def test_r32_failing_probes_of_all_do_not_stop_traffic() -> None:
    async with origins(2) as stubs:
        async with running_gateway(one_backend(*stubs)) as gateway:
            for stub in stubs:
                stub.ready = False

            async def known() -> bool:
                return set((await gateway.health()).values()) == {"failing"}

            await eventually(known, 3, "both instances fail their probes")
            replies = await open_loop(gateway.url, 50, 1, lambda n: Ask(path=f"/{n}"))
    assert failures(replies) == []
