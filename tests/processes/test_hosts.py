"""Three hosts in network namespaces, each with a gateway and a member of etcd: one table, whatever
dies, stops or is cut off, and in the middle of whatever."""

import asyncio
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from examples.hosts.cluster import TOKEN, Cluster, missing
from examples.hosts.network import Network
from tests.harness.gateway import COMPLAINTS, ROOT, eventually, one_backend
from tests.harness.load import Client, Reply
from tests.harness.origins import Origin, after
from tests.harness.own_network import in_own_network

pytestmark = [
    pytest.mark.alone,  # three machines in one
    pytest.mark.skipif(bool(missing()), reason=f"needs {missing()}"),
]
SETTINGS = {"lame_duck": "0s", "drain": "5s"}
TAG = ("Authorization", f"Bearer {TOKEN}")
AGAIN_S = 5.0
"""Required: so soon edits are made again after a quorum is there, and a watch on a member that was
cut off ends."""


class Hosts:
    """Three gateways, called by the names of their hosts, and a client of theirs."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.network = cluster, cluster.network
        self.client = Client()
        self.made: list[int] = []

    async def revision(self, name: str) -> int:
        """By which the gateway decides; 0 where it does not answer, or refuses."""
        reply = await self.client.get(f"{self.cluster.url(name)}/x", timeout=2)
        return int(reply.header("X-Headgate-Revision") or 0) if reply.ok else 0

    async def is_healthy(self, name: str) -> bool:
        reply = await self.client.get(f"{self.cluster.url(name)}/-/health", timeout=2)
        return reply.status == 200

    async def admin(self, name: str, method: str, path: str, body: Any = None) -> Reply:
        url = f"{self.cluster.admin(name)}/admin/v1{path}"
        return await self.client.json(method, url, body, [TAG], timeout=60)

    async def edit(self, name: str, weight: int) -> Reply:
        """One edit; after it no gateway that is not named as lost decides by an older table."""
        reply = await self.admin(name, "PUT", "/routes/all/weights", {"main": weight})
        if reply.status == 200:
            number, lost = reply.json()["revision"], reply.json()["applied"]["lost"]
            self.made.append(number)
            bound = [each for each in self.network.names if f"gw-{each}" not in lost]
            found = await asyncio.gather(*(self.revision(each) for each in bound))
            assert all(one >= number or not one for one in found), (number, lost, found)
        return reply

    async def editor(self, name: str, count: int) -> None:
        """Makes so many edits at that gateway, whatever comes of each."""
        for n in range(count):
            await self.edit(name, 2 + n % 50)

    async def until_edited(self, name: str) -> dict[str, Any]:
        """What came of the first edit that is made."""

        async def made() -> Any:
            reply = await self.edit(name, 1)
            return reply.status == 200 and reply.json()

        found: dict[str, Any] = await eventually(made, what="an edit is made")
        return found

    async def all_live(self) -> None:
        """Returns when each gateway is well and answers, and edits wait for all."""
        for name in self.network.names:
            await eventually(lambda name=name: self.is_healthy(name), what=f"{name} is well")
            await eventually(lambda name=name: self.revision(name), what=f"{name} answers")
        for name in self.network.names:
            applied = (await self.until_edited(name))["applied"]
            assert (applied["gateways"], applied["lost"]) == (3, []), applied

    async def is_gapless(self) -> None:
        """No number was given twice, and none is missing."""
        assert len(self.made) == len(set(self.made)), "two edits of one number"
        reply = await self.admin("a", "GET", "/history?limit=1000")
        numbers = [each["revision"] for each in reply.json()["revisions"]]
        assert numbers == list(range(len(numbers), 0, -1))
        assert set(self.made) <= set(numbers)

    @asynccontextmanager
    async def asked(self, *names: str) -> AsyncIterator[None]:
        """Each of these gateways is sent requests all the while; each is answered by its model."""
        found: Counter[tuple[int, str]] = Counter()

        stop = asyncio.Event()

        async def ask(name: str) -> None:
            while not stop.is_set():
                reply = await self.client.get(f"{self.cluster.url(name)}/x", timeout=30)
                found[reply.status, reply.error or reply.header("X-Headgate-Error")] += 1
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(ask(name)) for name in names]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)
        assert found, "nobody was asked"
        assert set(found) == {(200, "")}, found


@asynccontextmanager
async def hosts(
    *, workers: int = 1, lease: str = "2s", lost: str = "serve"
) -> AsyncIterator[Hosts]:
    """All that is started, and well."""
    with closing(Network("abc")) as network, tempfile.TemporaryDirectory() as folder:
        origin = Origin(after(0.001), host=network.here("hosts"))
        await origin.start()
        cluster = Cluster(
            network, Path(folder), one_backend(origin), ["--unsafe-no-fsync"],
            workers=workers, etcd={"lease": lease}, store_lost=lost, **SETTINGS,
        )  # fmt: skip
        three = Hosts(cluster)
        try:
            cluster.start("etcd")
            cluster.start("gateway")
            await three.all_live()
            yield three
            for name in network.names:
                assert not COMPLAINTS.search(cluster.log("gateway", name).read_text())
        finally:
            await three.client.close()
            cluster.close()
            origin.stop_listening()


async def together(three: Hosts, editors: Sequence[str], count: int) -> None:
    await asyncio.gather(*(three.editor(name, count) for name in editors))


Fault = Callable[[], None]


async def disturbed(three: Hosts, begin: Fault, end: Fault, lost: str) -> None:
    """Something happens to host b in the middle of edits, and ends in the middle of others."""
    editing = asyncio.create_task(together(three, "ac", 3))
    before = len(three.made)
    await eventually(lambda: len(three.made) > before)
    newest = await three.revision("b")
    begin()
    await editing
    named = await three.until_edited("a")
    assert named["applied"]["lost"] == ["gw-b"], named
    assert named["applied"]["gateways"] == 2
    found = await three.revision("b")
    assert found < named["revision"]
    assert not found or lost == "serve", "it refuses rather than answering by an old table"
    assert found in (0, *range(newest, named["revision"]))
    editing = asyncio.create_task(together(three, "ac", 2))
    end()
    await editing
    await three.all_live()


def faults(three: Hosts) -> dict[str, tuple[Fault, Fault]]:
    cluster, network = three.cluster, three.network
    return {
        "cut off": (lambda: network.cut("b"), lambda: network.heal("b")),
        "stopped": (
            lambda: cluster.signal("gateway", signal.SIGSTOP, "b"),
            lambda: cluster.signal("gateway", signal.SIGCONT, "b"),
        ),
        "killed": (lambda: cluster.kill("gateway", "b"), lambda: cluster.start("gateway", "b")),
    }


@in_own_network
async def test_three_hosts_have_one_table_whoever_is_cut_off_and_whichever_member_dies() -> None:
    async with hosts(lease="4s") as three:
        await together(three, "abca", 3)
        await disturbed(three, *faults(three)["cut off"], "serve")
        async with three.asked("a", "b"):
            three.cluster.kill("etcd", "c")
            await three.until_edited("b")
        await three.is_gapless()


@pytest.mark.soak
@pytest.mark.timeout(900)
@in_own_network
async def test_gateways_that_serve_have_one_table_for_long() -> None:
    await for_long("serve")


@pytest.mark.soak
@pytest.mark.timeout(900)
@in_own_network
async def test_gateways_that_refuse_when_lost_have_one_table_for_long() -> None:
    await for_long("refuse")


async def for_long(lost: str) -> None:
    async with hosts(workers=2, lost=lost) as three:
        await together(three, "abca", 50)
        assert len(three.made) >= 200, "none of them was refused"
        for begin, end in faults(three).values():
            await disturbed(three, begin, end, lost)
        await three.is_gapless()


@pytest.mark.soak
@pytest.mark.timeout(900)
@in_own_network
async def test_members_of_etcd_die_one_after_the_other_and_nobody_notices_but_editors() -> None:
    async with hosts(workers=2) as three:
        cluster = three.cluster
        async with three.asked("a", "b"):
            cluster.kill("etcd", "a")
            await three.until_edited("a")
            cluster.kill("etcd", "b")
            await refused(three)
            cluster.kill("etcd", "c")
            await refused(three)
            newest = max(three.made)
            cluster.stop("gateway", "c")
            cluster.start("gateway", "c")
            await eventually(lambda: _is(three, "c", newest), what="it serves its copy")
            assert not await three.is_healthy("c")
            await refused(three)

            cluster.start("etcd", "a", "b")
            await eventually(lambda: _has_quorum(three), what="there is a quorum")
            there = time.monotonic()
            await three.until_edited("a")
            assert time.monotonic() - there <= AGAIN_S
            cluster.start("etcd", "c")
            await three.all_live()
        await three.is_gapless()


async def refused(three: Hosts) -> None:
    """Edits are, at each gateway, and nothing is done by halves."""
    before = await three.revision("a")
    for name in three.network.names:
        reply = await three.edit(name, 77)
        assert (reply.status, reply.json()["code"]) == (503, "store_unavailable"), reply
    assert [await three.revision(name) for name in three.network.names] == [before] * 3


@pytest.mark.soak
@pytest.mark.timeout(300)
@in_own_network
async def test_a_watch_on_a_member_that_is_cut_off_ends_in_time() -> None:
    async with hosts() as three:
        own = {"endpoints": [f"http://{three.network.address('b', 'hosts')}:2379"], "lease": "10s"}
        three.cluster.stop("gateway", "b")
        three.cluster.start("gateway", "b", etcd=own)
        await three.all_live()
        three.network.cut("b")
        began = time.monotonic()
        await eventually(lambda: _is_away(three, "b"), AGAIN_S, "its watch has ended")
        assert time.monotonic() - began <= AGAIN_S
        three.network.heal("b")
        await three.all_live()


@pytest.mark.soak
async def test_make_hosts_is_taken_apart_by_hand() -> None:
    words = "ask 3|edit b 5|cut c|edit a 7|ask 3|status a|kill gateway d|heal c|end"
    example = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.hosts"), cwd=ROOT,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, _ = await example.communicate(words.replace("|", "\n").encode())
    text = said.decode()
    assert example.returncode == 0, text
    assert "{'gateways': 3, 'workers': 6, 'lost': []}" in text, text
    assert "{'gateways': 2, 'workers': 4, 'lost': ['gw-c']}" in text, text
    assert "gateway c:    3 × 200 from host" in text, text
    assert text.count("kill PART HOST") == 2, "there is no host d"


async def _is(three: Hosts, name: str, number: int) -> bool:
    return await three.revision(name) == number


async def _is_away(three: Hosts, name: str) -> bool:
    reply = await three.admin(name, "GET", "/status")
    return bool(reply.json()["store"]["state"] == "away")


async def _has_quorum(three: Hosts) -> bool:
    url = f"http://{three.network.address('a', 'hosts')}:2379/v3/kv/range"
    reply = await three.client.post(url, b'{"key": "AA=="}', timeout=1)
    return reply.status == 200
