"""The states of a client, an exchange and an upstream, as the manual draws them, and what each says
of itself. That nothing moves otherwise every test of this folder checks (`conftest`)."""

from pathlib import Path
from typing import Any

import pytest

from tests.dataplane.conftest import MACHINES
from tests.dataplane.rig import Conversation, until

PAGE = Path(__file__).parents[2] / "docs" / "life-of-a-request.md"
GET = b"GET /x HTTP/1.1\r\nHost: gw.test\r\n\r\n"


def drawn(machine: Any) -> str:
    arrows = [
        f"    {machine.STATES[before]} --> {machine.STATES[after]}"
        for before, others in machine.LEGAL.items()
        for after in others
    ]
    start = f"    [*] --> {machine.STATES[0]}"
    return "\n".join(["```mermaid", "stateDiagram-v2", start, *arrows, "```"])


@pytest.mark.parametrize("name", MACHINES)
def test_the_manual_draws_what_is_legal(name: str) -> None:
    assert drawn(MACHINES[name][0]) in PAGE.read_text()


@pytest.mark.parametrize("name", MACHINES)
def test_every_state_can_be_reached_and_left_for_the_last(name: str) -> None:
    machine = MACHINES[name][0]
    last = len(machine.STATES) - 1
    assert set(machine.LEGAL) == set(range(last + 1))
    assert machine.LEGAL[last] == ()
    reached = {0}
    for _ in machine.STATES:
        reached |= {after for before in reached for after in machine.LEGAL[before]}
    assert reached == set(machine.LEGAL)
    assert all(last in machine.LEGAL[each] for each in range(last))


async def test_an_instance_its_pool_and_an_exchange_say_how_they_are(rig, stub) -> None:
    async def half(conversation: Conversation) -> None:
        await conversation.request()
        conversation.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        await conversation.request()

    gateway, instance = await rig(), await stub(half)
    gateway.one(instance)
    (live,) = gateway.plane.live.backends["b"].instances.values()
    where = instance.address
    assert repr(live) == f"<{where} of b: up, in flight 0, <connections: none>>"
    peer = await gateway.connect()
    peer.write(GET)
    await until(lambda: "body" in repr(live))
    assert repr(live) == f"<{where} of b: up, in flight 1, <connections: 1 body>>"
    (client,) = gateway.plane.clients
    assert repr(client.exchange) == f"<GET /x: answering at {where}, attempts 1>"
