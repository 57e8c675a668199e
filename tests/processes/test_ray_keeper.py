"""What the keeper of a cluster's instances does with what Ray says, with Ray's part scripted."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gateway.core.cluster import Needs
from gateway.up.on_ray.keeper import Keeper
from gateway.up.on_ray.words import Room, Seen, Told
from gateway.up.plan import InstancePlan, Site
from tests.harness.gateway import eventually

SPEC = {"serve": {"model": "m:M", "replicas": 2}}


def ready(port: int) -> Seen:
    told: Told = {
        "address": f"10.0.0.4:{port}", "host": "10.0.0.4", "gpus": [], "since": 0.0, "pid": port,
        "state": "ready", "served": True, "restarts": 0, "error": None, "number": 0, "lines": [],
    }  # fmt: skip
    return Seen("there", told)


class Actors:
    def __init__(self) -> None:
        self.all: dict[str, Seen] = {}
        self.created: list[str] = []
        self.needs = Needs()
        self.note = ""

    def begun(self) -> list[str]:
        return list(self.all)

    def ended(self) -> str:
        return self.note

    def create(self, name: str, plan: InstancePlan, needs: Needs) -> None:
        self.needs = needs
        self.created.append(name)
        self.all[name] = ready(20_000 + len(self.created))

    def look(self, wanted: Iterable[str]) -> dict[str, Seen]:
        return {name: self.all.get(name, Seen("waiting")) for name in wanted}

    def stop(self, name: str, within_s: float) -> None:
        self.all.pop(name, None)

    def forget(self, name: str) -> None:
        pass


def keeper(actors: Actors, said: list[str]) -> Keeper:
    site = Site(Path("/f/headgate.yaml"), Path("/f"), 1, {})
    return Keeper(actors, lambda: Room({}, {}, ()), site, said.append)


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
