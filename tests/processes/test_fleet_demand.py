"""A fleet of models that start on demand, with a clock and a control process that are only said."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.controlplane.events import utc_now
from gateway.core.placement import in_force
from gateway.up.device_table import DeviceTable

from .test_fleet import Running
from .test_fleet_devices import GIB, table
from .waiting import alive, until


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def demand(model: str = "one:Model", **serve: Any) -> dict[str, Any]:
    return {"serve": {"model": model, "devices": ["cpu"], "start": "demand", **serve}}


class Asked(Running):
    """A fleet that is told of requests."""

    clock: Clock

    def wake(self, name: str) -> None:
        self.fleet.take({"type": "wake", "backend": name})

    def use(self, busy: str = "", kept: str = "", idle_s: float = 0.0) -> None:
        """A second's look at who is used."""
        self.fleet.take(
            {
                "type": "use",
                "backends": {
                    name: {"busy": name in busy, "idle_s": idle_s, "kept": name in kept}
                    for name in self.backends
                },
            }
        )

    async def until(self, name: str, state: str) -> dict[str, Any]:
        await until(lambda: self.state(name) == state)
        told: dict[str, Any] = self.told[-1]["backends"][name]
        return told


@contextlib.asynccontextmanager
async def asked(devices: DeviceTable | None = None, **specs: Any) -> AsyncIterator[Asked]:
    clock = Clock()
    it = Asked(table=devices or table(), clock=clock)
    it.clock = clock
    try:
        await it.start()
        it.edit(**specs)
        yield it
    finally:
        await it.stop()


async def test_it_sleeps_until_it_is_asked_for_and_when_nobody_asks() -> None:
    async with asked(a=demand(idle="10m")) as it:
        assert in_force(it.backends["a"]) == ["fleet://a"]
        assert (it.state("a"), it.pids()) == ("asleep", [])
        for _ in range(3):
            it.wake("a")
        told = await it.until("a", "ready")
        assert (told["starts"], len(told["addresses"])) == (1, 1)
        it.clock.now += 599
        it.use()
        assert it.state("a") == "ready"
        it.clock.now += 3600
        it.use(busy="a")
        it.use(kept="a")
        assert it.state("a") == "ready"
        it.clock.now += 599
        it.use(idle_s=599.0)
        assert it.state("a") == "ready"
        (pid,) = it.pids()
        it.clock.now += 2
        it.use(idle_s=601.0)
        assert it.state("a") == "unloading"
        await it.until("a", "asleep")
        await until(lambda: not alive(pid))
        it.wake("a")
        assert (await it.until("a", "ready"))["starts"] == 2


async def test_it_is_unloaded_when_somebody_says_so_and_loaded_by_the_next_who_asks() -> None:
    async with asked(a=demand()) as it:
        it.fleet.take({"type": "sleep", "backend": "a"})
        assert it.state("a") == "asleep", "it is no news to who sleeps"
        it.wake("a")
        told = await it.until("a", "ready")
        (process,) = told["processes"]
        assert process["started"] <= utc_now()
        (pid,) = it.pids()
        it.fleet.take({"type": "sleep", "backend": "a"})
        await it.until("a", "asleep")
        await until(lambda: not alive(pid))
        it.wake("a")
        assert (await it.until("a", "ready"))["starts"] == 2
        it.fleet.take({"type": "sleep", "backend": "nobody"})
        assert it.state("a") == "ready"


async def test_who_asks_while_it_is_unloaded_keeps_it_or_waits_for_the_next_start() -> None:
    async with asked(a=demand("stubborn:Model", idle="10m")) as it:
        it.wake("a")
        await it.until("a", "ready")
        pids = it.pids()
        it.clock.now += 601
        it.use(idle_s=601.0)  # the workers do not know yet
        it.wake("a")
        await it.until("a", "ready")
        assert it.pids() == pids
        it.clock.now += 601
        it.use(idle_s=601.0)
        await until(lambda: it.told[-1]["backends"]["a"]["processes"][0]["state"] == "stopping")
        it.wake("a")
        told = await it.until("a", "ready")
        assert told["starts"] == 2
        assert set(it.pids()) > set(pids), "the first one takes its time to end"


async def test_idle_makes_no_difference_without_it_and_a_boot_model_never_sleeps() -> None:
    async with asked(a=demand(), b={"serve": {"model": "one:Model", "devices": ["cpu"]}}) as it:
        it.wake("a")
        await it.until("a", "ready")
        await it.until("b", "ready")
        it.clock.now += 1e6
        it.use(idle_s=1e6)
        assert (it.state("a"), it.state("b")) == ("ready", "ready")
        # Live: from now on it idles; and from now on it is one that starts at boot.
        it.edit(a=demand(idle="1m"))
        it.use(idle_s=1e6)
        await it.until("a", "asleep")
        it.edit(a={"serve": {"model": "one:Model", "devices": ["cpu"]}})
        await it.until("a", "ready")
        it.edit(a=demand(idle="1m"))
        assert it.state("a") == "ready"
        it.clock.now += 61
        it.use(idle_s=61.0)
        await it.until("a", "asleep")


