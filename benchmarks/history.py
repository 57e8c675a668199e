"""How long does a start take with a long history, and an edit while somebody leafs through it?

    python -m benchmarks.history [--revisions 10000] [--routes 2000] [--edits 100]

Makes a state with so many edits of a table of so many routes (2,000 are 240 KB), each by the
store's own hand, opens it as a start does, and then edits through a publisher: first alone, then
while viewers read pages of the history and single revisions as fast as they are answered. Real
files, in a directory for temporary ones (TMPDIR).
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson

from gateway.control import SWITCH_S
from gateway.controlplane.configuration.checks import Checks
from gateway.controlplane.events import Events
from gateway.controlplane.publisher import Publisher
from gateway.controlplane.store.sqlite_store import SqliteStore
from gateway.controlplane.store.store import Revision
from gateway.core import edits
from gateway.core.table import Document, Table

VIEWERS = 2


class NoWorkers:
    async def spread(self, table: Table) -> int:
        return 0


class NoInstances:
    def sync(self, table: Table) -> None:
        pass


def table(routes: int) -> Document:
    backends = {f"b{n}": {"instances": [f"http://10.0.0.{n + 1}:80"]} for n in range(10)}
    made = {
        f"tenant-{n}": {
            "match": {"path": f"/tenants/{n}", "methods": ["GET", "POST"]},
            "split": {f"b{n % 10}": 90, f"b{(n + 1) % 10}": 10},
        }
        for n in range(routes)
    }
    return {"backends": backends, "routes": made}


def edited(document: Document, number: int) -> Document:
    name = f"tenant-{number % len(document['routes'])}"
    weights = dict.fromkeys(document["routes"][name]["split"], number % 100 + 1)
    return edits.set_weights(document, name, weights, partial=False)


def filled(path: Path, revisions: int, routes: int) -> int:
    """Makes the state; the bytes of its newest document."""
    store = SqliteStore(path, keep=revisions)
    store._db.execute("PRAGMA synchronous = OFF")  # it is made faster than it would come about
    document = table(routes)
    for number in range(1, revisions + 1):
        made = edited(document, number)
        diff = [{"pointer": f"/routes/tenant-{number % routes}/split", "from": 1, "to": 2}]
        revision = Revision(number, "2026-01-01T00:00:00Z", "me", "why", "api", diff, made)
        store.commit(revision, document if number == 1 else None)
        document = made
    store.close()
    return len(orjson.dumps(document))


async def timed(work: Callable[[], Awaitable[Any]]) -> float:
    began = time.perf_counter()
    await work()
    return 1e3 * (time.perf_counter() - began)


async def edit(publisher: Publisher, count: int) -> list[float]:
    """The milliseconds of each of `count` edits, twenty a second."""
    took = []
    for number in range(count):
        took.append(
            await timed(lambda n=number: publisher.publish(lambda d: edited(d, n), who="me"))  # type: ignore[misc]
        )
        await asyncio.sleep(0.05)
    return sorted(took)


async def leaf(publisher: Publisher, kind: str, took: list[float]) -> None:
    """Reads the history without end."""
    chance = random.Random(1)
    while True:
        newest = publisher.table.revision
        before = chance.randrange(newest // 2, newest)
        if kind == "pages":
            took.append(await timed(lambda b=before: publisher.history(limit=1000, before=b)))  # type: ignore[misc]
        else:
            took.append(await timed(lambda b=before: publisher.revision(b)))  # type: ignore[misc]


async def measured(path: Path, options: argparse.Namespace) -> None:
    began = time.perf_counter()
    store = SqliteStore(path, keep=options.revisions)
    publisher = Publisher(store, NoWorkers(), NoInstances(), Events(), check=Checks())
    opened = time.perf_counter()
    publisher.start(table(options.routes), why="start")
    print(
        f"start: opened in {1e3 * (opened - began):.0f} ms,"
        f" read and checked in {1e3 * (time.perf_counter() - opened):.0f} ms"
    )
    for kind in ("nobody", "pages", "revisions"):
        reads: list[float] = []
        tasks = [
            asyncio.create_task(leaf(publisher, kind, reads))
            for _ in range(VIEWERS if kind != "nobody" else 0)
        ]
        took = await edit(publisher, options.edits)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        shown = f"a read {statistics.median(reads):.0f} ms" if reads else ""
        print(
            f"edits while {kind:9} are read: {statistics.median(took):6.1f} ms (median)"
            f" {took[int(len(took) * 0.95)]:6.1f} ms (95 %) {took[-1]:6.1f} ms (longest)   {shown}"
        )
    await publisher.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--revisions", type=int, default=10_000)
    parser.add_argument("--routes", type=int, default=2000)
    parser.add_argument("--edits", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="headgate-history-") as folder:
        path = Path(folder) / "state.db"
        sys.setswitchinterval(SWITCH_S)  # as in the control process
        began = time.perf_counter()
        size = filled(path, options.revisions, options.routes)
        print(
            f"{options.revisions} revisions of {size:,} bytes: {path.stat().st_size / 1e6:.0f} MB,"
            f" made in {time.perf_counter() - began:.0f} s"
        )
        asyncio.run(measured(path, options))


if __name__ == "__main__":
    main()
