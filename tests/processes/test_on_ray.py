"""`headgate up --on ray`, with a real cluster of one host."""

import asyncio
import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.harness.etcd import etcd_cluster
from tests.harness.gateway import ROOT, Gateway, complete, eventually
from tests.harness.orphans import kill_all
from tests.harness.ray_cluster import Cluster, running_cluster

pytestmark = [
    pytest.mark.ray,
    pytest.mark.alone,  # a cluster of Ray is some twenty processes
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None,
        reason="needs Ray, which is an extra: pip install 'headgate[ray]'",
    ),
]

MODEL = """
import os

class Echo:
    def setup(self, device):
        pass

    def predict(self, x):
        return {"pid": os.getpid(), "secret": os.environ.get("RAY_AUTH_TOKEN")}
"""


class OnRay(Gateway):
    word = "up"
    models: Path

    async def start(self) -> None:
        """`headgate up --on ray` on the file, as it is there by now."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway", self.word, str(self.file), "--on", "ray"),
                *("--state-dir", str(self.folder / "state")),
                cwd=ROOT, env=self.env, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        await eventually(self.answers, 90, "headgate up answers on both listeners")

    async def pid(self, path: str = "/a") -> int:
        reply = await self.client.json("POST", f"{self.url}{path}", {"x": 1})
        assert reply.status == 200, (reply, self.log_text()[-3000:])
        answer = reply.json()
        assert not answer["secret"], "a model has the cluster's token"
        return int(answer["pid"])

    async def pids(self, count: int) -> set[int]:
        """Of the processes that answer, once they are so many."""
        found: set[int] = set()

        async def enough() -> bool:
            found.clear()
            found.update([await self.pid() for _ in range(4 * count)])
            return len(found) == count

        await eventually(enough, 60, f"{count} processes answer")
        return found

    def instances(self) -> set[psutil.Process]:
        """The instances of this file that run, whoever holds them."""
        return {
            process
            for process in psutil.process_iter(["cmdline"])
            if str(self.models) in " ".join(process.info["cmdline"] or ())
            and "instance" in process.info["cmdline"]
        }

    async def command(self, *words: str) -> str:
        ran = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", *words),
            cwd=self.folder, env=self.env, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, _ = await asyncio.wait_for(ran.communicate(), 60)
        assert ran.returncode == 0, self.log_text()[-3000:]
        return said.decode()


class Further(OnRay):
    word = "gateway"


@contextlib.asynccontextmanager
async def up(
    cluster: Cluster, folder: Path | None = None, kind: type[OnRay] = OnRay, **settings: Any
) -> AsyncIterator[OnRay]:
    """`headgate up --on ray`, whose instances stay in the cluster for the next test."""
    folder = folder or cluster.folder
    models = cluster.folder / "models.py"
    models.write_text(MODEL)
    file = folder / "headgate.yaml"
    if not file.exists():
        serve = {"model": f"{models}:Echo", "devices": "cpu"}
        document = {
            "backends": {
                "a": {"serve": {**serve, "replicas": 2}},
                "big": {"serve": {**serve, "gpus": 1}},
            },
            "routes": {"a": {"match": "/a", "split": {"a": 1}}},
        }
        file.write_text(yaml.safe_dump(complete(document, settings)))
    gateway = kind(folder, yaml.safe_load(file.read_text()), cluster.environment)
    gateway.models = models
    gateway.log.write_text("")
    try:
        await gateway.start()
        gateway.family()
        yield gateway
        await gateway.stop()
    finally:
        await gateway.client.close()
        kill_all(gateway.family())


async def placed(cluster: Cluster) -> None:
    """Instances are placed, and what has no room is one line."""
    async with up(cluster) as gateway:
        assert len(await gateway.pids(2)) == 2
        await gateway.logged("big needs 1 GPU; 0 of 0 are free")
        assert gateway.log_text().count("big needs 1 GPU; 0 of 0 are free") == 1

        async def is_told() -> bool:
            told = (await gateway.status())["fleet"]["backends"]
            return bool(told["big"]["waits"] == "big needs 1 GPU; 0 of 0 are free")

        await eventually(is_told)


async def replaced(cluster: Cluster) -> None:
    """A second start places nothing twice; what dies is replaced; replicas follow an edit."""
    async with up(cluster) as gateway:
        before = gateway.instances()
        assert len(before) == 2, "they went on without a gateway, and no other was placed"
        answered = await gateway.pids(2)

        (killed, other) = sorted(before, key=lambda each: each.pid)
        killed.kill()
        await eventually(
            lambda: len(gateway.instances() - {killed}) == 2, 60, "an instance is replaced"
        )
        assert await gateway.pids(2) != answered

        actor = other.parent()
        assert actor is not None
        actor.kill()  # what Ray holds: its process ends with it, and Ray starts another one
        await eventually(
            lambda: other not in gateway.instances() and len(gateway.instances()) == 2,
            60, "an actor is replaced",
        )  # fmt: skip
        await gateway.pids(2)
        for count in (3, 1):
            edit = {"serve": {"replicas": count}}
            reply = await gateway.admin("PATCH", "/admin/v1/backends/a", edit)
            assert reply.status == 200, reply
            await gateway.pids(count)
            await eventually(
                lambda count=count: len(gateway.instances()) == count, 60, f"{count} are left"
            )


async def away(cluster: Cluster) -> None:
    """While the cluster's head does not answer, requests go on, and it is said since when."""
    async with up(cluster) as gateway:

        async def state() -> dict[str, Any]:
            found: dict[str, Any] = (await gateway.status())["fleet"]["cluster"]
            return found

        async def is_(word: str) -> bool:
            return (await state())["state"] == word

        await eventually(lambda: is_("connected"), 60)
        cluster.head().suspend()
        try:
            await eventually(lambda: is_("away"), 60, "it is seen that the head is away")
            assert "cannot be reached since" in await gateway.command(
                "status", "--url", gateway.admin_url
            )
            await gateway.pid()
        finally:
            cluster.head().resume()
        await eventually(lambda: is_("connected"), 60, "it is seen that the head is back")
        text = gateway.log_text()
        assert text.count("the Ray cluster cannot be reached since") == 1
        assert text.count("the Ray cluster is reached again") == 1


