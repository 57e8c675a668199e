"""`headgate up` holds processes to the table: edits of what is served, real models, under load."""

import asyncio
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.processes.sockets import ListenError
from gateway.up import ports
from tests.harness.gateway import complete, eventually

from .test_up import Up
from .waiting import alive, children, leave_nothing, words

VERSIONS = """
import os
import time

class One:
    answer = "one"

    def setup(self, device):
        pass

    def predict(self, x):
        time.sleep(0.005)
        return {"version": self.answer}

class Drip(One):
    stream = True

    def predict(self, x):
        for number in range(30):
            time.sleep(0.15)
            yield f"{number} "

class Slow(One):
    answer = "slow"

    def predict(self, x):
        time.sleep(0.1)
        return super().predict(x)

class Two(One):
    answer = "two"

class Told(One):
    def __init__(self, answer: str):
        self.answer = f"{answer} {os.environ['SAID']}"
        print("made with", answer)

class Broken(One):
    def setup(self, device):
        raise FileNotFoundError("no weights in weights.pt")
"""


class Served(Up):
    """`headgate up` of one backend without addresses, and what clients see of it."""

    seen: Counter[str]
    wrong: list[Any]

    async def run(self) -> asyncio.subprocess.Process:
        process = await super().run()
        (self.folder / "models.py").write_text(VERSIONS)
        return process

    @asynccontextmanager
    async def load(self, clients: int = 4) -> AsyncIterator["Served"]:
        """Requests all the time; afterwards none of them has failed."""
        self.seen, self.wrong, over = Counter(), [], asyncio.Event()

        async def ask() -> None:
            while not over.is_set():
                seen = self.seen  # of answers, those to what was asked since
                reply = await self.client.json("POST", f"{self.url}/m", {"input": 1})
                if reply.ok:
                    seen[reply.json()["version"]] += 1
                else:
                    self.wrong.append((reply.status, reply.error, reply.body))
                await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(ask())
            try:
                yield self
            finally:
                over.set()
        assert self.wrong == [], (len(self.wrong), self.seen)

    async def answers_with(self, version: str) -> None:
        """Returns when requests that are sent from now on were answered, by nobody else."""
        self.seen = Counter()
        await eventually(lambda: self.seen.total() > 10)
        assert set(self.seen) == {version}

    async def patch(self, **backend: Any) -> dict[str, Any]:
        reply = await self.admin("PATCH", "/admin/v1/backends/m", backend)
        assert reply.status == 200, reply
        return dict(reply.json())

    async def served(self, backend: str = "m") -> dict[str, Any]:
        found: dict[str, Any] = (await self.status())["fleet"]["backends"].get(backend, {})
        return found

    async def until(self, state: str, revision: int = 0, backend: str = "m") -> dict[str, Any]:
        async def is_so() -> Any:
            fleet = (await self.status())["fleet"]
            found = fleet["backends"].get(backend, {"state": "none"})
            return fleet["revision"] >= revision and found["state"] == state and found

        return dict(
            await eventually(is_so, what=f"{backend} is {state}\n{self.log_text()[-2000:]}")
        )

    async def until_alone(self, count: int = 1) -> None:
        """Returns once exactly so many processes run and nothing else is left of others."""

        async def is_so() -> bool:
            return len((await self.served())["processes"]) == count

        await eventually(is_so, what=f"{count} processes")

    async def cli(self, *arguments: str) -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", *arguments, "--url", self.admin_url),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode()


def file(model: str = "models:One", **serve: Any) -> dict[str, Any]:
    return complete(
        {
            "backends": {"m": {"serve": {"model": model, "devices": ["cpu"], **serve}}},
            "routes": {"r": {"match": "/m", "rewrite": "/predict", "split": {"m": 1}}},
        },
        {},
    )


@asynccontextmanager
async def up(folder: Path, document: dict[str, Any], **env: str) -> AsyncIterator[Served]:
    it = Served(folder, document, env)
    try:
        await it.start()
        yield it
    finally:
        await leave_nothing(it)


async def test_the_gateways_own_ports_are_no_instances_of_this_or_another_fleet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with up(tmp_path, file(start="demand")) as it:
        for url in (it.url, it.admin_url):
            port = int(url.rpartition(":")[2])
            monkeypatch.setattr(ports, "PORTS", range(port, port + 1))
            with pytest.raises(ListenError, match="no free port was found"):
                ports.choose((), random.Random(), "127.0.0.2")  # where nobody listens
        await it.stop()


