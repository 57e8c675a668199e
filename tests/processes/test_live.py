"""What is shown of a running gateway: shares, rates, counters, and what is remembered."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.controlplane.counters import fold, nothing
from gateway.controlplane.events import Events
from gateway.controlplane.live import Live, shares
from gateway.controlplane.memory import Memory
from gateway.controlplane.prober import Prober, Target
from gateway.controlplane.rates import Sample, Totals, Window, quantiles, sample
from gateway.controlplane.resolver import Resolver
from gateway.controlplane.workers import Workers
from gateway.core.table import Route, Table

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
    """Live with a prober whose instances answer as `ready` says."""

    def __init__(self) -> None:
        self.table = table()
        self.ready = {1: True, 2: True, 3: True, 4: True}
        self.events = Events()
        self.heard = self.events.subscribe()
        self.workers = Workers({}, replace=lambda _: None)
        self.resolver = Resolver(lambda _: None)
        self.prober = Prober(
            lambda words, changes: self.live.note_health(words, changes), probe=self.probe
        )
        self.live = Live(lambda: self.table, self.workers, self.prober, self.resolver, self.events)

    async def probe(self, target: Target) -> Any:
        return "ready" if self.ready[target.port] else "unreachable"

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
        status = await it.live.status()
        assert status["revision"] == 7
        assert status["routes"]["r"]["weights"] == {"a": 3, "b": 1}
        assert status["routes"]["r"]["effective"] == {"a": 0.75, "b": 0.25}
        one = status["backends"]["a"]["instances"]["127.0.0.1:1"]
        assert one["health"] == "up"
        assert one["state"] == ""
        assert one["in_flight"] == 0


async def test_r33_a_backend_that_goes_down_moves_its_share_and_an_event_says_so() -> None:
    async with world() as it:
        it.live.announce_shares()
        it.ready[3] = False
        health = await it.events_until("health")
        while health["to"] != "down":
            health = await it.events_until("health")
        assert (health["instance"], health["from"]) == ("127.0.0.1:3", "up")
        moved = await it.events_until("effective")
        assert moved["effective"] == {"a": 1.0, "b": 0.0}
        assert it.live.effective("r") == {"a": 1.0, "b": 0.0}
        assert it.live.effective("no such route") == {}


async def test_an_instance_that_is_out_by_command_is_not_up() -> None:
    async with world() as it:
        it.table = table(p1="disabled")
        assert it.live.up()["a"] == {"127.0.0.1:1": False, "127.0.0.1:2": True}
        assert it.live.available() == {"a", "b", "c"}


async def test_an_ejection_is_an_event_and_is_shown() -> None:
    async with world() as it:
        it.live.note_ejections([["a", "127.0.0.1:1", 5.0, 1]])
        event = await it.events_until("ejection")
        assert event["instance"] == "127.0.0.1:1"
        assert event["ejected_s"] == 5.0


def counted(requests: int, errors: int = 0, **more: Any) -> dict[str, Any]:
    series = [(["r", "a", "i", "GET", "200", ""], requests)]
    if errors:
        series.append((["r", "a", "i", "GET", "503", "no_backend"], errors))
    histogram = {"bounds": [0.1, 1.0], "series": [(["r", "a"], [requests, 0, errors], 1.5)]}
    return {**nothing(), "requests": series, "request_seconds": histogram, **more}


def test_counters_of_the_retired_are_added_and_gauges_are_not() -> None:
    last = counted(5, 1, in_flight=[(["a", "i"], 3)], retries_denied=2)
    folded = fold(fold(nothing(), last), last)
    assert folded["requests"] == [
        (["r", "a", "i", "GET", "200", ""], 10),
        (["r", "a", "i", "GET", "503", "no_backend"], 2),
    ]
    assert folded["request_seconds"]["series"] == [(["r", "a"], [10, 0, 2], 3.0)]
    assert folded["retries_denied"] == 4
    assert folded["in_flight"] == []


def test_rates_are_those_of_the_last_seconds() -> None:
    window = Window()
    for second in range(30):
        metrics: Any = [counted(100 * second, second), nothing()]
        window.add(sample(metrics, float(second)))
    rates = window.of("backend", "a")
    assert rates["requests_per_s"] == pytest.approx(101)
    assert rates["errors_per_s"] == pytest.approx(1)
    assert rates["latency_ms"]["p50"] == pytest.approx(50, rel=0.02)
    assert window.of("route", "r") == rates
    assert window.of("route", "other")["requests_per_s"] == 0
    assert len(window.samples) <= 12


def test_a_counter_that_goes_back_is_no_negative_rate() -> None:
    window = Window()
    window.add(Sample(0.0, {("route", "r"): Totals(100, 0, ())}))
    window.add(Sample(1.0, {("route", "r"): Totals(10, 0, ())}))
    assert window.of("route", "r")["requests_per_s"] == 0


def test_quantiles_are_read_off_the_buckets() -> None:
    assert quantiles([0.1, 0.2], [0, 0, 0]) == {}
    found = quantiles([0.1, 0.2], [50, 50, 0])
    assert found["p50"] == pytest.approx(100)
    assert found["p99"] == pytest.approx(198)
    assert quantiles([0.1, 0.2], [0, 0, 10])["p50"] == pytest.approx(200)


def test_what_one_control_process_knew_the_next_one_knows(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    first = Memory(path)
    first.words = {"a": {"127.0.0.1:1": "up"}}
    first.endpoints = {"a": {"http://m:1": ["10.0.0.1"]}}
    first.retired = fold(nothing(), counted(5))  # type: ignore[arg-type]
    first.keep()
    second = Memory(path)
    assert second.words == first.words
    assert second.endpoints == first.endpoints
    assert second.retired["requests"][0][1] == 5


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"words": null}'])
def test_a_memory_that_cannot_be_read_is_no_memory(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "memory.json").write_bytes(content)
    assert Memory(tmp_path / "memory.json").words == {}


def test_a_memory_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "gone" / "memory.json")
    memory.words = {"a": {"127.0.0.1:1": "up"}}
    memory.keep()
    assert memory.words == {"a": {"127.0.0.1:1": "up"}}
    assert not (tmp_path / "gone").exists()
