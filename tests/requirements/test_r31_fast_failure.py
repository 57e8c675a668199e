"""R31: an instance that fails fast attracts nothing; an answer of 500 is an answer."""

from tests.harness.gateway import one_backend, running_gateway
from tests.harness.load import Ask, open_loop
from tests.harness.origins import fixed, origins, reset, served


def make(number: int) -> Ask:
    return Ask("POST", "/x", body=b"{}")


async def test_r31_fast_500s_get_no_more_than_a_fair_share() -> None:
    async with origins(3, each=lambda: served(4, 0.02)) as stubs:
        stubs[0].respond = fixed(500, b"broken")
        async with running_gateway(one_backend(*stubs)) as gateway:
            replies = await open_loop(gateway.url, 120, 5, make)
    failed = [r for r in replies if r.status == 500]
    assert {r.status for r in replies} <= {200, 500}
    # Five in a row, and whatever was sent meanwhile; then none for as long as others are there.
    assert len(failed) <= 8, f"{len(failed)} of {len(replies)}"


async def test_r31_workers_tell_each_other_who_fails() -> None:
    async with origins(3, each=lambda: served(4, 0.02)) as stubs:
        stubs[0].respond = fixed(500, b"broken")
        async with running_gateway(one_backend(*stubs), workers=4) as gateway:
            replies = await open_loop(gateway.url, 80, 5, make)
    failed = [r for r in replies if r.status == 500]
    assert {r.status for r in replies} <= {200, 500}
    assert len(failed) <= 12, f"{len(failed)} of {len(replies)}: five for all, not for each"


async def test_r31_fast_resets_are_ejected_within_five_failures() -> None:
    async with origins(3, each=lambda: served(4, 0.02)) as stubs:
        stubs[0].respond = reset
        document = one_backend(*stubs, eject={"failures": 5, "base": "30s"})
        async with running_gateway(document) as gateway:
            replies = await open_loop(gateway.url, 60, 4, make)
    # Not all of them early: another instance may be less loaded for a while.
    assert len(stubs[0].exchanges) <= 6, len(stubs[0].exchanges)
    assert sum(not r.ok for r in replies) <= len(stubs[0].exchanges)


async def test_r31_all_answering_500_is_passed_through_without_ejections() -> None:
    async with origins(3, fixed(500, b"model says no")) as stubs:
        async with running_gateway(one_backend(*stubs)) as gateway:
            replies = await open_loop(gateway.url, 60, 3, make)
            metrics = await gateway.metrics()
    assert {(r.status, r.body) for r in replies} == {(500, b"model says no")}
    assert metrics.total("headgate_ejections_total") == 0
    assert min(len(stub.exchanges) for stub in stubs) > len(replies) / 6
