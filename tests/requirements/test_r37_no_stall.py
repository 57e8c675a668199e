"""R37: whatever is asked of the control plane, requests do not wait for it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from statistics import median

from tests.harness.gateway import Gateway, backend, one_backend, running_gateway
from tests.harness.load import Ask, Client, closed_loop, failures, percentile
from tests.harness.origin_process import OriginProcess, one_process
from tests.harness.stretch import Stretch
from tests.harness.trickle import Asked, Trickle

ROUTES = 1000
BOUND_S = 0.05
LASTS_S = 8.0
SCRAPES_PER_S = 10


async def busy(gateway: Gateway, seconds: float) -> None:
    """Ask the control plane for everything at once, again and again."""
    end, client = asyncio.get_running_loop().time() + seconds, Client()
    big = b'{"x": "' + b"y" * 10_000_000 + b'"}'
    weight = 1
    while asyncio.get_running_loop().time() < end:
        weight = weight % 100 + 1
        await gateway.set_weights("all", {"main": weight})
        await client.get(f"{gateway.admin_url}/metrics")
        await client.get(f"{gateway.admin_url}/")
        await client.get(f"{gateway.admin_url}/openapi.json")
        await client.post(
            f"{gateway.admin_url}/admin/v1/apply", big,
            headers=[("Content-Type", "application/json")],
        )  # fmt: skip
    await client.close()


async def test_r37_a_busy_control_plane_delays_no_request() -> None:
    async with one_process() as origin, running_gateway(one_backend(origin)) as gateway:
        # The same, without the gateway: what of it is the machine's doing.
        async with Trickle((gateway.data_port, origin.port), ["/x"]) as asking, Stretch() as work:
            await busy(gateway, 3.5)
            asked, direct = await asking.end()
    assert {each.status for each in asked + direct} == {200}
    stretch = work.between(asked[0].began, asked[-1].began)
    late = percentile(excess(asked, direct), 99)
    assert late <= BOUND_S * stretch, (late, stretch)


def large(origins: list[OriginProcess]) -> dict:
    """A thousand routes, with two instances each."""
    backends = {f"b{n}": backend(*origins) for n in range(10)}
    routes = {f"r{n}": {"match": f"/r{n}", "split": {f"b{n % 10}": 1}} for n in range(ROUTES)}
    return {"backends": backends, "routes": routes}


async def every(pause_s: float, until: float, work: Callable[[int], Awaitable[object]]) -> int:
    """How often `work` was done by `until`, begun every `pause_s` whether or not the one before
    has ended."""
    began, tasks = time.monotonic(), []
    while time.monotonic() < until:
        tasks.append(asyncio.ensure_future(work(len(tasks))))
        await asyncio.sleep(max(0.0, began + len(tasks) * pause_s - time.monotonic()))
    await asyncio.gather(*tasks)
    return len(tasks)


def excess(asked: list[Asked], direct: list[Asked]) -> list[float]:
    """The seconds that each took longer than the one that was asked elsewhere at that moment."""
    return [one.took_s - other.took_s for one, other in zip(asked, direct, strict=True)]


async def test_r37_scrapes_and_edits_of_a_thousand_routes_delay_no_request() -> None:
    async with one_process() as one, one_process() as other:
        async with running_gateway(large([one, other]), access_log="off") as gateway:
            paths = [f"/r{n}" for n in range(ROUTES) for _ in range(2)]
            warm = await closed_loop(gateway.url, 8, len(paths), lambda n: Ask(path=paths[n]))
            assert failures(warm) == []  # each route is counted now, and shown
            # The same, without the gateway: what of it is the machine's doing.
            async with Trickle((gateway.data_port, one.port), paths) as asking, Stretch() as work:
                began = time.monotonic()
                scrapes, edits = await asyncio.gather(
                    every(1 / SCRAPES_PER_S, began + LASTS_S, lambda _: scrape(gateway)),
                    every(1.0, began + LASTS_S, lambda n: gateway.set_weights("r5", {"b5": n + 1})),
                )
                asked, direct = await asking.end()
    assert scrapes >= 0.9 * LASTS_S * SCRAPES_PER_S, scrapes
    assert edits >= LASTS_S - 1, edits
    assert {each.status for each in asked + direct} == {200}
    later = list(zip(asked, excess(asked, direct), strict=True))
    longest = []
    for second in range(int(LASTS_S)):
        begin, end = began + second, began + second + 1
        most = max(late for each, late in later if begin <= each.began < end)
        longest.append(most / work.between(begin, end))
    # Each second has its scrapes and an edit. What they do to others, they do in most of them.
    assert median(longest) <= BOUND_S, longest


async def scrape(gateway: Gateway) -> None:
    reply = await gateway.client.get(f"{gateway.admin_url}/metrics")
    assert reply.status == 200, reply
    assert reply.body.count(b"headgate_request_seconds_count") == ROUTES
