"""What is shown of a running gateway: shares, rates, counters, and what is remembered."""

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.controlplane.events import Events
from gateway.controlplane.store.handover import Memory
from gateway.controlplane.watch.alerts import alerts
from gateway.controlplane.watch.announcing import Announcer
from gateway.controlplane.watch.counters import Totals
from gateway.controlplane.watch.effective import shares
from gateway.controlplane.watch.pacing import Coalesced
from gateway.controlplane.watch.prober import Prober
from gateway.controlplane.watch.probing import Target
from gateway.controlplane.watch.resolver import Resolver
from gateway.controlplane.watch.status_view import StatusView
from gateway.controlplane.workers import Workers
from gateway.core import edits
from gateway.core.access import hash_of
from gateway.core.health import HealthState
from gateway.core.table import Route, Table
from gateway.telemetry.book import Book
from gateway.telemetry.metrics import Counters

from .waiting import until


def table(on_unavailable: Any = "redistribute", **states: str) -> Table:
    health = {"interval": "20ms", "rise": 1, "fall": 1}
    document = {
        "backends": {
            "a": {"instances": ["http://127.0.0.1:1", "http://127.0.0.1:2"], "health": health},
            "b": {"instances": ["http://127.0.0.1:3"], "health": health},
            "c": {"instances": ["http://127.0.0.1:4"], "health": health},
        },
        "routes": {
            "r": {"match": "/", "split": {"a": 3, "b": 1}, "on_unavailable": on_unavailable}
        },
    }
    for address, state in states.items():
        document["backends"]["a"]["states"] = {f"127.0.0.1:{address[1:]}": state}
    return Table.from_document(document, 7)


def route(on_unavailable: Any) -> Route:
    return table(on_unavailable).routes["r"]


@pytest.mark.parametrize(
    ("on_unavailable", "available", "expected"),
    [
        ("redistribute", "ab", {"a": 0.75, "b": 0.25}),
        ("redistribute", "a", {"a": 1.0, "b": 0.0}),
        ("redistribute", "", {"a": 0.0, "b": 0.0}),
        ("fail", "b", {"a": 0.0, "b": 0.25}),
        ({"fallback": "c"}, "bc", {"a": 0.0, "b": 0.25, "c": 0.75}),
        ({"fallback": "b"}, "b", {"a": 0.0, "b": 1.0}),
        ({"fallback": "c"}, "b", {"a": 0.0, "b": 0.25}),
    ],
)
def test_r33_the_shares_that_hold_when_a_backend_is_down(
    on_unavailable: Any, available: str, expected: dict[str, float]
) -> None:
    assert shares(route(on_unavailable), frozenset(available)) == expected


class World:
    """StatusView with a prober whose instances answer as `ready` says."""

    def __init__(self) -> None:
        self.table = table()
        self.now = 0.0
        self.read_takes_s = self.spent_s = 0.0
        self.ready: dict[int, Any] = {1: True, 2: True, 3: True, 4: True}
        self.events = Events()
        self.heard = self.events.subscribe()
        self.workers = Workers({}, replace=lambda _: None)
        self.resolver = Resolver(lambda _: None)
        self.prober = Prober(
            lambda words, changes: self.announcer.note_health(words, changes), probe=self.probe
        )
        book = Book()
        self.counters = Counters(book, Book(book.memory, apart=True))
        self.totals = Totals(book.memory)
        self.view = StatusView(
            lambda: self.table,
            self.workers,
            self.prober,
            self.resolver,
            self.totals,
            clock=lambda: self.now,
            spent=self.spent,
        )
        causes, shares = self.prober.causes, self.view.effective_shares
        self.announcer = Announcer(self.events, causes, shares)

    def spent(self) -> float:
        """Seconds of processor time: a look at the counters is between two of these."""
        self.spent_s += self.read_takes_s
        return self.spent_s

    def seen(self) -> float:
        """The requests of which the counters were read."""
        series = self.totals.of("headgate_requests_total").values()
        return sum(sum(tally.counts.values()) for tally in series)

    async def probe(self, target: Target) -> Any:
        ready = self.ready[target.port]
        return ready if isinstance(ready, str) else "ready" if ready else "probe_refused"

    def answer(
        self, count: int, code: int = 200, reason: str = "", took_s: float = 0.0, route: str = "r"
    ) -> None:
        """Requests of `route` at its backend a, of which instances answered those that took
        time."""
        cell = self.counters.cell(route, "a", "127.0.0.1:1")
        for _ in range(count):
            cell.count(b"GET", code, reason)
            if took_s:
                cell.times.count(took_s, took_s, 0.001)

    async def seconds(self, count: int = 1) -> None:
        """So many seconds pass."""
        for _ in range(count):
            self.now += 1
            await self.view.beat()
            self.announcer.announce_shares()

    async def all_asked(self) -> None:
        await until(lambda: all(self.word(port) == "up" for port in (1, 2, 3, 4)))

    def word(self, port: int) -> str:
        words = self.prober.words
        return next(w[f"127.0.0.1:{port}"] for w in words.values() if f"127.0.0.1:{port}" in w)

    async def events_until(self, kind: str) -> dict[str, Any]:
        async for event in self.heard:
            if event["type"] == kind:
                return event
        raise AssertionError(kind)


