"""R31: an instance that fails fast attracts nothing; an answer of 500 is an answer."""

import asyncio

from tests.harness.gateway import one_backend, running_gateway
from tests.harness.load import Ask, open_loop
from tests.harness.origins import fixed, origins, reset, served


def make(number: int) -> Ask:
    return Ask("POST", "/x", body=b"{}")


async def test_r31_fast_500s_get_no_more_than_a_fair_share() -> None:
    async with origins(3, each=lambda: served(4, 0.02)) as stubs:
        stubs[0].respond = fixed(500, b"broken")
        document = one_backend(*stubs, eject={"failures": 5, "base": "60s"})
        async with running_gateway(document) as gateway:
            first = [await gateway.client.post(f"{gateway.url}/x") for _ in range(30)]
            replies = await open_loop(gateway.url, 90, 4, make)
    assert sum(r.status == 500 for r in first) == 5, "five in a row, of ten that are its fair share"
    assert not [r for r in replies if r.status == 500], "then none for as long as others are there"
    assert {r.status for r in replies} <= {200, 503}


async def test_r31_who_failed_fast_is_tried_again_by_one_request_while_others_have_no_room() -> (
    None
):
    async with origins(2, each=lambda: served(4, 0.2)) as stubs:
        stubs[0].respond = fixed(500, b"broken")
        queue = {"size": 1000, "timeout": "60s"}
        document = one_backend(*stubs, eject={"failures": 5, "base": "1s"}, queue=queue)
        async with running_gateway(document) as gateway:
            replies = await open_loop(gateway.url, 40, 4, make)  # the other answers 20 of them
            took_s = max(r.done for r in replies) - replies[0].intended
    assert {r.status for r in replies} <= {200, 500, 503}  # some would wait too long for the other
    # What it had been sent by then had been sent.
    known = sorted(r.done for r in replies if r.status == 500)[4]
    failed = [e for e in stubs[0].exchanges if e.began > known]
    assert len(failed) <= 3 + took_s, f"{len(failed)} of {len(replies)} in {took_s:.1f} s"


async def test_r31_workers_tell_each_other_who_fails() -> None:
    async with origins(3, each=lambda: served(4, 0.02)) as stubs:
        stubs[0].respond = fixed(500, b"broken")
        document = one_backend(*stubs, eject={"failures": 5, "base": "60s"})
        async with running_gateway(document, workers=4) as gateway:
            # One after the other, each by the worker that its connection falls to; after a failure
            # none before the others can have heard of it.
            replies = []
            for _ in range(200):
                replies.append(await gateway.client.post(f"{gateway.url}/x", b"{}", fresh=True))
                if replies[-1].status == 500:
                    await asyncio.sleep(0.3)
    failed = [r for r in replies if r.status == 500]
    assert {r.status for r in replies} <= {200, 500}
    assert len(failed) <= 12, f"{len(failed)} of {len(replies)}: five for all, not for each"


async def test_r31_fast_resets_are_ejected_within_five_failures() -> None:
    async with origins(3, each=lambda: served(4, 0.02)) as stubs:
        stubs[0].respond = reset
        document = one_backend(*stubs, eject={"failures": 5, "base": "60s"})
        async with running_gateway(document) as gateway:
            first = [await gateway.client.post(f"{gateway.url}/x") for _ in range(30)]
            before = len(stubs[0].exchanges)
            await open_loop(gateway.url, 60, 4, make)
    assert before == 5 >= sum(not r.ok for r in first)
    assert len(stubs[0].exchanges) == 5, "ejected"


async def test_r31_all_answering_500_is_passed_through_without_ejections() -> None:
    async with origins(3, fixed(500, b"model says no")) as stubs:
        async with running_gateway(one_backend(*stubs)) as gateway:
            replies = await open_loop(gateway.url, 60, 3, make)
            metrics = await gateway.metrics()
    assert {(r.status, r.body) for r in replies} == {(500, b"model says no")}
    assert metrics.total("headgate_ejections_total") == 0
    assert min(len(stub.exchanges) for stub in stubs) > len(replies) / 6
