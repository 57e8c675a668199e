"""What the keeper of a cluster's instances does with what Ray says, with Ray's part scripted."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gateway.cli.fleets import RAY_ENV
from gateway.core.cluster import Needs
from gateway.up.on_ray.follower import Follower
from gateway.up.on_ray.keeper import LOOK_EVERY_S, Keeper
from gateway.up.on_ray.words import Room, Seen, Told
from gateway.up.plan import InstancePlan, Site
from gateway.up.reach import AWAY_S, Reach
from gateway.wire.line import ForFleet
from tests.harness.gateway import eventually

SPEC = {"serve": {"model": "m:M", "replicas": 2}}


def ready(port: int) -> Seen:
    told: Told = {
        "address": f"10.0.0.4:{port}", "host": "10.0.0.4", "gpus": [], "since": 0.0, "pid": port,
        "state": "ready", "served": True, "leaves": False, "restarts": 0, "error": None,
        "number": 0, "lines": [],
    }  # fmt: skip
    return Seen("there", told)


class Actors:
    def __init__(self) -> None:
        self.all: dict[str, Seen] = {}
        self.created: list[str] = []
        self.needs = Needs()
        self.note = ""
        self.messages: list[ForFleet] = []
        self._lock = threading.Lock()

    def ask(self, message: ForFleet, of: str) -> None:
        self.messages.append(message)

    def asked(self) -> list[ForFleet]:
        asked, self.messages = self.messages, []
        return asked

    def begun(self) -> list[str]:
        return list(self.all)

    def ended(self) -> str:
        return self.note

    def create(self, name: str, plan: InstancePlan, needs: Needs) -> None:
        self.needs = needs
        with self._lock:  # some are created at once
            self.created.append(name)
            self.all[name] = ready(20_000 + len(self.created))

    def look(self, wanted: Iterable[str]) -> dict[str, Seen]:
        return {name: self.all.get(name, Seen("waiting")) for name in wanted}

    def stop(self, name: str, within_s: float) -> None:
        self.all.pop(name, None)

    def forget(self, name: str) -> None:
        pass


def keeper(
    actors: Actors,
    said: list[str],
    kind: type[Keeper] = Keeper,
    reached: Callable[[], None] = lambda: None,
) -> Keeper:
    site = Site(Path("/f/headgate.yaml"), Path("/f"), 1, {})
    return kind(actors, lambda: Room({}, {}, ()), site, said.append, reached=reached)


def table(**serve: Any) -> dict[str, Any]:
    """Backend `a`, with the fleet's places."""
    return {"a": {"serve": {**SPEC["serve"], **serve}, "placed": ["fleet://a"]}}


class Placing:
    """The control process of one gateway: lets requests follow at once."""

    def __init__(self, held: Keeper) -> None:
        self._held, self.last = held, list[str]()
        held.attach(self._hear)

    def _hear(self, message: Any) -> None:
        if message["type"] == "endpoints":
            self.last = sorted(message["addresses"])
            settled: ForFleet = {**message, "type": "settled"}
            asyncio.get_running_loop().call_soon(self._held.take, settled)


async def test_what_is_there_already_is_not_placed_again() -> None:
    actors = Actors()
    for starts in (2, 2):
        held = keeper(actors, [])
        placed = await held.start({"a": SPEC})
        assert len(actors.created) == starts
        assert placed == {"a": ["fleet://a", "http://10.0.0.4:20001", "http://10.0.0.4:20002"]}
        await held.stop(0, asyncio.Event())