@contextlib.asynccontextmanager
async def world() -> AsyncIterator[World]:
    it = World()
    it.prober.sync(it.table)
    try:
        await it.all_asked()
        yield it
    finally:
        await it.prober.close()


async def test_status_names_every_instance_and_what_it_gets() -> None:
    async with world() as it:
        status = await it.view.status()
        assert status["revision"] == 7
        assert status["routes"]["r"]["weights"] == {"a": 3, "b": 1}
        assert status["routes"]["r"]["effective"] == {"a": 0.75, "b": 0.25}
        one = status["backends"]["a"]["instances"]["127.0.0.1:1"]
        assert one["health"] == "up"
        assert one["state"] == ""
        assert one["in_flight"] == 0


async def test_r33_a_backend_that_goes_down_moves_its_share_and_an_event_says_so() -> None:
    async with world() as it:
        it.announcer.announce_shares()
        it.ready[3] = False
        health = await it.events_until("health")
        while health["to"] != "down":
            health = await it.events_until("health")
        assert (health["instance"], health["from"]) == ("127.0.0.1:3", "up")
        moved = await it.events_until("effective")
        assert moved["effective"] == {"a": 1.0, "b": 0.0}
        assert it.view.effective("r") == {"a": 1.0, "b": 0.0}
        assert it.view.effective("no such route") == {}


async def test_an_instance_that_is_out_by_command_is_not_up() -> None:
    async with world() as it:
        it.table = table(p1="disabled")
        assert it.view.up()["a"] == {"127.0.0.1:1": False, "127.0.0.1:2": True}
        assert it.view.available() == {"a", "b", "c"}


async def test_why_a_backend_cannot_serve_is_said_of_each_instance() -> None:
    async with world() as it:
        it.table = table(p2="draining")
        why = it.view.why_unwell("a")
        assert why == "127.0.0.1:1 is not ready yet, 127.0.0.1:2 is draining"
        many = {"instances": [f"http://127.0.0.1:{port}" for port in range(11, 16)]}
        document = edits.put(it.table.document, "backends", "b", many)
        it.table = Table.from_document(edits.put(document, "backends", "c", {"instances": []}), 8)
        assert it.view.why_unwell("c") == it.view.why_unwell("nobody") == ""
        assert it.view.why_unwell("b").endswith("127.0.0.1:13 is not ready yet, and 2 more")


async def test_an_ejection_is_an_event_and_is_shown() -> None:
    async with world() as it:
        it.announcer.note_ejections([["a", "127.0.0.1:1", 5.0, 1]])
        event = await it.events_until("ejection")
        assert event["instance"] == "127.0.0.1:1"
        assert event["ejected_s"] == 5.0


