"""An edit of a table of 20,000 routes costs one route: what it touches is counted, not timed."""

import json
from pathlib import Path
from typing import Any

from gateway.controlplane.configuration import checks
from gateway.controlplane.configuration.checks import Checks
from gateway.controlplane.events import Events
from gateway.controlplane.parts import difference, whole_table
from gateway.controlplane.publisher import Publisher
from gateway.controlplane.store.sqlite_store import SqliteStore
from gateway.controlplane.watch.effective import Effective
from gateway.core import edits
from gateway.core.deltas import Delta
from gateway.core.drafting import Draft
from gateway.core.matching import Matcher
from gateway.core.table import EMPTY, Table
from tests.controlplane.scripted import ScriptedInstances

ROUTES = 20_000
SMALL = 1000  # bytes


class CountingWorkers:
    """A worker that takes a table as it comes over the channel, and counts what came."""

    def __init__(self) -> None:
        self.told = self.served = EMPTY
        self.matcher = Matcher.of(())
        self.changed: set[str] = set()
        self.messages: list[dict[str, Any]] = []

    async def put_in_force(self, table: Table) -> int:
        news = difference(self.told, table)
        self.messages = whole_table(table, {}) if news is None else news
        draft = Draft(self.served, self.matcher, is_whole=news is None)
        for message in self.messages:
            draft.take(Delta.from_json(json.loads(json.dumps(message))))
        self.told = table
        self.served, self.matcher = draft.done(table.revision)
        self.changed = draft.changed
        return 1


def large() -> dict[str, Any]:
    backends = {f"b{n}": {"instances": [f"http://10.0.0.{n}:80"]} for n in range(10)}
    routes = {
        f"r{n}": {"match": {"path": f"/{n}"}, "split": {f"b{n % 10}": 90, f"b{(n + 1) % 10}": 10}}
        for n in range(ROUTES)
    }
    return {"backends": backends, "routes": routes}


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of which there is another object than before."""
    return [name for name in after if after[name] is not before.get(name)]


async def test_a_weight_of_20_000_routes_makes_one_route_anew_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store, workers, asked = SqliteStore(path), CountingWorkers(), Asked()
    publisher = Publisher(store, workers, ScriptedInstances(), Events(), check=asked)
    publisher.start(large(), why="start")
    await workers.put_in_force(publisher.table)
    shares, computed = Effective(), [0]
    everybody = frozenset(publisher.table.backends)

    def one(_route: Any) -> dict[str, float]:
        computed[0] += 1
        return {}

    shares.of(publisher.table.routes, everybody, everybody, one)
    before, served, matcher = publisher.table, workers.served, workers.matcher
    asked.routes = computed[0] = 0

    await publisher.publish(
        lambda document: edits.set_weights(document, "r5", {"b5": 1, "b6": 99}, partial=False),
        who="me",
    )

    assert changed(dict(before.routes), dict(publisher.table.routes)) == ["r5"]
    assert changed(dict(before.document["routes"]), dict(publisher.table.document["routes"])) == [
        "r5"
    ]
    assert publisher.table.backends is before.backends
    assert asked.routes == 1, "routes whose parts were checked"
    assert len(workers.messages) == 1
    assert len(json.dumps(workers.messages)) < SMALL, "what crosses to a worker"
    assert changed(dict(served.routes), dict(workers.served.routes)) == ["r5"]
    assert workers.served.routes["r5"].weights == {"b5": 1, "b6": 99}
    assert workers.matcher is matcher, "weights decide no route"
    assert workers.changed == {"r5"}, "routes that the next snapshot looks at"
    shares.of(publisher.table.routes, everybody, everybody, one)
    assert computed == [1], "routes whose shares were worked out"
    size = path.with_name("state.db-wal").stat().st_size
    await publisher.publish(
        lambda document: edits.set_weights(document, "r6", {"b6": 1, "b7": 99}, partial=False),
        who="me",
    )
    assert path.with_name("state.db-wal").stat().st_size - size < 64_000, "what is written"
    await publisher.close()


class Asked(Checks):
    """Checks that count the routes whose own entries they look at."""

    def __init__(self) -> None:
        super().__init__()
        self.routes = 0

    def faults(self, delta: Delta, document: Any) -> list[Any]:
        self.routes += len(delta.put.get("routes", {}))
        return super().faults(delta, document)


def test_a_check_after_the_first_looks_at_what_differs_alone() -> None:
    document = large()
    check = checks.Checks()
    assert check(document) == []
    routes = dict(document["routes"])
    routes["r7"] = {"match": {"path": "/8"}, "split": {"none": 1}}
    faults = check({**document, "routes": routes})
    assert {fault.pointer for fault in faults} == {"/routes/r7/split/none", "/routes/r7/match"}