async def test_one_that_ray_calls_away_loses_its_place_whatever_it_answers() -> None:
    actors, told = Actors(), list[Any]()
    held = keeper(actors, [])
    await held.start({"a": SPEC})
    held.attach(told.append)
    in_table = {**SPEC, "placed": ["fleet://a"]}
    held.take({"type": "serves", "revision": 1, "backends": {"a": in_table}})

    def places() -> list[list[str]]:
        return [each["addresses"] for each in told if each["type"] == "endpoints"]

    first, second = actors.created
    actors.all[first] = Seen("away")
    await eventually(lambda: places() == [["10.0.0.4:20002"]], what="one is left")
    held.take({"type": "settled", "backend": "a", "addresses": ["10.0.0.4:20002"]})
    actors.all[second] = Seen("away")
    await eventually(lambda: places()[-1] == [], what="none is left")
    held.take({"type": "settled", "backend": "a", "addresses": []})
    actors.all[first] = ready(20_009)  # on another host by now
    await eventually(lambda: places()[-1] == ["10.0.0.4:20009"], what="it is back")
    assert len(actors.created) == 2, "Ray starts it again, not we"
    await held.stop(0, asyncio.Event())


async def test_a_fleet_that_was_ended_is_not_placed_again_until_it_is_edited() -> None:
    actors, said = Actors(), list[str]()
    held = keeper(actors, said)
    await held.start({"a": SPEC})
    held.attach(lambda message: None)
    table = {"a": {**SPEC, "placed": ["fleet://a"]}}
    held.take({"type": "serves", "revision": 1, "backends": table})
    actors.note = "ended"
    actors.all.clear()
    await eventually(lambda: any("was ended" in line for line in said), what="it is said")
    held.take({"type": "serves", "revision": 2, "backends": table})
    assert len(actors.created) == 2
    edited = {"a": {"serve": {**SPEC["serve"], "replicas": 1}, "placed": ["fleet://a"]}}
    held.take({"type": "serves", "revision": 3, "backends": edited})
    await eventually(lambda: len(actors.created) == 3, what="one is placed")
    await held.stop(0, asyncio.Event())


async def test_a_further_gateway_follows_what_is_placed_and_places_and_ends_none() -> None:
    actors, said = Actors(), list[str]()
    follower = keeper(actors, said, Follower)
    assert await follower.start({"a": SPEC}) == {"a": ["fleet://a"]}, "it waits for nobody"
    here = Placing(follower)
    holder = keeper(actors, said)
    await holder.start({"a": SPEC})
    first = [f"10.0.0.4:{20_001 + n}" for n in range(2)]
    there = Placing(holder)
    for each in (follower, holder):
        each.take({"type": "serves", "revision": 1, "backends": table()})
    await eventually(lambda: here.last == first, what="it follows")

    # Another version, which the holder starts; the further one hears of the edit later.
    holder.take({"type": "serves", "revision": 2, "backends": table(workers=2)})
    second = [f"10.0.0.4:{20_003 + n}" for n in range(2)]
    await eventually(lambda: there.last == second, what="it is placed")
    follower.take({"type": "serves", "revision": 2, "backends": table(workers=2)})
    await eventually(lambda: here.last == second, what="it follows the edit")
    assert len(actors.created) == 4
    await eventually(lambda: len(actors.all) == 2, what="the holder has ended the old ones")

    # A restart is for whoever holds them.
    follower.take({"type": "restart", "backend": "a"})
    await eventually(lambda: len(actors.created) == 6, what="the holder starts other ones")
    third = [f"10.0.0.4:{20_005 + n}" for n in range(2)]
    await eventually(lambda: here.last == third, what="it follows the restart")

    # The holder is gone: what is there serves on, and nothing is placed or ended.
    await holder.stop(0, asyncio.Event())
    follower.take({"type": "serves", "revision": 3, "backends": table(workers=2, replicas=1)})
    await eventually(lambda: here.last == third[:1], what="one is enough")
    assert len(actors.all) == 2
    await follower.stop(0, asyncio.Event())