async def test_rates_of_a_backend_that_two_routes_have_are_told_apart() -> None:
    """Or a canary would be looked at beside what the stable version does for others."""
    async with world() as it:
        document = it.table.document
        other = {"match": "/other", "split": {"a": 1, "c": 0}}
        it.table = Table.from_document(edits.put(document, "routes", "other", other), 8)
        await it.seconds()
        for _ in range(10):
            it.answer(30, took_s=0.05)
            it.answer(70, 500, took_s=0.2, route="other")
            await it.seconds()
        status = await it.view.status()
        assert status["backends"]["a"]["requests_per_s"] == pytest.approx(100)
        found = {name: route["backends"] for name, route in status["routes"].items()}
        assert {name: set(each) for name, each in found.items()} == {"r": {"a"}, "other": {"a"}}
        assert found["r"]["a"]["requests_per_s"] == pytest.approx(30)
        assert found["r"]["a"]["errors_per_s"] == 0
        assert found["r"]["a"]["latency_ms"]["p99"] == pytest.approx(50, rel=0.02)
        assert found["other"]["a"]["errors_per_s"] == pytest.approx(70)


async def test_rates_are_those_of_the_last_seconds() -> None:
    async with world() as it:
        await it.seconds()
        for _ in range(30):
            it.answer(97, took_s=0.05)
            it.answer(1, 503, "queue_full")
            it.answer(2, 404)
            await it.seconds()
        status = await it.view.status()
        rates = status["backends"]["a"]
        assert rates["requests_per_s"] == pytest.approx(100)
        assert rates["errors_per_s"] == pytest.approx(1)
        assert rates["latency_ms"]["p50"] == pytest.approx(50, rel=0.02)
        assert status["routes"]["r"]["latency_ms"] == rates["latency_ms"]
        assert status["backends"]["b"]["requests_per_s"] == 0
        await it.seconds(10)
        assert (await it.view.status())["routes"]["r"]["requests_per_s"] == 0


@pytest.mark.parametrize(("takes_s", "every"), [(0.001, 1), (0.01, 1), (0.03, 3), (9.0, 5)])
async def test_counters_that_take_long_to_read_are_read_seldom_and_whenever_somebody_asks(
    takes_s: float, every: int
) -> None:
    async with world() as it:
        it.read_takes_s = takes_s
        await it.seconds()
        for _ in range(3):
            it.answer(1)
            before = it.seen()
            await it.seconds(every - 1)
            assert it.seen() == before
            await it.seconds()
            assert it.seen() == before + 1
            assert it.view.read_at == it.now
        it.answer(1)
        await it.view.metrics("", {}, {})
        assert it.seen() == 4
        it.answer(1)
        await it.view.status()
        assert it.seen() == 5


async def turns_until(task: asyncio.Task[Any]) -> int:
    """How often others are attended to until `task` is done."""
    turns = 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    return turns


async def test_many_counters_are_read_a_few_at_a_time_so_that_others_go_on_meanwhile() -> None:
    async with world() as it:
        cells = [it.counters.cell(f"r{number}", "a", "127.0.0.1:1") for number in range(3000)]
        await it.seconds()
        for cell in cells:
            cell.count(b"GET", 200, "")
            cell.times.count(0.1, 0.1, 0.001)
        await it.seconds()
        for cell in cells:
            cell.count(b"GET", 200, "")
            cell.times.count(0.1, 0.1, 0.001)
        beat = asyncio.create_task(it.seconds())
        assert await turns_until(beat) > 3
        assert it.seen() == 6000
        assert await turns_until(asyncio.create_task(it.view.metrics("", {}, {}))) > 10
        times = it.totals.of("headgate_request_seconds").values()
        assert sum(tally.buckets.total() for tally in times) == 6000
        status = await it.view.status()
        assert status["backends"]["a"]["requests_per_s"] == 3000


async def test_rates_that_are_asked_for_are_of_until_now_though_the_counters_are_read_seldom() -> (
    None
):
    async with world() as it:
        it.read_takes_s = 9.0
        await it.seconds()
        it.answer(30)
        await it.seconds(3)
        assert (await it.view.status())["routes"]["r"]["requests_per_s"] == 10
        it.now += 0.5
        it.answer(5)
        assert (await it.view.status())["routes"]["r"]["requests_per_s"] == 10, "of half a second"
        it.now += 0.5
        it.answer(5)
        assert (await it.view.status())["routes"]["r"]["requests_per_s"] == 10
        await it.seconds(13)
        assert (await it.view.status())["routes"]["r"]["requests_per_s"] == 0


