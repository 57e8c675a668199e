"""Instances are dealt out to the devices of a table that is only said."""

from collections.abc import Sequence

import pytest

from gateway.core.devices import CPU, Device
from gateway.up.device_table import DeviceTable
from gateway.up.fleet import StartError

from .test_fleet import Running, ready, running
from .waiting import until

GIB = 1 << 30


def table(*gpus: int, cpu: int = 64) -> DeviceTable:
    """GPUs of so many GiB each, of which nobody uses anything."""

    async def look() -> Sequence[Device]:
        return [Device(f"cuda:{n}", size * GIB) for n, size in enumerate(gpus)]

    return DeviceTable(look, lambda: cpu * GIB)


def devices(it: Running) -> dict[str, list[str]]:
    """Backend → the devices of its processes."""
    told = it.told[-1]["backends"]
    return {
        name: [d for p in each["processes"] for d in p["devices"]] for name, each in told.items()
    }


def serve(it: Running, name: str, model: str = "one:Model", **more: object) -> None:
    it.edit(**{name: {"serve": {"model": model, "devices": ["auto"], **more}}})


async def test_each_replica_gets_the_device_with_most_room_and_who_does_not_fit_waits() -> None:
    async with running(table=table(24, 16)) as it:
        await it.start()
        serve(it, "a", memory="10GiB", replicas=2)
        serve(it, "b", memory="6GiB")
        await ready(it, "a")
        await ready(it, "b")
        assert devices(it) == {"a": ["cuda:0", "cuda:1"], "b": ["cuda:0"]}
        held = {each["name"]: each["held"] for each in it.told[-1]["devices"]}
        assert held["cuda:1"] == [("a", 10 * GIB)]
        serve(it, "c", memory="9GiB")
        told = it.told[-1]["backends"]["c"]
        assert (told["state"], told["processes"]) == ("failed", [])
        assert told["error"] == (
            "it does not fit: it needs 9GiB, and cuda:0 has 8GiB of 24GiB left (a holds 10GiB, b"
            " holds 6GiB); cuda:1 has 6GiB of 16GiB left (a holds 10GiB); a would have to go"
        )
        assert it.said.count(f"backend c: {told['error']}") == 1
        it.edit(b=None)  # its room is there once its process has ended
        await ready(it, "c")
        assert devices(it)["c"] == ["cuda:0"]


async def test_what_does_not_fit_at_a_start_is_the_end_of_it() -> None:
    async with running("one:Model", table=table(cpu=8)) as it:
        serve = it.backends["a"]["serve"]
        serve |= {"devices": ["cpu"], "memory": "9GiB"}
        with pytest.raises(StartError) as refused:
            await it.start()
        assert str(refused.value) == (
            "backend a: it does not fit: it needs 9GiB, and cpu has 8GiB of 8GiB left; no device is"
            " that large"
        )
        assert it.pids() == []


async def test_without_a_gpu_auto_is_what_the_instance_finds_and_nothing_is_counted() -> None:
    async with running(table=table()) as it:
        await it.start()
        for name in "ab":
            serve(it, name, memory="auto")
            await ready(it, name)
        assert devices(it) == {"a": ["auto"], "b": ["auto"]}
        serve(it, "c", memory="48GiB")
        await ready(it, "c")
        serve(it, "d", memory="17GiB")
        assert (
            "cpu has 16GiB of 64GiB left (c holds 48GiB)" in it.told[-1]["backends"]["d"]["error"]
        )


async def test_what_is_not_said_is_measured_before_another_one_loads_there() -> None:
    sizes = {"a": 6, "b": 5}
    seen: list[list[str]] = []
    it: Running

    async def look() -> Sequence[Device]:
        told = it.told[-1]["backends"] if it.told else {}
        here = {
            name: [p["state"] for p in each["processes"] if p["pid"]] for name, each in told.items()
        }
        seen.append([name for name, states in here.items() if "starting" in states])
        used = sum(sizes[name] * len(states) for name, states in here.items())
        return [Device("cuda:0", 16 * GIB, used=(2 + used) * GIB)]

    async with running(table=DeviceTable(look, lambda: 64 * GIB)) as it:
        await it.start()
        document = {
            name: {"serve": {"model": "one:Model", "devices": ["auto"]}} for name in ("a", "b")
        }
        it.edit(**document)
        waits = it.told[-1]["backends"]["b"]["waits"]
        assert waits == "what loads there has not been measured yet"
        await ready(it, "a")
        await ready(it, "b")
        await until(lambda: it.told[-1]["devices"][0]["held"][1][1] is not None)
        assert it.told[-1]["devices"] == [
            {
                "name": "cuda:0",
                "total": 16 * GIB,
                "others": 2 * GIB,
                "held": [("a", 6 * GIB), ("b", 5 * GIB)],
            },
            {"name": CPU, "total": 64 * GIB, "others": 0, "held": []},
        ]
        # As large as it was measured, a second one of it does not fit.
        it.edit(b={"serve": {"model": "one:Model", "devices": ["auto"], "replicas": 2}})
        assert (
            "it needs 5GiB, and cuda:0 has 3GiB of 16GiB left"
            in it.told[-1]["backends"]["b"]["error"]
        )
