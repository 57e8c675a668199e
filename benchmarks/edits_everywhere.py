"""How long does an edit take until it is in force at every gateway that shares a table?

    python -m benchmarks.edits_everywhere [--edits 50] [--rounds 1] [--only CASE]

Three hosts in network namespaces of this machine, each with a member of etcd and a gateway of two
workers; beside them one gateway with SQLite. One editor, and then four at once (two of them at one
gateway), write one edit after another. An edit is acknowledged when every worker of every gateway
decides by it, so the time until the answer is the time until it is in force. Says also what an edit
takes of the processor, in milliseconds, by who takes it: all of it runs on this one machine.
"""

import argparse
import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

import psutil

from benchmarks.machine import ROOT, took_s
from examples.hosts.cluster import TOKEN, Cluster, missing
from examples.hosts.network import ENTER, Network
from tests.harness.etcd import transactions
from tests.harness.gateway import one_backend, running_gateway
from tests.harness.load import Client, Reply, percentile
from tests.harness.origins import Origin, after

INSIDE = "HEADGATE_BENCHMARK_OWN_NETWORK"
TAG = ("Authorization", f"Bearer {TOKEN}")
SETTINGS = {"lame_duck": "0s", "drain": "5s", "access_log": "off"}
WORKERS = 2
START_S = 60.0
ONE, FOUR = ("a",), ("a", "b", "c", "a")
CASES = {"one editor": ONE, "four editors": FOUR}


async def edit(client: Client, admin: str, weight: int) -> Reply:
    path = "/admin/v1/routes/all/weights"
    return await client.json("PUT", f"{admin}{path}", {"main": weight}, [TAG], timeout=60)


async def edited(client: Client, admin: str, editor: int, count: int) -> list[float]:
    """Seconds that each edit of this editor took; no two editors ask for the same."""
    took = []
    for number in range(count):
        began = time.monotonic()
        reply = await edit(client, admin, 1 + len(FOUR) * number + editor)
        assert reply.status == 200, reply
        took.append(time.monotonic() - began)
    return took


def said(what: str, took: list[float], used: Mapping[str, float], asked: float) -> str:
    """A line for the edits of one case."""
    spent = ", ".join(f"{name} {1e3 * s / len(took):.1f}" for name, s in used.items())
    return (
        f"{what:14} p50 {1e3 * statistics.median(took):6.1f} ms  p99 "
        f"{1e3 * percentile(took, 99):6.1f} ms  longest {1e3 * max(took):6.1f} ms"
        f"  ({asked:.1f} transactions an edit; processor ms: {spent};"
        f" load {os.getloadavg()[0]:.1f})"
    )


def by_who(top: psutil.Process) -> Iterator[tuple[str, psutil.Process]]:
    """Each process below `top`, and what it is."""
    for process in top.children(recursive=True):
        words = " ".join(process.cmdline())
        for name in ("_control", "_worker", "etcd"):
            if f" {name} " in f" {words} ":
                yield name.strip("_"), process
                break


def used_s(processes: Mapping[str, list[psutil.Process]]) -> dict[str, float]:
    return {name: took_s(each) for name, each in processes.items()}


async def measured(
    client: Client, what: str, admins: list[str], count: int, members: list[str]
) -> str:
    found: dict[str, list[psutil.Process]] = {}
    for name, process in by_who(psutil.Process()):
        found.setdefault(name, []).append(process)
    before, asked = used_s(found), transactions(members)
    rows = await asyncio.gather(
        *(edited(client, one, n + 2, count) for n, one in enumerate(admins))
    )
    used = {name: s - before[name] for name, s in used_s(found).items()}
    took = [each for row in rows for each in row]
    return said(what, took, used, (transactions(members) - asked) / len(took))


async def hosts(cases: list[str], rounds: int, count: int) -> None:
    with closing(Network("abc")) as network, tempfile.TemporaryDirectory() as folder:
        origin = Origin(after(0.001), host=network.here("hosts"))
        await origin.start()
        table = one_backend(origin)
        cluster = Cluster(network, Path(folder), table, workers=WORKERS, **SETTINGS)
        client = Client()
        try:
            cluster.start("etcd")
            cluster.start("gateway")
            for name in network.names:
                await until_all_live(client, cluster.admin(name))
            members = [f"http://{network.address(each, 'hosts')}:2379" for each in network.names]
            for name in network.names:
                await edited(client, cluster.admin(name), 0, 5)
            for _ in range(rounds):
                for case in cases:
                    admins = [cluster.admin(each) for each in CASES[case]]
                    print(await measured(client, case, admins, count, members), flush=True)
        finally:
            await client.close()
            cluster.close()
            origin.stop_listening()


async def until_all_live(client: Client, admin: str) -> None:
    """Returns when an edit there waits for all three."""
    end = time.monotonic() + START_S
    for weight in itertools.count(1):
        reply = await edit(client, admin, weight)
        if reply.status == 200 and reply.json()["applied"].get("gateways") == len(set(FOUR)):
            return
        assert time.monotonic() < end, reply
        await asyncio.sleep(0.1)


async def alone(rounds: int, count: int) -> None:
    origin = Origin(after(0.001))
    await origin.start()
    try:
        settings = {**SETTINGS, "workers": WORKERS, "store": "sqlite"}
        async with running_gateway(one_backend(origin), **settings) as gateway:
            client = Client()
            admin = f"http://127.0.0.1:{gateway.admin_port}"
            await edited(client, admin, 0, 5)
            for _ in range(rounds):
                print(await measured(client, "one gateway", [admin], count, []), flush=True)
            await client.close()
    finally:
        origin.stop_listening()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.edits_everywhere", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--edits", type=int, default=50, help="of each editor (50)")
    parser.add_argument("--rounds", type=int, default=1, help="of all cases (1)")
    parser.add_argument("--only", choices=("one gateway", *CASES), help="this case")
    options = parser.parse_args()
    if lacks := missing():
        print(f"needs {lacks}", file=sys.stderr)
        return 1
    if not os.environ.get(INSIDE):
        again = [*ENTER, sys.executable, "-m", "benchmarks.edits_everywhere", *sys.argv[1:]]
        return subprocess.run(again, cwd=ROOT, env={**os.environ, INSIDE: "1"}).returncode
    if options.only in (None, "one gateway"):
        asyncio.run(alone(options.rounds, options.edits))
    if options.only != "one gateway":
        cases = [options.only] if options.only else list(CASES)
        asyncio.run(hosts(cases, options.rounds, options.edits))
    return 0


if __name__ == "__main__":
    sys.exit(main())