async def test_answers_are_told_apart() -> None:
    async with world() as it:
        await it.seconds()
        it.answer(100, 200, took_s=0.01)
        it.answer(170, 422)
        it.answer(14, 499, "client_left")
        it.answer(20, 500)
        it.answer(10, 502, "connect_failed")
        it.answer(30, 503, "queue_full")
        it.answer(5, 200, "draining")
        await it.seconds(10)
        route = (await it.view.status())["routes"]["r"]
        assert route["answers_per_s"] == {
            "1xx": 0, "2xx": 10.5, "3xx": 0, "4xx": 17, "499": 1.4, "5xx": 3, "refused": 3,
        }  # fmt: skip
        assert route["reasons_per_s"] == {
            "client_left": 1.4, "connect_failed": 1, "queue_full": 3, "draining": 0.5,
        }  # fmt: skip


async def test_no_more_digits_are_shown_than_are_known() -> None:
    async with world() as it:
        await it.seconds()
        it.answer(1, took_s=1.23456789)
        it.answer(1, took_s=0.000123456)
        await it.seconds()
        for value in (await it.view.status())["routes"]["r"]["latency_ms"].values():
            assert len(str(value).replace(".", "").strip("0")) <= 3


async def test_what_was_counted_before_anybody_looked_is_of_no_second() -> None:
    async with world() as it:
        it.answer(1000)
        await it.seconds()
        it.answer(5)
        await it.seconds()
        assert (await it.view.status())["routes"]["r"]["requests_per_s"] == 5


def kinds(status: dict[str, Any]) -> set[tuple[str, str]]:
    """Kind and what it is about, of each alert."""
    return {
        (one["kind"], str(one.get("instance") or one.get("route") or one.get("worker", "")))
        for one in status["alerts"]
    }


async def test_a_frozen_instance_is_said_and_its_route_gets_nothing() -> None:
    async with world() as it:
        assert (await it.view.status())["alerts"] == []
        await it.seconds()
        it.ready[1] = it.ready[2] = "unready"
        await until(lambda: it.word(1) == it.word(2) == "failing")
        it.answer(14, 499, "client_left")
        await it.seconds()
        status = await it.view.status()
        assert status["routes"]["r"]["effective"] == {"a": 0, "b": 0.25}
        assert kinds(status) == {
            ("not_served", "r"), ("499", "r"), ("failing", "127.0.0.1:1"),
            ("failing", "127.0.0.1:2"),
        }  # fmt: skip
        first = status["alerts"][0]
        assert first["severity"] == "critical"
        assert first["text"] == "75 % of route r is not served: a cannot"


async def test_who_answers_although_its_probes_fail_is_served_from() -> None:
    async with world() as it:
        await it.seconds()
        it.ready[1] = it.ready[2] = "unready"
        await until(lambda: it.word(1) == it.word(2) == "failing")
        it.answer(5, took_s=0.01)
        await it.seconds()
        assert it.view.effective("r") == {"a": 0.75, "b": 0.25}
        await it.seconds(1)
        assert it.view.effective("r") == {"a": 0.75, "b": 0.25}, "while a probe may take a second"
        await it.seconds(1)
        assert it.view.effective("r") == {"a": 0, "b": 0.25}, "and what stopped has not since"


async def test_r33_the_share_of_a_version_that_hangs_is_the_others() -> None:
    async with world() as it:
        it.ready[1] = it.ready[2] = "late"
        await until(lambda: it.word(1) == it.word(2) == "failing")
        await it.seconds(3)
        assert it.view.effective("r") == {"a": 0, "b": 0.25}, "requests may show that it works"
        for port in (1, 2):
            for _ in range(5):
                it.prober.hear([("a", time.monotonic(), f"127.0.0.1:{port}", "reset")])
        assert it.view.effective("r") == {"a": 0, "b": 1.0}


async def test_a_route_that_nobody_serves_is_said_first() -> None:
    async with world() as it:
        for port in (1, 2, 3):
            it.ready[port] = False
        await until(lambda: {it.word(port) for port in (1, 2, 3)} == {"down"})
        alerts = (await it.view.status())["alerts"]
        assert alerts[0]["text"] == "nothing can serve route r"
        assert [one["kind"] for one in alerts[1:]] == ["down"] * 3


