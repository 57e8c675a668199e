"""The control process's links to workers, spoken to over real Unix sockets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gateway.controlplane.published import NotInForce
from gateway.controlplane.workers import Workers
from gateway.core.table import Table
from gateway.wire.channel import Channel

from .waiting import until

DOCUMENT = {"backends": {"a": {}}, "routes": {}}


def table(revision: int) -> Table:
    return Table.from_document(DOCUMENT, revision)


class Worker:
    """A worker as the links see it: takes every table unless it is `deaf`."""

    def __init__(self, channel: Channel, slot: int, pid: int, signals: Sequence[Any] = ()) -> None:
        self.channel, self.slot, self.pid, self.signals = channel, slot, pid, list(signals)
        self.deaf = False
        self.leaving = False
        self.refuses = 0
        self.got: list[dict[str, Any]] = []
        self.live: dict[str, Any] = {}
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
                "signals": self.signals,
            }
        )
        while (message := await self.channel.receive()) is not None:
            self.got.append(message)
            if self.deaf:
                continue
            if message["type"] == "table" and self.refuses:
                self.refuses -= 1
                await self.channel.send({"type": "applied", "revision": 0, "error": "no"})
            elif message["type"] == "table":
                await self.channel.send({"type": "applied", "revision": message["revision"]})
            if message["type"] == "look":
                await self.observe(message["id"], **self.live)

    async def observe(self, ident: int = 0, **news: Any) -> None:
        """Says what is live."""
        nothing: dict[str, Any] = {"in_flight": {}, "limits": {}, "queue_depth": {}, "reports": {}}
        await self.channel.send({"type": "observed", "id": ident, **nothing, **news})

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.got if message["type"] == kind]


class House:
    """`Workers`, its socket, and the workers that were started."""

    def __init__(self, path: Path, answer_within_s: float = 60, **options: Any) -> None:
        self.path, self.replaced, self.evidence = path, [], []
        self.succeeded: list[int] = []
        self.gone: set[int] = set()  # processes that have ended
        self.health = {"type": "health", "states": {}, "signals": []}
        self.workers = Workers(
            {"drain_s": 1},
            replace=lambda pid: self.replace(pid),
            succeed=self.succeeded.append,
            health=lambda backends: self.known(backends),
            on_evidence=self.evidence.extend,
            answer_within_s=answer_within_s,
            is_there=lambda pid: pid not in self.gone,
            **{"look_within_s": 60, **options},
        )
        self.started: list[Worker] = []
        self.pids: list[int | None] = []

    def known(self, backends: Any) -> list[Any]:
        """What the prober says of instances."""
        return [self.health] if backends is None or backends else []

    def replace(self, pid: int) -> None:
        """As the supervisor does: the process is killed and the slot is empty for a while."""
        self.replaced.append(pid)
        for worker in self.started:
            if worker.pid == pid:
                worker.channel.close()
        self.pids = [None if it == pid else it for it in self.pids]
        self.workers.expect(self.pids)

    async def start(self, slot: int, pid: int, *, signals: Sequence[Any] = ()) -> Worker:
        self.pids += [None] * (slot + 1 - len(self.pids))
        self.pids[slot] = pid
        self.workers.expect(self.pids)
        worker = Worker(await Channel.open(str(self.path)), slot, pid, signals)
        self.started.append(worker)
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


async def test_a_worker_is_told_settings_then_paths_then_table_then_health(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        await it.workers.put_in_force(table(7))
        it.health["states"] = {"a": {"127.0.0.1:1": ["up"]}}
        worker = await it.start(0, 100)
        await until(lambda: len(worker.got) >= 6)
        types = [it["type"] for it in worker.got[:6]]
        assert types == ["configure", "served", "demand", "rollouts", "table", "health"]
        assert worker.got[0]["settings"] == {"drain_s": 1}
        assert worker.got[4]["revision"] == 7
        assert worker.got[5]["states"] == {"a": {"127.0.0.1:1": ["up"]}}


async def test_a_worker_is_welcome_once_it_was_told_all(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        it.workers.set_documents({"/-/openapi.json": ("application/json", "{}")})
        await it.workers.put_in_force(table(7))
        worker = await it.start(0, 100)
        await until(lambda: worker.of("welcome"))
        assert {"table", "health", "rollouts", "documents"} <= {m["type"] for m in worker.got[:-1]}
        assert worker.got[-1]["type"] == "welcome"


async def test_a_table_is_in_force_when_every_worker_has_applied(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        workers = [await it.start(slot, 100 + slot) for slot in range(3)]
        assert await it.workers.put_in_force(table(8)) == 3
        assert all(worker.of("table")[-1]["revision"] == 8 for worker in workers)
        told = [len(worker.of("table")) for worker in workers]
        assert await it.workers.put_in_force(table(8)) == 3, "asked for again, and told no more"
        assert [len(worker.of("table")) for worker in workers] == told
        assert it.replaced == []


async def test_a_silent_worker_is_replaced_and_the_others_go_on(tmp_path: Path) -> None:
    async with house(tmp_path, answer_within_s=1) as it:
        await it.start(0, 100)
        silent = await it.start(1, 101)
        silent.deaf = True
        assert await it.workers.put_in_force(table(8)) == 1
        assert it.replaced == [101]
        assert (await it.start(1, 102)).of("table")[-1]["revision"] == 8


async def test_a_worker_that_can_neither_be_heard_nor_ended_is_no_reason_to_acknowledge(
    tmp_path: Path,
) -> None:
    async with house(tmp_path, answer_within_s=0.2) as it:
        stuck = await it.start(0, 100)
        stuck.deaf = True
        # The supervisor does not get to it.
        it.replace = it.replaced.append  # type: ignore[method-assign]
        with pytest.raises(NotInForce, match="revision 8 is stored, but worker process 100"):
            await it.workers.put_in_force(table(8))
        assert len(it.replaced) > 1, "it is asked for again"


async def test_a_silent_worker_that_takes_a_while_to_die_is_waited_for(tmp_path: Path) -> None:
    async with house(tmp_path, answer_within_s=0.2) as it:
        stuck = await it.start(0, 100)
        stuck.deaf = True
        die = it.replace

        def late(pid: int) -> None:
            if not it.replaced:
                it.replaced.append(pid)
                asyncio.get_running_loop().call_later(0.45, die, pid)

        it.replace = late  # type: ignore[method-assign]
        assert await it.workers.put_in_force(table(8)) == 0
        assert it.workers.connected == []


async def test_a_worker_that_lost_its_channel_is_waited_for(tmp_path: Path) -> None:
    """It still serves, by the table it has: an edit must not be acknowledged before it."""
    async with house(tmp_path) as it:
        worker = await it.start(0, 100)
        worker.channel.close()
        await until(lambda: not it.workers.connected)
        edit = asyncio.create_task(it.workers.put_in_force(table(8)))
        await asyncio.sleep(0.05)
        assert not edit.done()
        await it.start(0, 100)
        assert await edit == 1
        assert it.replaced == []


async def test_a_worker_whose_hello_is_read_after_its_end_is_waited_for_no_more(
    tmp_path: Path,
) -> None:
    """As one of the gateway before does that ends while a new control process starts."""
    async with house(tmp_path, answer_within_s=0.2) as it:
        it.workers.expect([100], [90])
        it.workers.expect([100])
        await it.start(0, 100)
        it.gone.add(90)
        late = Worker(await Channel.open(str(it.path)), 0, 90)
        await until(lambda: 90 in [each.pid for each in it.workers.connected])
        late.channel.close()
        await until(lambda: 90 not in [each.pid for each in it.workers.connected])
        assert await it.workers.put_in_force(table(8)) == 1
        assert it.replaced == []


async def test_a_worker_that_was_there_before_this_control_process_is_waited_for(
    tmp_path: Path,
) -> None:
    async with house(tmp_path) as it:
        it.workers = Workers({}, replace=it.replace, answer_within_s=0.2)
        it.pids = [100]
        it.workers.expect([100])
        assert await it.workers.put_in_force(table(8)) == 0
        assert it.replaced == [100]


async def test_a_process_that_just_starts_holds_nothing_up(tmp_path: Path) -> None:
    """It has no table yet and so decides nothing; it will get the newest."""
    async with house(tmp_path) as it:
        it.workers.expect([100])
        async with asyncio.timeout(30):  # who is waited for is replaced
            assert await it.workers.put_in_force(table(8)) == 0
        assert it.replaced == []


async def test_r31_what_one_worker_sees_is_passed_on_to_all_others(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        workers = [await it.start(slot, 100 + slot) for slot in range(3)]
        seen = [["a", 12.5, "h:1", "reset"]]
        await workers[0].channel.send({"type": "evidence", "signals": seen})
        await until(lambda: all(bool(each.of("evidence")) for each in workers[1:]))
        assert workers[2].of("evidence")[0]["signals"] == seen
        assert workers[0].of("evidence") == []
        assert it.evidence == seen


async def test_r31_what_a_worker_saw_without_a_control_process_is_taken_in_before_it_is_told(
    tmp_path: Path,
) -> None:
    async with house(tmp_path) as it:
        other = await it.start(0, 100)
        seen = [["a", 12.5, "h:1", "reset"]]
        known: list[int] = []

        def health(_backends: Any) -> list[Any]:
            known.append(len(it.evidence))
            return [it.health]

        it.known = health  # type: ignore[method-assign]
        await it.start(1, 101, signals=seen)
        await until(lambda: bool(other.of("evidence")))
        assert other.of("evidence")[0]["signals"] == seen
        assert it.evidence == seen
        assert known == [1], "what it is told overrides what it knows"


async def test_what_the_probes_see_at_once_is_told_at_once(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        workers = [await it.start(slot, 100 + slot) for slot in range(2)]
        for port in range(3):
            it.workers.tell([["a", 1.0 + port, f"h:{port}", "ready"]])
        await until(lambda: all(bool(each.of("evidence")) for each in workers))
        for worker in workers:
            assert [len(each["signals"]) for each in worker.of("evidence")] == [3]


async def test_who_begins_while_the_lease_is_lost_is_told_that_there_was_one(
    tmp_path: Path,
) -> None:
    async with house(tmp_path) as it:
        it.workers.set_lease(0.0, 1)
        await it.workers.put_in_force(table(7))
        first = await it.start(0, 100)
        it.workers.set_lease(50.0, 2)
        it.workers.set_lease(0.0, 2)
        await until(lambda: len(first.of("lease")) == 3)
        assert [each["was"] for each in first.of("lease")] == [False, True, True]
        second = await it.start(1, 101)
        await until(lambda: bool(second.of("lease")))
        assert [each["was"] for each in second.of("lease")] == [True]


async def test_health_comes_in_the_message_that_brings_a_backend(tmp_path: Path) -> None:
    """Or a request between the two would find nobody there."""
    async with house(tmp_path) as it:
        worker = await it.start(0, 100)
        await it.workers.put_in_force(table(8))
        before = len(worker.got)
        document = {**DOCUMENT, "backends": {**DOCUMENT["backends"], "b": {}}}
        await it.workers.put_in_force(Table.from_document(document, 9))
        assert [each["type"] for each in worker.got[before:]] == ["table"]
        assert worker.got[-1]["put"] == {"backends": {"b": {}}}
        assert worker.got[-1]["health"] == [it.health]


async def test_health_is_told_again_where_it_is_judged_otherwise(tmp_path: Path) -> None:
    """From then on as the table says, also by what came before."""
    async with house(tmp_path) as it:
        worker = await it.start(0, 100)
        await it.workers.put_in_force(table(8))
        before = len(worker.got)
        document = {**DOCUMENT, "backends": {"a": {"health": {"rise": 5}}}}
        await it.workers.put_in_force(Table.from_document(document, 9))
        await until(lambda: len(worker.got) >= before + 2)
        assert [each["type"] for each in worker.got[before:]] == ["table", "health"]


async def test_a_worker_that_cannot_take_a_difference_is_told_the_whole_table(
    tmp_path: Path,
) -> None:
    async with house(tmp_path) as it:
        worker = await it.start(0, 100)
        await it.workers.put_in_force(table(8))
        worker.refuses = 1
        await it.workers.put_in_force(table(9))
        assert [each["base"] for each in worker.of("table")[-2:]] == [8, None]
        assert it.replaced == []


async def test_r68_a_worker_hands_over_when_its_successor_accepts(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        old, other = await it.start(0, 100), await it.start(1, 101)
        await other.channel.send({"type": "listening"})
        await old.channel.send({"type": "leaving"})
        await until(lambda: it.succeeded == [100])
        it.pids[0] = None
        it.workers.expect([102, 101], [100])
        new = await it.start(0, 102)
        it.workers.expect([102, 101], [100])
        assert await it.workers.put_in_force(table(8)) == 2, "slots, not processes"
        assert old.of("table")[-1]["revision"] == 8, "it still decides, and so is told"
        assert old.of("handed_over") == []
        await new.channel.send({"type": "listening"})
        await until(lambda: bool(old.of("handed_over")))
        old.channel.close()
        await until(lambda: len(it.workers.connected) == 2)
        assert [link.pid for link in it.workers.connected] == [102, 101]


async def test_r68_when_all_shall_go_nobody_waits_for_a_successor(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        worker = await it.start(0, 100)
        await worker.channel.send({"type": "leaving"})
        await until(lambda: it.succeeded == [100])
        it.workers.expect([100], stopping=True)
        await until(lambda: bool(worker.of("handed_over")))
        assert it.succeeded == [100], "it asked once, and for nobody else"


async def test_what_is_live_is_the_sum_of_what_workers_said_last(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        one, other = await it.start(0, 100), await it.start(1, 101)
        one.live = {"in_flight": {"a": {"h:1": 2, "h:2": 1}}, "queue_depth": {"a": 3}}
        other.live = {"in_flight": {"a": {"h:1": 4}}, "reports": {"a": {"h:1": {"queue": 5.0}}}}
        await it.workers.look()
        assert it.workers.loads.in_flight() == {"a": {"h:1": 6, "h:2": 1}}
        assert it.workers.loads.queue_depth() == {"a": 3}
        assert it.workers.loads.report("a", "h:1") == {"queue": 5.0}
        one.live = {"in_flight": {"a": {"h:1": 0}}, "queue_depth": {"a": 0}}
        other.live = {"reports": {"a": {"h:1": None}}}
        await it.workers.look()
        assert it.workers.loads.in_flight() == {"a": {"h:1": 4, "h:2": 1}}
        assert it.workers.loads.queue_depth() == {"a": 0}
        assert it.workers.loads.report("a", "h:1") is None


async def test_who_does_not_say_what_is_live_is_silent_until_it_does(tmp_path: Path) -> None:
    async with house(tmp_path, look_within_s=0.5) as it:
        await it.start(0, 100)
        stopped = await it.start(1, 101)
        stopped.deaf = True
        assert it.workers.silent == []
        assert not await it.workers.look()
        assert it.workers.silent == [101]
        stopped.deaf = False
        while not await it.workers.look():
            assert it.workers.silent == [101], "a busy machine"
        assert it.workers.silent == []


async def test_who_was_there_before_and_has_no_channel_is_silent(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        it.workers = Workers({}, replace=it.replace)
        it.workers.expect([100, 101])
        assert it.workers.silent == [100, 101]
        it.pids = [100, 101]
        await it.start(0, 100)
        assert it.workers.silent == [101]
        it.workers.expect([100, None])
        assert it.workers.silent == []


async def test_a_worker_that_is_gone_has_nothing_live(tmp_path: Path) -> None:
    async with house(tmp_path) as it:
        worker = await it.start(0, 100)
        worker.live = {"in_flight": {"a": {"h:1": 2}}}
        await it.workers.look()
        worker.channel.close()
        await until(lambda: not it.workers.connected)
        await it.workers.look()
        assert it.workers.loads.in_flight() == {}


async def test_nobody_waits_for_a_worker_that_leaves_during_a_look(tmp_path: Path) -> None:
    async with house(tmp_path, look_within_s=60) as it:
        worker = await it.start(0, 100)
        worker.deaf = True
        look = asyncio.create_task(it.workers.look())
        await until(lambda: bool(worker.of("look")))
        worker.channel.close()
        async with asyncio.timeout(30):
            await look