async def test_one_that_is_about_to_be_ended_gets_no_more_requests_from_any_gateway() -> None:
    actors = Actors()
    holder, follower = keeper(actors, []), keeper(actors, [], Follower)
    await holder.start({"a": SPEC})
    await follower.start({"a": SPEC})
    here = Placing(follower)
    follower.take({"type": "serves", "revision": 1, "backends": table()})
    first, second = actors.created
    told = actors.all[first].told
    assert told is not None
    actors.all[first] = Seen("there", {**told, "leaves": True})
    third = ["10.0.0.4:20002", "10.0.0.4:20003"]  # the holder starts another one in its place
    await eventually(lambda: here.last == third)
    assert {first, second} < set(actors.all), "it may finish what it has"
    for each in (holder, follower):
        await each.stop(0, asyncio.Event())


def test_the_waits_until_a_silent_host_is_noticed_are_four_seconds_at_most() -> None:
    lines = [line.split("=", 1) for line in RAY_ENV.splitlines() if "=" in line]
    said = {name.removeprefix("RAY_health_check_"): value for name, value in lines}
    one_s = (int(said["period_ms"]) + int(said["timeout_ms"])) / 1000
    look_s = 2 * LOOK_EVERY_S  # between two looks, and for those that do not answer
    assert int(said["failure_threshold"]) * one_s + look_s <= 4.0


def test_a_cluster_is_away_once_it_has_not_answered_for_long() -> None:
    reach = Reach(100.0)
    assert reach.away_since(100.0 + AWAY_S - 0.1) is None, "a busy one takes its time"
    assert reach.away_since(100.0 + AWAY_S) == 100.0
    assert reach.away_since(1000.0) == 100.0, "it is the same silence"
    reach.note(1000.0)
    assert reach.away_since(1001.0) is None


async def test_nothing_is_heard_of_a_cluster_while_its_head_does_not_answer() -> None:
    class Silent(Actors):
        """Its head is away at first: who asks waits."""

        def __init__(self) -> None:
            super().__init__()
            self.is_back = threading.Event()

        def asked(self) -> list[ForFleet]:
            self.is_back.wait(60)
            return super().asked()

    actors, heard = Silent(), list[str]()
    held = keeper(actors, [], reached=lambda: heard.append("reached"))
    starting = asyncio.create_task(held.start({"a": SPEC}))
    await eventually(lambda: actors.created)
    assert not heard
    actors.is_back.set()
    await starting
    await eventually(lambda: heard)
    await held.stop(0, asyncio.Event())


async def test_a_control_process_that_comes_anew_is_told_all_there_is() -> None:
    actors, told = Actors(), list[Any]()
    held = keeper(actors, [])
    await held.start({"a": SPEC})
    held.attach(told.append)
    for _ in range(2):
        told.clear()
        held.take({"type": "serves", "revision": 1, "backends": table()})
        assert "fleet" in [each["type"] for each in told]
    await held.stop(0, asyncio.Event())


async def test_an_edit_of_how_many_there_are_tries_again_what_could_not_be_started() -> None:
    class Short(Actors):
        def create(self, name: str, plan: InstancePlan, needs: Needs) -> None:
            super().create(name, plan, needs)
            if len(self.created) == 3 and (told := self.all[name].told) is not None:
                fails: Told = {**told, "state": "failed", "served": False, "error": "no memory"}
                self.all[name] = Seen("there", fails)

    actors, told = Short(), list[Any]()
    held = keeper(actors, [])
    await held.start({"a": SPEC})
    held.attach(told.append)
    held.take({"type": "serves", "revision": 1, "backends": table()})
    held.take({"type": "serves", "revision": 2, "backends": table(replicas=3)})
    await eventually(lambda: held.error("a") == "no memory")
    held.take({"type": "serves", "revision": 3, "backends": table(replicas=3)})
    assert held.error("a") == "no memory"
    held.take({"type": "serves", "revision": 4, "backends": table(replicas=4)})
    await eventually(lambda: len(actors.created) == 5)
    assert held.error("a") is None
    await held.stop(0, asyncio.Event())