async def test_versions_replace_each_other_under_load_and_a_broken_one_does_not(
    tmp_path: Path,
) -> None:
    async with up(tmp_path, file()) as it, it.load():
        first = (await it.status())["revision"]
        told = await it.patch(serve={"model": "models:Two"})
        assert "1 instance of the new version will be started" in told["serves"]["m"]
        assert [change["note"] for change in told["diff"]] == [told["serves"]["m"]]
        await it.until("ready", told["revision"])
        await it.until_alone()
        await it.answers_with("two")

        told = await it.patch(serve={"model": "models:Broken"})
        served = await it.until("failed", told["revision"])
        assert "no weights in weights.pt" in served["error"]
        await it.logged("no weights in weights.pt")
        await it.answers_with("two")

        code, said = await it.cli("restore", str(first), "--wait")
        assert code == 0, said
        await it.answers_with("one")


async def test_a_killed_control_process_leaves_instances_alone_and_its_successor_is_told(
    tmp_path: Path,
) -> None:
    async with up(tmp_path, file("models:Drip")) as it:
        (old,) = (await it.served())["processes"]
        control = await it.control_pid()
        os.kill(control, signal.SIGKILL)
        await eventually(lambda: not alive(control))
        await eventually(it.answers)
        await it.until("ready")
        (kept,) = (await it.served())["processes"]
        measured = {"resident"}
        assert {name for name in old if old[name] != kept[name]} <= measured, (old, kept)

        # A stream that is under way is finished by the process that began it.
        stream = asyncio.create_task(it.client.json("POST", f"{it.url}/m", {}, timeout=30))

        async def is_under_way() -> bool:
            instances = (await it.status())["backends"]["m"]["instances"]
            return any(each["in_flight"] for each in instances.values())

        await eventually(is_under_way)
        told = await it.patch(serve={"model": "models:Two"})
        await it.until("ready", told["revision"])
        reply = await it.client.json("POST", f"{it.url}/m", {"input": 1})
        assert reply.json() == {"version": "two"}
        whole = await stream
        assert (whole.error, whole.body.split()[-1]) == ("", b"29"), whole
        await eventually(lambda: not alive(old["pid"]))


async def test_a_chosen_port_stays_over_a_restart_and_a_live_edit_that_cannot_start_is_said(
    tmp_path: Path,
) -> None:
    document = file()
    document["backends"]["other"] = dict(document["backends"]["m"])

    async def placed() -> list[str]:
        table = (await it.admin("GET", "/admin/v1/table")).json()
        return list(table["backends"]["m"]["placed"])

    async with up(tmp_path, document) as it:
        first = await placed()
        told = await it.patch(serve={"model": "models:Two"})
        await it.until("ready", told["revision"])
        moved = await placed()
        assert moved != first
        await it.admin("PATCH", "/admin/v1/backends/other", {"serve": {"model": "models:Broken"}})
        await it.until("failed", backend="other")
        await it.stop()
    async with up(tmp_path, document) as it:
        assert await placed() == moved
        reply = await it.client.json("POST", f"{it.url}/m", {"input": 1})
        assert reply.json() == {"version": "two"}
        assert "no weights" in (await it.served("other"))["error"]
        assert "kept: placed" not in it.log_text()
        await it.stop()


async def test_instances_are_scaled_reloaded_and_restarted_by_commands_under_load(
    tmp_path: Path,
) -> None:
    document = file("models:Told", args={"answer": "hello"}, env={"SAID": {"env": "MINE"}})
    async with up(tmp_path, document, MINE="world") as it, it.load():
        await eventually(lambda: it.seen["hello world"] > 3)

        async def pids() -> set[int]:
            return {process["pid"] for process in (await it.served())["processes"]}

        (first,) = await pids()
        code, said = await it.cli("scale", "m=2", "--wait")
        assert (code, "1 instance will be started" in said) == (0, True), said
        scaled = await pids()
        assert first in scaled
        assert len(scaled) == 2
        code, said = await it.cli("reload", "m", "--wait")
        assert code == 0, said
        await it.until_alone(2)
        reloaded = await pids()
        assert not reloaded & scaled
        code, said = await it.cli("restart", "m")
        assert (code, said) == (
            0, "m: each instance is ended and started again, one after the other\n"
        )  # fmt: skip

        async def is_restarted() -> bool:
            now = await it.served()
            found = {process["pid"] for process in now["processes"]}
            return now["state"] == "ready" and not found & reloaded

        await eventually(is_restarted)
        code, said = await it.cli("scale", "m=1", "--wait")
        assert (code, "1 instance will be stopped" in said) == (0, True), said
        await it.until_alone(1)
        code, said = await it.cli("start", "m")
        assert (code, said) == (0, "m: served already\n")
        code, said = await it.cli("logs", "m", "-n", "50")
        assert (code, "| made with hello\n" in said) == (0, True), said
        told = await it.patch(serve={"args": {"answr": "hello"}})
        await it.until("failed", told["revision"])
        error = (await it.served())["error"]
        assert "args.answr: models:Told takes no such argument; did you mean 'answer'?" in error
        assert set(it.seen) == {"hello world"}

        # Requests that wait bring a replica, bounds take it away again.
        scale = {"max": 2, "wait": "50ms"}
        await it.patch(serve={"model": "models:Slow", "args": None, "scale": scale})

        async def is_scaled() -> bool:
            history = (await it.admin("GET", "/admin/v1/history")).json()["revisions"]
            whys = [edit["why"] for edit in history]
            return "scale: requests wait longer than 50 ms" in whys

        await eventually(is_scaled)
        await it.until("ready")
        await it.until_alone(2)
        await it.patch(serve={"scale": {"max": 1}})
        await it.until_alone(1)


