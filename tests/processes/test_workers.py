"""The control process's links to workers, spoken to over real Unix sockets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from gateway.channel import Channel
from gateway.controlplane.counters import nothing
from gateway.controlplane.relay import add_loads
from gateway.controlplane.workers import Workers
from gateway.core.table import Table

from .waiting import until

DOCUMENT = {"backends": {"a": {}}, "routes": {}}


def table(revision: int) -> Table:
    return Table.from_document(DOCUMENT, revision)


class Worker:
    """A worker as the links see it: takes every table unless it is `deaf`."""

    def __init__(self, channel: Channel, slot: int, pid: int) -> None:
        self.channel, self.slot, self.pid = channel, slot, pid
        self.deaf = False
        self.leaving = False
        self.got: list[dict[str, Any]] = []
        self.requests = 0
        self.task = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        await self.channel.send(
            {
                "type": "hello",
                "slot": self.slot,
                "pid": self.pid,
                "revision": 0,
                "listening": False,
                "leaving": self.leaving,
            }
        )
        while (message := await self.channel.receive()) is not None:
            self.got.append(message)
            if self.deaf:
                continue
            if message["type"] == "table":
                await self.channel.send({"type": "applied", "revision": message["revision"]})
            if message["type"] == "scrape":
                requests = [(["r", "b", "i", "GET", "200", ""], self.requests)]
                metrics = {**nothing(), "id": message["id"], "requests": requests}
                await self.channel.send(metrics)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.got if message["type"] == kind]


class House:
    """`Workers`, its socket, and the workers that were started."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.path, self.replaced, self.ejections = path, [], []
        self.succeeded: list[int] = []
        self.clock = 0.0
        self.workers = Workers(
            {"drain_s": 1},
            replace=self.replace,
            succeed=self.succeeded.append,
            on_ejections=self.ejections.extend,
            clock=lambda: self.clock,
            answer_within_s=0.2,
            **options,
        )
        self.started: list[Worker] = []
        self.pids: list[int | None] = []

    def replace(self, pid: int) -> None:
        """As the supervisor does: the process is killed and the slot is empty for a while."""
        self.replaced.append(pid)
        for worker in self.started:
            if worker.pid == pid:
                worker.channel.close()
        self.pids = [None if it == pid else it for it in self.pids]
        self.workers.expect(self.pids)

    async def start(self, slot: int, pid: int, joined: bool = True) -> Worker:
        self.pids += [None] * (slot + 1 - len(self.pids))
        self.pids[slot] = pid
        self.workers.expect(self.pids)
        worker = Worker(await Channel.open(str(self.path)), slot, pid)
        self.started.append(worker)
        if joined:
            await until(lambda: bool(worker.of("table")))
        return worker


@contextlib.asynccontextmanager
async def house(tmp_path: Path, **options: Any) -> AsyncIterator[House]:
    it = House(tmp_path / "s", **options)

    async def attend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await it.workers.attend(Channel(reader, writer))

    server = await asyncio.start_unix_server(attend, it.path)
    it.workers.expect([])
    try:
        yield it
    finally:
        for worker in it.started:
            worker.channel.close()
        await asyncio.gather(*(worker.task for worker in it.started), return_exceptions=True)
        server.close()


