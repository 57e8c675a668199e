"""Where the traffic of a name goes: the resolver and the data plane together, over sockets.

The whole gateway, with a hosts file of its own, is in tests/requirements/test_r34_dns.py; that
needs a namespace. Here a scripted look-up stands in for the system's resolver, and nothing else.
"""

import asyncio
import sys

import pytest

from gateway.controlplane.watch.resolver import Endpoints, Resolver
from gateway.core.table import Table
from tests.dataplane.rig import Conversation, Rig, Script

NAME = "instances.headgate.test"
EVERY_S = 0.05
GET = b"GET /x HTTP/1.1\r\nHost: gw.test\r\n\r\n"


class Names:
    """What a name server says now; an empty answer is one that does not come."""

    def __init__(self) -> None:
        self.addresses: list[str] = []

    async def look_up(self, host: str, port: int) -> list[str]:
        if not self.addresses:
            raise OSError("Name or service not known")
        return list(self.addresses)


def says(word: bytes) -> Script:
    """Answers every request with `word`."""

    async def script(conversation: Conversation) -> None:
        while True:
            await conversation.request()
            await conversation.answer(word)

    return script


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has 127.0.0.2 by itself")
async def test_r34_traffic_follows_a_name_without_a_gap_and_stays_when_it_is_lost(
    rig, stub
) -> None:
    gateway: Rig = await rig()
    one = await stub(says(b"one"))
    await stub(says(b"two"), one.port, "127.0.0.2")
    document = {
        "backends": {"b": {"instances": [f"dns+http://{NAME}:{one.port}"]}},
        "routes": {"r": {"match": "/", "split": {"b": 1}}},
    }

    def follow(endpoints: Endpoints) -> None:
        """What the control process does: tell the workers, and find everything well."""
        gateway.plane.live.resolve(endpoints)
        found = [
            address for urls in endpoints.values() for known in urls.values() for address in known
        ]
        gateway.hear({"b": {f"{host}:{one.port}": "up" for host in found}})

    async def answers(count: int) -> list[bytes]:
        got = []
        for _ in range(count):
            answer = await gateway.ask(GET)
            assert answer.status == 200
            got.append(answer.body)
            await asyncio.sleep(0.01)
        return got

    names = Names()
    names.addresses = ["127.0.0.1"]
    gateway.table(document)
    resolver = Resolver(follow, look_up=names.look_up, every_s=EVERY_S)
    resolver.sync(Table.from_document(document, 1))
    await resolver.resolved(5)
    assert set(await answers(5)) == {b"one"}
    names.addresses = ["127.0.0.2"]
    assert (await answers(60))[-1] == b"two", "the traffic never moved"
    names.addresses = []
    assert set(await answers(30)) == {b"two"}, "a lost name changes nothing"
    await resolver.close()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has 127.0.0.2 by itself")
async def test_a_name_that_is_one_instance_is_met_at_any_of_its_addresses(rig, stub) -> None:
    """As curl, browsers and Envoy do: `localhost` is 127.0.0.1 and ::1, and who listens may listen
    at one of them."""
    gateway: Rig = await rig()
    two = await stub(says(b"two"), 0, "127.0.0.2")
    url = f"http://{NAME}:{two.port}"
    document = {
        "backends": {"b": {"instances": [url], "eject": {"failures": 1}}},
        "routes": {"r": {"match": "/", "split": {"b": 1}}},
    }
    gateway.table(document)

    def leads_to(*addresses: str) -> None:
        gateway.plane.live.resolve({"b": {url: list(addresses)}})

    async def word() -> bytes:
        answer = await gateway.ask(GET)
        return answer.body if answer.status == 200 else answer.error.encode()

    leads_to("127.0.0.1", "127.0.0.2")
    gateway.hear({"b": {f"{NAME}:{two.port}": "up"}})
    assert [await word() for _ in range(3)] == [b"two"] * 3
    assert two.connections == 1, "it is asked where it was found"
    one = await stub(says(b"one"), two.port, "127.0.0.1")
    leads_to("127.0.0.2", "127.0.0.1", "127.0.0.3")
    leads_to("127.0.0.1", "127.0.0.2")
    assert await word() == b"two", "it stays where it is well"
    await two.stop()
    assert await word() == b"one"
    leads_to("127.0.0.2")
    assert await word() == b"connect_failed", "all traffic follows a name that moved"
    assert one.connections == 1
    assert gateway.seen == ["refused"]


async def test_r61_a_worker_connects_to_no_listener_of_the_gateway_whatever_it_was_told(
    rig, stub
) -> None:
    model, admin = await stub(), await stub()
    gateway = await rig(listeners=(("0.0.0.0", admin.port),))
    gateway.one(admin)
    assert (await gateway.ask(GET)).error == "connect_failed"
    assert admin.connections == 0
    gateway.one(model)
    assert (await gateway.ask(GET)).status == 200