async def test_what_an_operator_asked_for_is_no_alert() -> None:
    async with world() as it:
        it.table = table(p1="disabled")
        it.ready[1] = False
        await until(lambda: it.word(1) == "down")
        assert (await it.view.status())["alerts"] == []


async def test_r70_instances_that_are_long_gone_are_counted_together() -> None:
    async with world() as it:
        told: list[Any] = []
        it.workers.retire = lambda instances, name: told.append((instances, name))  # type: ignore[method-assign]

        def counted() -> dict[str, float]:
            series = it.totals.of("headgate_requests_total")
            return {labels[2]: sum(tally.counts.values()) for labels, tally in series.items()}

        def gone(number: int) -> None:
            it.counters.cell("r", "a", f"10.0.0.{number}:80").count(b"GET", 200, "")

        it.answer(3)
        gone(1)
        await it.seconds()
        it.now += 595
        gone(2)
        await it.seconds(4)
        assert counted() == {"127.0.0.1:1": 3, "10.0.0.1:80": 1, "10.0.0.2:80": 1}
        await it.seconds()
        assert counted() == {"127.0.0.1:1": 3, "retired-1": 1, "10.0.0.2:80": 1}
        gone(1)
        await it.seconds()
        assert counted()["retired-1"] == 2, "it ended late"
        it.now += 600
        await it.seconds()
        assert counted() == {"127.0.0.1:1": 3, "retired-2": 3}
        assert told[1] == (
            [("instance", "a", "10.0.0.2:80"), ("instance", "a", "retired-1")], "retired-2",
        )  # fmt: skip
        before = counted()
        for instances, name in told:
            it.counters.retire(instances, name)
            await it.seconds()
            assert counted() == before, "folding moves nothing that is shown"
        gone(1)
        await it.seconds()
        assert sum(counted().values()) == 7


async def test_r70_routes_that_are_long_gone_are_counted_together() -> None:
    async with world() as it:
        told: list[Any] = []
        it.workers.retire = lambda gone, name: told.append((gone, name))  # type: ignore[method-assign]

        def counted() -> dict[tuple[str, ...], float]:
            series = it.totals.of("headgate_requests_total")
            return {labels: sum(tally.counts.values()) for labels, tally in series.items()}

        def ask(route: str, backend: str = "a") -> None:
            it.counters.cell(route, backend, "127.0.0.1:1").count(b"GET", 200, "")

        ask("r")
        ask("old")
        ask("old", "gone")
        await it.seconds()
        it.now += 598
        await it.seconds()
        assert ("old", "a", "127.0.0.1:1") in counted()
        await it.seconds()
        many = "(retired-1)"
        assert counted() == {
            ("r", "a", "127.0.0.1:1"): 1,
            (many, "a", "127.0.0.1:1"): 1,
            (many, many, "retired-1"): 1,
        }
        for gone, name in told:
            it.counters.retire(gone, name)
        ask("older")
        ask("r")
        await it.seconds()
        it.now += 600
        await it.seconds()
        many = "(retired-2)"
        assert counted() == {
            ("r", "a", "127.0.0.1:1"): 2,
            (many, "a", "127.0.0.1:1"): 2,
            (many, "(retired-1)", "retired-1"): 1,
        }
        assert told[1] == ([("route", "(retired-1)"), ("route", "older")], "retired-2")


