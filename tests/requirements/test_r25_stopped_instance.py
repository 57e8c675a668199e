"""R25: an instance that hangs is found out, costs its share for moments, and is forgiven."""

import asyncio
import signal
import time

from tests.harness.accounting import assert_counted
from tests.harness.gateway import eventually, one_backend, running_gateway
from tests.harness.load import Ask, open_loop
from tests.harness.origin_process import OriginProcess
from tests.requirements.test_r24_killed_instance import DEFAULTS, RATE


async def test_r25_sigstop_of_one_in_three_costs_its_share_for_three_seconds_at_most() -> None:
    stubs = [OriginProcess(name=f"p{n}") for n in range(3)]
    try:
        for stub in stubs:
            stub.start()
        document = one_backend(*stubs, health=DEFAULTS, route={"deadline": "1s"})
        async with running_gateway(document) as gateway:
            make = lambda n: Ask("POST", "/x", [("X-Test-Id", f"q{n}")], b"{}", id=f"q{n}")  # noqa: E731
            load = asyncio.create_task(open_loop(gateway.url, RATE, 9.5, make))
            await asyncio.sleep(1.5)
            stubs[0].send(signal.SIGSTOP)
            stopped = time.monotonic()
            await asyncio.sleep(4.5)
            stubs[0].send(signal.SIGCONT)
            back = time.monotonic()
            replies = await load
            await assert_counted(gateway, replies)
    finally:
        for stub in stubs:
            stub.kill()
    lost = [r for r in replies if not r.ok]
    assert {r.status for r in lost} == {504}, {r.status for r in lost}
    assert {r.header("x-headgate-error") for r in lost} == {"deadline"}
    assert min(r.took_s for r in lost) >= 0.95
    assert all(r.took_s <= 1.3 for r in lost), [r.took_s for r in lost]
    assert len(lost) <= 4 + RATE * 3 / 3, len(lost)
    assert max(r.intended for r in lost) <= stopped + 3, (lost[-1], stopped)
    assert all(r.json()["id"] == r.id for r in replies if r.ok)
    mine = [r.intended for r in replies if r.header("x-headgate-instance") == stubs[0].address]
    assert any(back < t <= back + 3 for t in mine), "no traffic within 3 s of SIGCONT"


async def test_r25_the_probes_alone_find_a_stopped_instance_within_three_seconds() -> None:
    """Without a deadline no request that hangs there says anything in that time. The probes need
    2.82 s at worst."""
    stubs = [OriginProcess(name=f"p{n}") for n in range(3)]
    took = []
    try:
        for stub in stubs:
            stub.start()
        async with running_gateway(one_backend(*stubs, health={})) as gateway:
            for stub in stubs[:2]:
                stub.send(signal.SIGSTOP)
                stopped = time.monotonic()

                async def out(address: str = stub.address) -> bool:
                    return (await gateway.health())[address] != "up"

                await eventually(out, what="the stopped instance is out")
                took.append(time.monotonic() - stopped)
                # Control says so as it tells the workers, which hear it before an edit is answered.
                for weight in (2, 1):
                    await gateway.set_weights("all", {"main": weight})
                make = lambda n: Ask("POST", "/x", body=b"{}")  # noqa: E731
                replies = await open_loop(gateway.url, 30, 1, make)
                assert [r for r in replies if not r.ok] == []
    finally:
        for stub in stubs:
            stub.kill()
    assert max(took) <= 3.0, took