async def test_a_worker_is_told_settings_then_table_then_health(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        await it.workers.spread(table(7))
        it.workers.set_health({"a": {"127.0.0.1:1": "up"}})
        worker = await it.start(0, 100)
        await until(lambda: len(worker.got) >= 3)
        assert [it["type"] for it in worker.got[:3]] == ["configure", "table", "health"]
        assert worker.got[0]["settings"] == {"drain_s": 1}
        assert worker.got[1]["revision"] == 7
        assert worker.got[2]["instances"] == {"a": {"127.0.0.1:1": "up"}}


async def test_a_spread_ends_when_every_worker_has_applied(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        workers = [await it.start(slot, 100 + slot) for slot in range(3)]
        assert await it.workers.spread(table(8)) == 3
        assert all(worker.of("table")[-1]["revision"] == 8 for worker in workers)
        assert it.replaced == []


async def test_a_silent_worker_is_replaced_and_the_spread_goes_on(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        await it.start(0, 100)
        silent = await it.start(1, 101)
        silent.deaf = True
        assert await it.workers.spread(table(8)) == 1
        assert it.replaced == [101]
        assert (await it.start(1, 102)).of("table")[-1]["revision"] == 8


async def test_a_worker_that_lost_its_channel_is_waited_for(tmp_path: Path) -> None:
    """It still serves, by the table it has: an edit must not be acknowledged before it."""
    async with house(tmp_path) as it:
        worker = await it.start(0, 100)
        worker.channel.close()
        await until(lambda: not it.workers.links)
        spread = asyncio.create_task(it.workers.spread(table(8)))
        await asyncio.sleep(0.05)
        assert not spread.done()
        await it.start(0, 100)
        assert await spread == 1
        assert it.replaced == []


async def test_a_worker_that_was_there_before_this_control_process_is_waited_for(
    tmp_path: Path,
) -> None:
    async with house(tmp_path) as it:
        it.workers = Workers({}, replace=it.replace, answer_within_s=0.2)
        it.pids = [100]
        it.workers.expect([100])
        assert await it.workers.spread(table(8)) == 0
        assert it.replaced == [100]


async def test_a_process_that_just_starts_holds_nothing_up(tmp_path: Path) -> None:
    """It has no table yet and so decides nothing; it will get the newest."""
    async with house(tmp_path) as it:
        it.workers.expect([100])
        async with asyncio.timeout(0.1):
            assert await it.workers.spread(table(8)) == 0
        assert it.replaced == []


async def test_ejections_go_to_all_others_and_to_who_comes_later(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        one, other = await it.start(0, 100), await it.start(1, 101)
        await one.channel.send({"type": "ejections", "ejections": [["a", "h:1", 5.0, 1]]})
        await until(lambda: bool(other.of("ejections")))
        assert other.of("ejections")[0]["ejections"] == [["a", "h:1", 5.0, 1]]
        assert one.of("ejections") == []
        assert it.ejections == [["a", "h:1", 5.0, 1]]
        it.clock = 2.0
        late = await it.start(2, 102)
        await until(lambda: bool(late.of("ejections")))
        assert late.of("ejections")[0]["ejections"] == [["a", "h:1", 3.0, 1]]
        it.clock = 6.0
        assert it.workers.ejected() == {}


async def test_r31_failures_are_passed_on_to_all_others(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        workers = [await it.start(slot, 100 + slot) for slot in range(3)]
        failures = [["a", "h:1", 2, False]]
        await workers[0].channel.send({"type": "failures", "failures": failures})
        await until(lambda: all(bool(each.of("failures")) for each in workers[1:]))
        assert workers[2].of("failures")[0]["failures"] == failures
        assert workers[0].of("failures") == []


async def test_r24_who_is_up_again_is_no_longer_ejected(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        one = await it.start(0, 100)
        it.workers.set_health({"a": {"h:1": "up", "h:2": "up"}})
        ejections = [["a", "h:1", 5.0, 1], ["a", "h:2", 5.0, 1]]
        await one.channel.send({"type": "ejections", "ejections": ejections})
        await until(lambda: len(it.workers.ejected()) == 2)
        it.workers.set_health({"a": {"h:1": "down", "h:2": "up"}})
        assert len(it.workers.ejected()) == 2
        it.workers.set_health({"a": {"h:1": "up", "h:2": "up"}})
        assert list(it.workers.ejected()) == [("a", "h:2")]
        assert it.ejections[2:] == [["a", "h:1", 0.0, 0]]
        late = await it.start(1, 101)
        await until(lambda: bool(late.of("ejections")))
        assert [each[1] for each in late.of("ejections")[0]["ejections"]] == ["h:2"]


async def test_r68_a_worker_is_relieved_when_its_successor_accepts(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        old, other = await it.start(0, 100), await it.start(1, 101)
        await other.channel.send({"type": "listening"})
        await old.channel.send({"type": "leaving"})
        await until(lambda: it.succeeded == [100])
        it.pids[0] = None
        it.workers.expect([102, 101], [100])
        new = await it.start(0, 102)
        it.workers.expect([102, 101], [100])
        assert await it.workers.spread(table(8)) == 2, "slots, not processes"
        assert old.of("table")[-1]["revision"] == 8, "it still decides, and so is told"
        assert old.of("relieved") == []
        await new.channel.send({"type": "listening"})
        await until(lambda: bool(old.of("relieved")))
        old.channel.close()
        await until(lambda: len(it.workers.links) == 2)
        assert [link.pid for link in it.workers.links] == [102, 101]


async def test_r68_when_all_shall_go_nobody_waits_for_a_successor(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        worker = await it.start(0, 100)
        await worker.channel.send({"type": "leaving"})
        await until(lambda: it.succeeded == [100])
        it.workers.expect([100], stopping=True)
        await until(lambda: bool(worker.of("relieved")))
        assert it.succeeded == [100], "it asked once, and for nobody else"


async def test_loads_come_down_as_sums_over_the_others(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        workers = [await it.start(slot, 100 + slot) for slot in range(3)]
        for count, worker in enumerate(workers, 1):
            await worker.channel.send({"type": "loads", "in_flight": {"a": {"h:1": count}}})

        def others() -> list[int]:
            last = [worker.of("loads")[-1:] for worker in workers]
            return [it[0]["in_flight"].get("a", {}).get("h:1", 0) for it in last if it]

        await until(lambda: others() == [5, 4, 3])


async def test_r70_counters_of_a_worker_that_ended_are_kept(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        one, other = await it.start(0, 100), await it.start(1, 101)
        one.requests, other.requests = 10, 5

        def total(metrics: list[Any]) -> int:
            return sum(count for each in metrics for _, count in each["requests"])

        assert total(await it.workers.scrape()) == 15
        it.replace(100)
        await until(lambda: len(it.workers.links) == 1)
        assert total(await it.workers.scrape()) == 15
        (await it.start(0, 103)).requests = 2
        other.requests = 6
        assert total(await it.workers.scrape()) == 18


async def test_a_lost_channel_counts_nothing_twice(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        worker = await it.start(0, 100)
        worker.requests = 10
        await it.workers.scrape()
        worker.channel.close()
        await until(lambda: not it.workers.links)
        again = await it.start(0, 100)
        again.requests = 12
        metrics = await it.workers.scrape()
        assert sum(count for each in metrics for _, count in each["requests"]) == 12


def test_loads_are_added_per_backend_and_address() -> None:
    loads = [{"a": {"h:1": 1, "h:2": 2}}, {"a": {"h:1": 3}, "b": {"h:3": 4}}]
    assert add_loads(loads) == {"a": {"h:1": 4, "h:2": 2}, "b": {"h:3": 4}}