async def test_what_consumers_did_is_read_every_ten_seconds_or_when_somebody_asks() -> None:
    async with world() as it:
        keys = {"acme": {"hashes": [hash_of("secret")]}}
        it.table = Table.from_document({**it.table.document, "keys": keys}, 8)

        def ask(count: int) -> None:
            cell = it.counters.cell("r", "a", "127.0.0.1:1")
            acme = it.counters.consumed("acme", "r")
            for _ in range(count):
                cell.count(b"GET", 200, "")
                acme.count(200)

        def seen() -> float:
            series = it.totals.of("headgate_consumer_requests_total")
            return sum(sum(tally.counts.values()) for tally in series.values())

        ask(1)
        await it.seconds()
        assert seen() == 1
        ask(20)
        await it.seconds(9)
        assert seen() == 1
        assert it.totals.of("headgate_requests_total")["r", "a", "127.0.0.1:1"].counts == {
            ("GET", "200", ""): 21
        }
        await it.seconds()
        assert seen() == 21
        ask(30)
        it.now += 5
        used = (await it.view.keys_used())["acme"]
        assert used["requests"] == 51
        assert used["requests_per_s"] == 3.333  # 50 in 15 seconds
        ask(1)
        await it.view.metrics("", {}, {})
        assert seen() == 52


async def test_consumers_that_are_long_gone_are_counted_together() -> None:
    async with world() as it:
        told: list[Any] = []
        it.workers.retire = lambda gone, name: told.append((gone, name))  # type: ignore[method-assign]
        it.counters.consumed("left", "r").count(200)
        await it.seconds()
        it.now += 599
        await it.seconds()
        assert told == [([("consumer", "left")], "retired-1")]
        assert list(it.totals.of("headgate_consumer_requests_total")) == [("(retired-1)", "r")]


async def test_a_worker_that_counts_routes_together_serves_requests_in_between() -> None:
    sent: list[Any] = []

    class Noted(Workers):
        def send_all(self, message: Any) -> None:
            sent.append(message)

    workers = Noted({}, replace=lambda _: None)
    gone = [("route", f"r{number}") for number in range(50)]
    workers.retire(gone, "retired-1")
    assert [each for message in sent for each in message["gone"]] == gone
    assert [message["more"] for message in sent] == [True, True, False]


async def test_only_requests_that_met_a_route_are_traffic() -> None:
    async with world() as it:
        it.answer(5)
        it.answer(2, 502, "connect_failed")
        it.counters.cell("", "", "").count(b"GET", 200, "")
        await it.seconds()
        assert it.view.counted() == (7, 2)


async def test_looks_that_come_together_are_one() -> None:
    looks = 0
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def look() -> None:
        nonlocal looks
        looks += 1
        begun.set()
        await go_on.wait()

    together = Coalesced("a look", look)
    first = asyncio.create_task(together())
    await begun.wait()
    later = [asyncio.create_task(together()) for _ in range(10)]
    await asyncio.sleep(0)
    assert looks == 1
    go_on.set()
    await asyncio.gather(first, *later)
    assert looks == 2, "what began before they asked may be older than their asking"


def test_what_one_control_process_knew_the_next_one_knows(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    first = Memory(path)
    first.health = {"a": {"127.0.0.1:1": HealthState("up").told()}}
    first.endpoints = {"a": {"http://m:1": ["10.0.0.1"]}}
    first.keep()
    second = Memory(path)
    assert second.health == first.health
    assert second.endpoints == first.endpoints


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"health": null}'])
def test_a_memory_that_cannot_be_read_is_no_memory(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "memory.json").write_bytes(content)
    assert Memory(tmp_path / "memory.json").health == {}


def test_a_memory_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "gone" / "memory.json")
    memory.health = {"a": {"127.0.0.1:1": HealthState("up").told()}}
    memory.keep()
    assert memory.health
    assert not (tmp_path / "gone").exists()


async def test_r34_why_a_name_has_no_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked nothing, so no probe says it: its instance would be starting for ever."""

    def getaddrinfo(*_asked: Any, **_more: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    why = "has no address: [Errno -2] Name or service not known"
    async with world() as it:
        backends = {"a": {"instances": ["http://nowhere.test:80"]}}
        routes = {"r": {"match": "/", "split": {"a": 1}}}
        it.table = Table.from_document({"backends": backends, "routes": routes}, 8)
        it.resolver.sync(it.table)
        await it.resolver.resolved(60)
        status = await it.view.status()
        assert status["backends"]["a"]["instances"]["nowhere.test:80"]["cause"] == why
        told = [each["text"] for each in alerts(status)]
        assert f"instance nowhere.test:80 of a {why}" in told
        assert it.view.why_unwell("a") == f"nowhere.test:80 {why}"
        await it.resolver.close()
