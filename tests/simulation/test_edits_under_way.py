"""What do control process and workers know while an edit is on its way to a worker that is slow?"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from gateway.core.table import Document
from tests.simulation.history import Asking
from tests.simulation.house import SETTLED_S, House
from tests.simulation.virtual import VirtualLoop

LATE_S = 1.5
LEAVES, STAYS = 9002, 9001


def document(*ports: int) -> Document:
    backend: Any = {
        "instances": [f"http://127.0.0.1:{port}" for port in ports],
        "health": {"path": "/health", "interval": "500ms", "timeout": "500ms"},
    }
    return {
        "backends": {"a": backend},
        "routes": {"one": {"match": "/one", "split": {"a": 1}}},
    }


def simulated(seen: Callable[[House], Awaitable[None]]) -> None:
    loop = VirtualLoop(Random(1))

    async def run() -> None:
        house = House(loop, (STAYS, LEAVES), 2)
        await house.start(document(STAYS, LEAVES))
        await asyncio.sleep(SETTLED_S)
        await seen(house)
        await house.stop()
        assert house.faults == []

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(run())


def test_who_leaves_lets_nobody_be_ejected_in_the_control_process_alone() -> None:
    async def seen(house: House) -> None:
        quick, slow = house.listening()
        assert house.control is not None
        slow.delay(LATE_S)
        edit = asyncio.create_task(house.edit(lambda _: document(STAYS)))
        await asyncio.sleep(0.1)
        assert (quick.revision, slow.revision, edit.done()) == (2, 1, False)
        house.instances[STAYS].become("dead")
        for n in range(20):
            client = Asking()
            house.connect(quick, client)
            await client.ask(b"/one/%d" % n)
        await asyncio.sleep(0.1)
        assert not edit.done()
        (known,) = house.states(quick)["a"].values()
        assert known.failures, "its requests were refused"
        assert house.control.prober.health.states["a"][f"127.0.0.1:{STAYS}"] == known.told()
        house.instances[STAYS].become("up")
        await edit

    simulated(seen)