async def test_who_takes_over_amid_a_new_version_leaves_the_old_one_until_that_is_ready() -> None:
    class Slow(Actors):
        looks = 0

        def create(self, name: str, plan: InstancePlan, needs: Needs) -> None:
            super().create(name, plan, needs)
            if len(self.created) > 2:
                self.all[name] = Seen("waiting")

        def look(self, wanted: Iterable[str]) -> dict[str, Seen]:
            self.looks += 1
            return super().look(wanted)

    actors, told = Slow(), list[Any]()
    before = keeper(actors, [])
    await before.start({"a": SPEC})
    await before.stop(0, asyncio.Event())
    old = set(actors.all)

    def places() -> list[list[str]]:
        return [each["addresses"] for each in told if each["type"] == "endpoints"]

    held = keeper(actors, [])
    await held.start({"a": {"serve": {**SPEC["serve"], "model": "m:New"}}}, again=True)
    held.attach(told.append, again=True)
    new = {"a": {**table()["a"], "serve": {**SPEC["serve"], "model": "m:New"}}}
    held.take({"type": "serves", "revision": 2, "backends": new})
    await eventually(lambda: places() == [["10.0.0.4:20001", "10.0.0.4:20002"]])
    held.take({"type": "settled", "backend": "a", "addresses": places()[0]})
    await eventually(lambda: len(actors.created) == 3)
    looks = actors.looks
    await eventually(lambda: actors.looks > looks + 2)
    assert old < set(actors.all)
    actors.all[actors.created[2]] = ready(20_003)
    await eventually(lambda: "10.0.0.4:20003" in places()[-1])
    assert len(places()[-1]) == 2
    assert old < set(actors.all), "none ends before requests have let go of it"
    held.take({"type": "settled", "backend": "a", "addresses": places()[-1]})
    await eventually(lambda: len(old & set(actors.all)) == 1)
    await held.stop(0, asyncio.Event())


async def test_who_takes_over_tells_what_moved_meanwhile() -> None:
    actors, told = Actors(), list[Any]()
    before = keeper(actors, [])
    await before.start({"a": SPEC})
    await before.stop(0, asyncio.Event())
    actors.all[actors.created[0]] = ready(20_009)
    held = keeper(actors, [])
    await held.start({"a": SPEC}, again=True)
    held.attach(told.append, again=True)
    moved = ["10.0.0.4:20009", "10.0.0.4:20002"]
    await eventually(lambda: [e["addresses"] for e in told if e["type"] == "endpoints"] == [moved])
    await held.stop(0, asyncio.Event())


async def test_a_model_that_starts_on_demand_stays_loaded_when_it_is_taken_over() -> None:
    spec = {"serve": {"model": "m:M", "start": "demand"}}
    actors = Actors()
    before = keeper(actors, [])
    await before.start({"a": spec})
    before.take({"type": "wake", "backend": "a"})
    await eventually(lambda: actors.all)
    await before.stop(0, asyncio.Event())
    held = keeper(actors, [])
    placed = await held.start({"a": spec})
    assert placed == {"a": ["fleet://a", "http://10.0.0.4:20001"]}
    await held.stop(0, asyncio.Event())


async def test_a_further_gateway_tells_what_moved_meanwhile_once_it_has_seen_all_of_it() -> None:
    actors, told = Actors(), list[Any]()
    holder = keeper(actors, [])
    await holder.start({"a": SPEC})
    follower = keeper(actors, [], Follower)
    await follower.start({"a": SPEC}, again=True)
    follower.attach(told.append, again=True)
    there = ["10.0.0.4:20001", "10.0.0.4:20002"]

    def are_told() -> bool:
        told_once = [sorted(e["addresses"]) for e in told if e["type"] == "endpoints"]
        return told_once == [there]

    await eventually(are_told)
    for each in (holder, follower):
        await each.stop(0, asyncio.Event())