async def down(cluster: Cluster) -> None:
    """`fleet down` leaves no process, and `fleet status` says so."""
    async with up(cluster) as gateway:
        await gateway.pids(1)
        shown: list[dict[str, Any]] = json.loads(await gateway.command("fleet", "status", "--json"))
        assert [one["backend"] for one in shown] == ["a", "big"]
        assert [one["state"] for one in shown] == ["ready", "waiting"]
        assert shown[0]["pid"] in {process.pid for process in gateway.instances()}
        assert "ended 2 instances" in await gateway.command("fleet", "down")
        assert not gateway.instances()
        await eventually(lambda: "the fleet was ended" in gateway.log_text(), 60, "it is told")
        assert json.loads(await gateway.command("fleet", "status", "--json")) == []
        assert "beginning again" not in gateway.log_text()


async def several(cluster: Cluster) -> None:
    """A further gateway sends requests to what the first has placed, and goes on without it."""
    here, there = cluster.folder / "here", cluster.folder / "there"
    here.mkdir()
    there.mkdir()
    with etcd_cluster() as etcd:
        shared = {"store": "etcd", "etcd": {"endpoints": etcd.urls}}
        async with up(cluster, there, Further, **shared, node="there") as further:
            async with up(cluster, here, **shared, node="here") as first:
                assert await first.pids(2) == await further.pids(2)

                async def are_one() -> bool:
                    return (await revisions(first)) == (await revisions(further))

                await eventually(are_one, what="both have the same revisions")

                # What is edited at the further one is placed by the first.
                stop = asyncio.Event()
                asked = [asyncio.create_task(ask(each, stop)) for each in (first, further)]
                edit = {"serve": {"replicas": 3}}
                reply = await further.admin("PATCH", "/admin/v1/backends/a", edit, timeout=60)
                assert (reply.status, reply.json()["applied"]["gateways"]) == (200, 2), reply
                assert await first.pids(3) == await further.pids(3)
                before = first.instances()
                edit = {"serve": {"timeout": "59s"}}  # another version
                reply = await further.admin("PATCH", "/admin/v1/backends/a", edit, timeout=60)
                assert reply.status == 200, reply
                await eventually(
                    lambda: len(first.instances()) == 3 and not first.instances() & before,
                    90, "they are other ones",
                )  # fmt: skip
                assert await first.pids(3) == await further.pids(3)
                stop.set()
                assert [await each for each in asked] == [{200}, {200}], "none failed meanwhile"
            # The first gateway has ended; what it placed goes on, and so does the other gateway.
            assert len(await further.pids(3)) == 3
            assert "ended 4 instances" in await further.command("fleet", "down")


async def ask(gateway: OnRay, stop: asyncio.Event) -> set[int]:
    """Which statuses requests to `gateway` were answered with until `stop`."""
    found = set()
    while not stop.is_set():
        found.add((await gateway.client.json("POST", f"{gateway.url}/a", {"x": 1})).status)
        await asyncio.sleep(0.05)
    return found


async def revisions(gateway: OnRay) -> list[int]:
    reply = await gateway.admin("GET", "/admin/v1/history")
    return [each["revision"] for each in reply.json()["revisions"]]


@pytest.mark.timeout(400)
async def test_the_life_of_a_fleet_in_a_cluster() -> None:
    with running_cluster(cpus=5) as cluster:
        for part in (placed, replaced, away, down, several):
            await part(cluster)


async def test_a_cluster_without_a_token_is_refused(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(MODEL)
    document = complete({"backends": {"a": {"serve": {"model": "models.py:Echo"}}},
                         "routes": {"a": {"match": "/a", "split": {"a": 1}}}}, {})  # fmt: skip
    file = tmp_path / "headgate.yaml"
    file.write_text(yaml.safe_dump(document))
    outer = {name: each for name, each in os.environ.items() if name != "RAY_AUTH_MODE"}
    ran = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "up", str(file), "--on", "ray"),
        cwd=ROOT, env=outer, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await asyncio.wait_for(ran.communicate(), 60)
    assert ran.returncode == 1
    (line,) = said.decode().splitlines()
    assert "give it a token" in line
