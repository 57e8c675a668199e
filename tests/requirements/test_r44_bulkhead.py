"""R44: a route whose instances all hang keeps to its own limits; its neighbours do not notice."""

import asyncio

from tests.harness.gateway import backend, running_gateway
from tests.harness.load import Ask, failures, open_loop, percentile
from tests.harness.origins import after, hang, origins


async def test_r44_a_hung_route_takes_its_own_limit_and_nothing_else() -> None:
    async with origins(2, after(0.005)) as (stuck, fine):
        document = {
            "backends": {
                "stuck": backend(stuck, max_in_flight=8, queue={"size": 8, "timeout": "1s"}),
                "fine": backend(fine),
            },
            "routes": {
                "stuck": {"match": "/stuck", "split": {"stuck": 1}},
                "fine": {"match": "/fine", "split": {"fine": 1}},
            },
        }
        async with running_gateway(document) as gateway:
            alone = await open_loop(gateway.url, 50, 2, lambda n: Ask(path="/fine"))
            stuck.respond = hang
            hung, beside = await asyncio.gather(
                open_loop(gateway.url, 40, 3, lambda n: Ask(path="/stuck"), timeout=2),
                open_loop(gateway.url, 50, 3, lambda n: Ask(path="/fine")),
            )
            assert stuck.running <= 8
    assert failures(alone + beside) == []
    assert {r.status for r in hung} <= {0, 503}
    assert [r for r in hung if r.header("x-headgate-error") == "queue_full"]
    # Of so few the slowest one or two: a pause of the machine is one of them.
    baseline = percentile([r.took_s for r in alone], 99)
    assert percentile([r.took_s for r in beside], 99) <= 1.2 * baseline + 0.02