async def test_the_least_recently_used_goes_for_who_is_asked_for() -> None:
    specs = {
        name: demand(memory=f"{size}GiB", devices=["auto"])
        for name, size in (("a", 10), ("b", 10), ("c", 12))
    }
    async with asked(table(24), **specs) as it:
        for name in "ab":
            it.wake(name)
            await it.until(name, "ready")
        it.clock.now += 5
        it.fleet.take(
            {
                "type": "use",
                "backends": {
                    "a": {"busy": False, "idle_s": 1.0, "kept": False},
                    "b": {"busy": False, "idle_s": 3.0, "kept": False},
                },
            }
        )
        it.wake("c")
        assert it.told[-1]["backends"]["c"]["waits"] in (
            "b make room", "those that have it go"
        )  # fmt: skip
        await it.until("c", "ready")
        assert (it.state("a"), it.state("b")) == ("ready", "asleep")
        # All are in use: whoever had its turn goes, and asks for the next one.
        it.use(busy="ac")
        it.wake("b")
        it.use(busy="acb")
        assert (it.state("a"), it.state("c")) == ("ready", "ready")
        it.clock.now += 11
        it.use(busy="acb")
        await it.until("b", "ready")
        assert it.state("a") == "asleep", "it was loaded first"
        held = [(name, size // GIB) for name, size in it.told[-1]["devices"][0]["held"]]
        assert sorted(held) == [("b", 10), ("c", 12)]


async def test_a_boot_model_that_needs_the_room_gets_it() -> None:
    async with asked(table(24), a=demand(memory="20GiB", devices=["auto"])) as it:
        it.wake("a")
        await it.until("a", "ready")
        it.use()
        it.edit(b={"serve": {"model": "one:Model", "devices": ["auto"], "memory": "8GiB"}})
        await it.until("b", "ready")
        assert it.state("a") == "asleep"
        it.wake("a")
        assert it.state("a") == "failed"
        assert "b would have to go" in it.told[-1]["backends"]["a"]["error"]
        it.edit(b=None)
        await it.until("a", "ready")


async def test_a_model_that_could_be_loaded_before_is_tried_again_a_while_later() -> None:
    async with asked(a=demand(idle="1m")) as it:
        it.wake("a")
        await it.until("a", "ready")
        it.clock.now += 61
        it.use(idle_s=61.0)
        await it.until("a", "asleep")
        it.edit(a=demand("missing:Model", idle="1m"))
        it.wake("a")
        await it.until("a", "failed")
        it.clock.now += 29
        it.use()
        assert it.state("a") == "failed"
        it.clock.now += 2
        it.use()
        await it.until("a", "asleep")


async def test_one_that_never_could_be_loaded_is_not_tried_for_every_request() -> None:
    async with asked(a=demand("missing:Model")) as it:
        it.wake("a")
        told = await it.until("a", "failed")
        assert "no module named 'missing'" in told["error"]
        it.clock.now += 3600
        it.wake("a")
        it.use()
        await asyncio.sleep(0)
        assert (it.state("a"), it.told[-1]["backends"]["a"]["starts"]) == ("failed", 1)


async def test_one_that_could_not_be_loaded_is_tried_again_once_it_was_stopped() -> None:
    async with asked(a=demand("missing:Model")) as it:
        it.wake("a")
        await it.until("a", "failed")
        it.fleet.take({"type": "sleep", "backend": "a"})
        told = await it.until("a", "asleep")
        assert (told["error"], told["processes"]) == (None, [])
        it.wake("a")
        await until(lambda: it.told[-1]["backends"]["a"]["starts"] == 2)
        await it.until("a", "failed")


@pytest.mark.parametrize("edited", [{"replicas": 2}, {"idle": "1m"}, {"args": {"x": 1}}])
async def test_one_that_could_not_be_loaded_is_tried_again_after_an_edit_of_it(
    edited: dict[str, Any],
) -> None:
    async with asked(a=demand("missing:Model"), b=demand()) as it:
        it.wake("a")
        await it.until("a", "failed")
        it.edit(b=demand(idle="1m"))
        assert it.state("a") == "failed", "that was another one"
        it.edit(a=demand("missing:Model", **edited))
        await it.until("a", "asleep")
        it.wake("a")
        await until(lambda: it.told[-1]["backends"]["a"]["starts"] > 1)
        await it.until("a", "failed")


async def test_a_fleet_that_is_written_tells_its_addresses_beside_the_document() -> None:
    spec = {"instances": ["fleet://a"], "serve": {"model": "one:Model", "devices": ["cpu"]}}
    async with asked(a=spec) as it:
        told = await it.until("a", "ready")
        (address,) = told["addresses"]
        assert in_force(it.backends["a"]) == ["fleet://a"]
        moved = {**spec, "serve": {**spec["serve"], "model": "two:Model"}}
        it.edit(a=moved)
        await until(lambda: it.told[-1]["backends"]["a"]["addresses"] not in ([], [address]))
        await it.until("a", "ready")
        await until(lambda: len(it.pids()) == 1)
        assert it.backends["a"] == moved
