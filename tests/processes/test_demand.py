"""Models that start on demand: real processes, asleep until somebody asks."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from gateway.up.device_table import memory_here
from tests.harness.gateway import eventually

from .test_reconciling import Served, file, up


def asleep(**serve: Any) -> dict[str, Any]:
    document = file(start="demand", **serve)
    document["backends"]["m"]["queue"] = {"size": 200, "timeout": "60s"}
    return document


async def state(it: Served) -> str:
    return str((await it.served())["state"])


async def ask(it: Served, number: int = 1, method: str = "POST") -> Any:
    return await it.client.json(method, f"{it.url}/m", {"input": number}, timeout=60)


async def test_a_hundred_clients_at_a_sleeping_model_get_a_hundred_answers_after_one_start(
    tmp_path: Path,
) -> None:
    document = asleep()
    document["gateway"]["workers"] = 2
    del document["routes"]["r"]["rewrite"]  # where the model answers it says when it is loaded
    async with up(tmp_path, document) as it:
        assert (await it.served())["processes"] == []
        assert await state(it) == "asleep"
        # Who only looks wakes nobody, and is told what would.
        reply = await ask(it, method="GET")
        assert (reply.status, reply.header("X-Headgate-Error")) == (503, "no_backend")
        assert "a prediction loads it" in reply.json()["detail"]
        assert await state(it) == "asleep"

        replies = await asyncio.gather(*(ask(it) for _ in range(100)))
        assert [reply.status for reply in replies] == [200] * 100, replies[0]
        served = await it.until("ready")
        assert served["starts"] == 1
        metrics = (await it.admin("GET", "/metrics")).body.decode()
        assert 'headgate_instance_starts_total{backend="m"} 1' in metrics
        assert 'headgate_instance_load_seconds{backend="m"}' in metrics

        # Nobody asks: it is unloaded, and the next one starts it again.
        first = served["processes"][0]["pid"]
        await it.patch(serve={"idle": "1s"})
        await it.until("asleep")
        revision = (await it.patch(serve={"idle": None}))["revision"]
        # Who has it started may be another process by now.
        os.kill(await it.control_pid(), signal.SIGKILL)
        assert (await ask(it)).status == 200
        served = await it.until("ready")
        assert served["starts"] == 2
        assert served["processes"][0]["pid"] != first
        table = (await it.admin("GET", "/admin/v1/table")).json()
        assert table["revision"] == revision, "no coming and going is an edit"
        await it.stop()


async def test_a_model_is_loaded_and_unloaded_by_commands_before_anybody_asks(
    tmp_path: Path,
) -> None:
    async with up(tmp_path, asleep(idle="1h")) as it:
        code, said = await it.cli("start", "m", "--wait")
        assert (code, "m: it is loaded now" in said) == (0, True), said
        assert await state(it) == "ready"
        code, said = await it.cli("stop", "m", "--wait")
        assert (code, "m: it finishes what it has" in said) == (0, True), said
        assert await state(it) == "asleep"
        assert (await it.status())["revision"] == 1, "neither is an edit"
        await it.stop()


async def test_a_model_that_could_not_be_loaded_is_tried_again_by_commands(tmp_path: Path) -> None:
    async with up(tmp_path, asleep(model="late:One")) as it:
        assert (await ask(it)).status == 503
        assert "late" in (await it.until("failed"))["error"]
        code, said = await it.cli("start", "m", "--wait")
        assert (code, (await it.served())["starts"]) == (1, 2), said
        (tmp_path / "late.py").write_text("from models import One")
        assert (await ask(it)).status == 503, "no request has it tried again"
        code, said = await it.cli("start", "m", "--wait")
        assert (code, await state(it)) == (0, "ready"), said
        (tmp_path / "late.py").unlink()
        assert (await it.cli("stop", "m", "--wait"))[0] == 0
        assert (await ask(it)).status == 503
        await it.until("failed")
        (tmp_path / "late.py").write_text("from models import One")
        code, said = await it.cli("stop", "m", "--wait")
        assert (code, await state(it)) == (0, "asleep"), said
        assert "the next request loads it again" in said
        assert (await ask(it)).status == 200
        await it.stop()


def crowded() -> dict[str, Any]:
    """Three models of which one has room at a time, one that cannot be loaded, and a canary."""
    size = f"{int(memory_here() * 0.6)}B"
    document = asleep(memory=size)
    backends, routes = document["backends"], document["routes"]
    for name, model in (("two", "Two"), ("drip", "Drip"), ("broken", "Broken")):
        serve = {"model": f"models:{model}", "devices": ["cpu"], "start": "demand", "memory": size}
        backends[name] = {"serve": serve, "queue": {"timeout": "60s"}}
        routes[name] = {"match": f"/{name}", "rewrite": "/predict", "split": {name: 1}}
    backends["broken"]["serve"].pop("memory")
    canary = {"model": "models:Two", "devices": ["cpu"], "start": "demand", "idle": "1s"}
    backends["canary"] = {"serve": canary}
    routes["r"]["split"]["canary"] = 0
    routes["only"] = {"match": "/only", "rewrite": "/predict", "split": {"canary": 1}}
    return document


async def test_models_make_room_for_each_other_and_nothing_is_cut(tmp_path: Path) -> None:
    async with up(tmp_path, crowded()) as it:

        async def post(path: str) -> Any:
            return await it.client.json("POST", f"{it.url}{path}", {"input": 1}, timeout=60)

        async def state(name: str) -> str:
            return str((await it.served(name))["state"])

        assert (await post("/two")).json() == {"version": "two"}
        assert (await post("/m")).json() == {"version": "one"}
        await it.until("ready")  # it answers a moment before all know
        await it.until("asleep", backend="two")
        device = (await it.status())["fleet"]["devices"][-1]
        assert [held["backend"] for held in device["held"]] == ["m"]

        # A stream that is under way is finished before another one takes its place.
        stream = asyncio.create_task(post("/drip"))
        await it.until("ready", backend="drip")
        reply = await post("/two")
        whole = await stream
        assert reply.json() == {"version": "two"}
        assert (whole.error, whole.body.split()[-1]) == ("", b"29"), whole
        assert whole.done < reply.done

        # What cannot be loaded is told at once to who waits, and not tried again for each.
        replies = await asyncio.gather(*(post("/broken") for _ in range(5)))
        assert {(each.status, each.header("X-Headgate-Error")) for each in replies} == {
            (503, "no_backend")
        }
        served = await it.until("failed", backend="broken")
        assert (served["starts"], "no weights" in served["error"]) == (1, True)

        # A rollout that needs the canary has it loaded first, and it stays as long as that runs.
        assert await state("canary") == "asleep"
        plan = {"to": "canary", "steps": [1, 100], "hold": "1h"}
        reply = await it.admin("PUT", "/admin/v1/routes/r/rollout", plan, timeout=60)
        assert reply.status in (200, 201), reply.body
        assert await state("canary") == "ready"
        stays = (await it.status())["control"]["uptime_s"] + 2.0

        async def is_kept() -> bool:
            assert await state("canary") == "ready"
            return bool((await it.status())["control"]["uptime_s"] > stays)

        await eventually(is_kept, 40)  # longer than `idle`
        await it.admin("POST", "/admin/v1/routes/r/rollout/abort", {})
        await it.until("asleep", backend="canary")
        events = [line for line in it.log_text().splitlines() if "unloading it" in line]
        assert any("to make room for m" in line for line in events), events
        await it.stop()


async def test_a_fleet_that_is_written_is_followed_from_the_first_request_on(
    tmp_path: Path,
) -> None:
    document = file()
    document["backends"]["m"]["instances"] = ["fleet://m"]
    async with up(tmp_path, document) as it:
        revision = (await it.status())["revision"]
        assert (await ask(it)).json() == {"version": "one"}
        async with it.load(2):
            for model in ("Two", "One"):
                serve = {"model": f"models:{model}", "devices": ["cpu"]}
                told = await it.patch(serve=serve)
                await it.until("ready", told["revision"])
                await it.until_alone()
        assert (await it.status())["revision"] == revision + 2, "edits, and no move"
        await it.stop()
