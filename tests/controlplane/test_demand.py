"""The control process's part of models that start on demand: where they are, and who uses them."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.controlplane.events import Events
from gateway.controlplane.watch.demand import Demand
from gateway.controlplane.watch.fleet_places import FleetPlaces
from gateway.controlplane.watch.fleet_view import FleetView
from gateway.controlplane.watch.tallies import Tally
from gateway.core.faults import Conflict
from gateway.core.table import Table
from tests.harness.gateway import eventually

ASLEEP = {"serve": {"model": "m:A", "start": "demand"}, "placed": ["fleet://a"]}
TABLE = Table.from_document(
    {
        "backends": {"a": ASLEEP, "b": {"instances": ["http://127.0.0.1:1"]}},
        "routes": {"r": {"match": "/", "split": {"a": 1, "b": 1}}},
    },
    1,
)


def told(state: str, addresses: Sequence[str] | None = (), **more: Any) -> Any:
    served = {
        "state": state, "error": None, "waits": None, "starts": 3, "load_s": 2.5,
        "addresses": addresses, "processes": [], **more,
    }  # fmt: skip
    return {"type": "fleet", "revision": 1, "backends": {"a": served}, "devices": []}


class House:
    """Workers that have requests where they are told to, and a fleet that hears what it is told."""

    def __init__(self) -> None:
        self.endpoints: dict[str, dict[str, list[str]]] = {}
        self.steps: list[str] = []
        self.flying: dict[str, dict[str, int]] = {}
        self.settled: list[list[str]] = []
        self.looks = 0
        self.all_say = True
        self.places = FleetPlaces(
            self,
            known=lambda: self.endpoints,
            set_fleet=self.set_fleet,
            expect=lambda name, address: self.steps.append(f"expect {address}"),
            learn=self.learn,
            in_flight=lambda: self.flying,
            tell=lambda message: self.settled.append(list(message["addresses"])),
        )

    async def look(self, *, reports: bool = True) -> bool:
        self.looks += 1
        await asyncio.sleep(0)
        return self.all_say

    def tell_health(self, backends: Any) -> None:
        self.steps.append("health")

    def set_fleet(self, name: str, url: str, addresses: Sequence[str]) -> None:
        self.steps.append(f"at {' '.join(addresses)}")
        self.endpoints = {name: {url: list(addresses)}}

    async def learn(self, name: str, address: str) -> None:
        self.steps.append(f"learn {address}")

    def move(self, *addresses: str) -> asyncio.Task[None]:
        message: Any = {"type": "endpoints", "backend": "a", "addresses": addresses}
        return asyncio.create_task(self.places.place(message))


async def test_new_ones_are_known_to_be_well_before_those_that_go_lose_their_place() -> None:
    house = House()
    await house.move("h:1")
    assert house.steps == ["expect h:1", "learn h:1", "at h:1", "health"]
    house.steps.clear()
    await house.move("h:2")
    assert house.steps == ["expect h:2", "learn h:2", "at h:1 h:2", "health", "at h:2", "health"]
    assert house.settled == [["h:1"], ["h:2"]]


async def test_the_fleet_hears_of_it_when_no_worker_has_a_request_there() -> None:
    house = House()
    await house.move("h:1")
    house.flying = {"a": {"h:1": 1}}
    going = house.move()
    await eventually(lambda: house.looks > 4)
    assert house.settled == [["h:1"]]
    house.flying = {}
    await going
    assert house.settled == [["h:1"], []]


async def test_a_worker_that_does_not_say_what_it_has_may_have_a_request_there() -> None:
    house = House()
    await house.move("h:1")
    house.all_say = False
    going, looks = house.move(), house.looks
    await eventually(lambda: house.looks > looks + 4)
    assert house.settled == [["h:1"]]
    house.all_say = True
    await going
    assert house.settled == [["h:1"], []]


async def test_a_later_move_takes_the_place_of_one_that_waits() -> None:
    house = House()
    await house.move("h:1")
    house.flying = {"a": {"h:1": 1}}
    going = house.move()
    await eventually(lambda: house.endpoints == {"a": {"fleet://a": []}})
    await house.move("h:1")
    await going
    assert house.settled == [["h:1"], ["h:1"]]
    assert house.endpoints == {"a": {"fleet://a": ["h:1"]}}


async def test_a_move_that_is_asked_for_twice_is_answered_no_sooner() -> None:
    house = House()
    await house.move("h:1")
    house.flying = {"a": {"h:1": 1}}
    first = house.move()
    await eventually(lambda: house.endpoints == {"a": {"fleet://a": []}})
    second, looks = house.move(), house.looks
    await eventually(lambda: house.looks > looks + 4)
    assert house.settled == [["h:1"]]
    house.flying = {}
    await asyncio.gather(first, second)
    assert house.settled == [["h:1"], []]


async def test_a_report_that_is_older_than_the_last_move_moves_nobody() -> None:
    house = House()
    await house.move("h:1")
    await house.move()
    house.places.take(told("unloading", ["h:1"]))
    assert house.endpoints == {"a": {"fleet://a": []}}
    # It was something else meanwhile: what the fleet has then is news.
    house.places.take(told("ready", None))
    house.places.take(told("ready", ["h:2"]))
    assert house.endpoints == {"a": {"fleet://a": ["h:2"]}}


async def test_who_comes_to_control_learns_from_what_the_fleet_has() -> None:
    house = House()
    house.places.take(told("ready", ["h:1"]))
    assert house.endpoints == {"a": {"fleet://a": ["h:1"]}}
    house.places.take(told("ready", None))
    assert house.endpoints == {"a": {"fleet://a": ["h:1"]}}


class Watched:
    """Counters and loads as they are set, and what the fleet is told."""

    def __init__(self, load_within_s: float = 20.0) -> None:
        self.sent: list[Any] = []
        self.flying: dict[str, dict[str, int]] = {}
        self.queued: dict[str, int] = {}
        self.kept: list[str] = []
        self.tally = Tally()
        self.view = FleetView(Events(), self.sent.append)
        self.demand = Demand(
            lambda: TABLE,
            self,
            lambda: {("r", "a", "h:1"): self.tally},
            lambda: self.kept,
            self.view,
            self.sent.append,
            load_within_s=load_within_s,
        )

    def in_flight(self) -> dict[str, dict[str, int]]:
        return self.flying

    def queue_depth(self) -> dict[str, int]:
        return self.queued

    def use(self, now: float) -> Any:
        self.demand.beat(now)
        assert self.sent[-1]["backends"].keys() == {"a"}, "b is not started on demand"
        return self.sent[-1]["backends"]["a"]


def test_a_model_is_used_by_predictions_and_not_by_who_looks() -> None:
    it = Watched()
    assert it.use(10.0) == {"busy": False, "idle_s": 0.0, "kept": False}
    assert it.use(15.0)["idle_s"] == 5.0
    it.tally.counts["POST", "200", ""] = 1
    assert it.use(16.0)["idle_s"] == 0.0
    it.tally.counts["GET", "200", ""] = 7
    assert it.use(18.0)["idle_s"] == 2.0
    it.flying = {"a": {"h:1": 1}}
    assert it.use(20.0) == {"busy": True, "idle_s": 0.0, "kept": False}
    it.flying, it.queued, it.kept = {}, {"a": 1}, ["a"]
    assert it.use(22.0) == {"busy": True, "idle_s": 0.0, "kept": True}


async def test_what_is_needed_is_loaded_first_and_kept_meanwhile() -> None:
    it = Watched()
    it.view.take(told("asleep"))
    waiting = asyncio.create_task(it.demand.awake("a"))
    await eventually(lambda: {"type": "wake", "backend": "a"} in it.sent)
    assert it.use(1.0)["kept"]
    it.view.take(told("starting"))
    it.view.take(told("ready", ["h:1"]))
    await waiting
    assert not it.use(2.0)["kept"]
    await it.demand.awake("b")


async def test_who_needs_one_that_could_not_be_loaded_has_it_tried_again() -> None:
    it = Watched()
    for outcome in ("failed", "ready"):
        it.view.take(told("failed", error="no weights"))
        it.sent.clear()
        waiting = asyncio.create_task(it.demand.awake("a"))
        await eventually(lambda: {"type": "wake", "backend": "a"} in it.sent)
        assert it.sent[0] == {"type": "sleep", "backend": "a"}
        it.view.take(told("starting"))
        if outcome == "ready":
            it.view.take(told("ready", ["h:1"]))
            await waiting
        else:
            it.view.take(told("failed", error="none in the new place"))
            with pytest.raises(Conflict, match="'a' cannot be loaded: none in the new place"):
                await waiting


def test_what_is_kept_is_loaded_again_where_the_fleet_began_anew() -> None:
    it = Watched()
    it.view.take(told("asleep"))
    it.use(1.0)
    assert [message["type"] for message in it.sent] == ["use"], "nobody needs it"
    it.kept = ["a", "b"]
    it.use(2.0)
    assert it.sent[1] == {"type": "wake", "backend": "a"}
    it.view.take(told("failed", error="no weights"))
    it.use(3.0)
    assert [message["type"] for message in it.sent] == ["use", "wake", "use", "use"]


async def test_who_waits_too_long_for_a_model_is_told_to_ask_again() -> None:
    it = Watched(load_within_s=0.01)
    it.view.take(told("starting"))
    with pytest.raises(Conflict, match=r"still being loaded after 0\.01 s: ask again"):
        await it.demand.awake("a")
    assert not it.use(1.0)["kept"]


async def test_what_the_fleet_tells_is_counted_shown_and_told_to_workers() -> None:
    events = Events()
    view = FleetView(events, lambda _: None)
    view.take(told("asleep"))
    assert view.asleep() == {"a"}
    assert view.demand == {"a": (2.5, False)}
    assert view.counted() == {"headgate_instance_starts_total": {("a",): 3}}
    assert view.gauges() == {"headgate_instance_load_seconds": {("a",): 2.5}}
    view.take(told("failed", error="no weights"))
    assert view.asleep() == frozenset()
    assert view.demand == {"a": (2.5, True)}
    assert view.status()["fleet"]["backends"]["a"]["error"] == "no weights"