async def edit_at_random(folder: Path, edits: int, seed: int) -> None:
    chance = random.Random(seed)
    document = file()
    document["backends"]["other"] = {"serve": {"model": "models:Two", "devices": ["cpu"]}}
    async with up(folder, document) as it, it.load(2):
        for _ in range(edits):
            name, roll = chance.choice(["m", "other", "third"]), chance.random()
            path = f"/admin/v1/backends/{name}"
            if roll < 0.2 and name != "m":
                await it.admin("DELETE", path)
            elif roll < 0.35:
                revision = chance.randint(1, (await it.status())["revision"])
                await it.admin("POST", f"/admin/v1/history/{revision}/restore", {})
            else:
                model = chance.choice(["One", "Two", "Broken"])
                serve: dict[str, Any] = {"model": f"models:{model}", "devices": ["cpu"]}
                if name != "m" and chance.random() < 0.5:
                    serve |= {"start": "demand", "idle": "1s"}
                await it.admin("PUT", path, {"serve": serve})
            await asyncio.sleep(chance.random())
        await it.admin("PUT", "/admin/v1/backends/m", {"serve": {"model": "models:Two"}})
        await it.until("ready", (await it.status())["revision"])

        async def is_settled() -> bool:
            """Whether all is as it is told; one that idles may be unloaded in this very moment."""
            table = (await it.admin("GET", "/admin/v1/table")).json()["backends"]
            fleet = (await it.status())["fleet"]["backends"]
            told = [[p for p in each["processes"] if p["pid"]] for each in fleet.values()]
            assert it.process is not None
            below = {pid for pid in children(it.process.pid) if "instance" in words(pid)}
            is_so = (
                fleet.keys() == table.keys()
                and all(each["state"] in ("ready", "failed", "asleep") for each in fleet.values())
                and all(len(each) <= 1 for each in told)
                and below == {p["pid"] for each in told for p in each}
            )
            places = [p["address"] for each in told for p in each]
            assert not is_so or len(set(places)) == len(places), "no port is taken twice"
            return is_so

        await eventually(is_settled)


async def test_after_random_edits_what_runs_is_what_the_table_says(tmp_path: Path) -> None:
    await edit_at_random(tmp_path, 8, seed=1)


@pytest.mark.soak
async def test_after_fifty_random_edits_what_runs_is_what_the_table_says(tmp_path: Path) -> None:
    await edit_at_random(tmp_path, 50, seed=2)


async def test_of_two_instances_the_one_that_hangs_goes(tmp_path: Path) -> None:
    document = file(replicas=2)
    document["backends"]["m"]["health"] = {"interval": "200ms", "fall": 2}
    async with up(tmp_path, document) as it:
        first = (await it.served())["processes"][0]
        os.kill(first["pid"], signal.SIGSTOP)

        async def is_out() -> bool:
            told = (await it.status())["backends"]["m"]["instances"][first["address"]]
            return bool(told["health"] != "up")

        await eventually(is_out)
        async with it.load():
            await it.patch(serve={"replicas": 1})
            os.kill(first["pid"], signal.SIGCONT)  # it can end, now that it is out
            await it.until_alone(1)
            await it.answers_with("one")
        (left,) = (await it.served())["processes"]
        assert left["pid"] != first["pid"]
