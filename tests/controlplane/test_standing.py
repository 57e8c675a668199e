"""What is asked again and again of a large table is worked out once, and anew where it changed."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.controlplane.watch.effective import Effective
from gateway.controlplane.watch.health_book import HealthBook, Key
from gateway.controlplane.watch.pacing import FewAtOnce, Paced
from gateway.controlplane.watch.prober import AT_ONCE, Prober
from gateway.controlplane.watch.standing import BackendStanding, Standing
from gateway.core.deltas import Delta
from gateway.core.health import Word
from gateway.core.table import Route, Table

COUNT = 50


def table() -> Table:
    backends = {
        f"b{n}": {"instances": [f"http://10.0.{n}.1:80", f"http://10.0.{n}.2:80"]}
        for n in range(COUNT)
    }
    return Table.from_document({"backends": backends, "routes": {}}, 1)


class World:
    """A table of which everybody is well."""

    def __init__(self) -> None:
        self.table = table()
        self.ejected: dict[tuple[str, str], float] = {}
        self.told: list[Sequence[tuple[Key, Word, Word]]] = []
        self.health = HealthBook(lambda _, changes: self.told.append(changes), lambda _: None, {})
        self.keys = [
            Key(name, instance.address)
            for name, backend in self.table.backends.items()
            for instance in backend.instances
        ]
        for key in self.keys:
            self.health.add(key)
        self.health.judge_by(self.table, {})
        endpoints: dict[str, Any] = {}
        self.standing = Standing(
            lambda: self.table, lambda: self.health.words, lambda: self.ejected, lambda: endpoints
        )
        for key in self.keys:
            self.say(key, "ready")

    def say(self, key: Key, signal: str) -> None:
        for _ in range(5):
            self.health.note(key, signal)

    def seen(self) -> dict[str, BackendStanding]:
        return dict(self.standing.backends())


def test_nothing_is_worked_out_again_while_nothing_changed() -> None:
    world = World()
    assert world.standing.available() == world.table.backends.keys()
    assert world.standing.up() is world.standing.up()
    assert all(all(instances.values()) for instances in world.standing.up().values())


@pytest.mark.parametrize("what", ["health", "ejection", "edit"])
def test_a_change_at_one_backend_costs_that_backend_alone(what: str) -> None:
    world = World()
    before = world.seen()
    if what == "health":
        for key in world.keys[:2]:
            world.say(key, "probe_refused")
    elif what == "ejection":
        world.ejected = {tuple(key): 1.0 for key in world.keys[:2]}  # type: ignore[misc]
    else:
        document: Any = world.table.document
        states = {key.address: "disabled" for key in world.keys[:2]}
        changed = {**document["backends"]["b0"], "states": states}
        document = {**document, "backends": {**document["backends"], "b0": changed}}
        delta = Delta.between(world.table.document, document)
        world.table = world.table.edited(delta, 2, document)
    after = world.seen()
    assert not any(after["b0"].up.values())
    assert {name for name in after if after[name] is not before[name]} == {"b0"}


def test_words_that_change_one_after_another_are_not_gathered_anew_each_time() -> None:
    world = World()
    assert sum(map(len, world.told)) == 2 * COUNT
    words = world.health.words
    world.say(world.keys[0], "probe_refused")
    assert world.health.words["b0"] != words["b0"]
    assert all(world.health.words[f"b{n}"] is words[f"b{n}"] for n in range(1, COUNT))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_what_takes_long_is_done_once_for_all_who_ask_meanwhile() -> None:
    clock, done = Clock(), []

    def work() -> None:
        done.append(clock.now)
        clock.now += 0.001

    paced = Paced(work, clock=clock)
    paced()
    assert len(done) == 1, "at once, where it was not just done"
    for _ in range(1000):
        paced()
    assert len(done) == 1
    while len(done) < 2:
        await asyncio.sleep(0)
    for _ in range(100):
        paced()
    paced.close()
    assert len(done) == 3, "nothing that was asked for is left undone"
    clock.now += 1
    paced()
    assert len(done) == 4


async def test_a_few_go_on_at_a_time_in_the_order_they_came() -> None:
    turns, done = FewAtOnce(3, 0.02), []

    async def wait(number: int) -> None:
        await turns()
        done.append(number)

    tasks = [asyncio.create_task(wait(number)) for number in range(20)]
    tasks[5].cancel()
    before = 0
    while len(done) < 19:
        await asyncio.sleep(0)
        assert len(done) - before <= 3
        before = len(done)
    assert done == [number for number in range(20) if number != 5]
    await turns()
    assert len(done) == 19, "nobody need wait for who comes after them"


class Counted(asyncio.SelectorEventLoop):
    """Counts what wakes it at a certain time."""

    rung = 0

    def call_at(self, when: float, callback: Any, *args: Any, **more: Any) -> asyncio.TimerHandle:
        def ring() -> None:
            self.rung += 1
            callback(*args)

        return super().call_at(when, ring, **more)


def test_who_has_not_to_wait_for_a_turn_leaves_nothing_that_wakes_the_process() -> None:
    async def ask() -> None:
        turns = FewAtOnce(3, 0.001)
        for _ in range(10):
            await turns()
            await asyncio.sleep(0.002)

    with asyncio.Runner(loop_factory=Counted) as runner:
        runner.run(ask())
        loop = runner.get_loop()
        assert isinstance(loop, Counted)
        assert loop.rung == 10, "the pauses of the test alone"


def test_an_instance_that_is_well_wakes_the_prober_once_for_each_probe() -> None:
    async def asked(count: int) -> None:
        left = count
        done = asyncio.Event()

        async def probe(_target: Any) -> Any:
            nonlocal left
            left -= 1
            if not left:
                done.set()
            return "ready"

        prober = Prober(lambda _words, _changes: None, probe=probe, chance=lambda: 0.5)
        health = {"interval": "100ms", "rise": 1}
        backends = {"b": {"instances": ["http://10.0.0.1:80"], "health": health}}
        prober.sync(Table.from_document({"backends": backends, "routes": {}}, 1))
        await done.wait()
        await prober.close()

    with asyncio.Runner(loop_factory=Counted) as runner:
        runner.run(asked(10))
        loop = runner.get_loop()
        assert isinstance(loop, Counted)
        assert loop.rung <= 9


async def test_a_table_of_many_instances_leaves_the_loop_to_others_while_it_is_probed() -> None:
    asked: list[int] = []
    turn = 0

    async def probe(_target: Any) -> Any:
        asked.append(turn)
        return "ready"

    prober = Prober(lambda _words, _changes: None, probe=probe)
    many = {"b": {"instances": [f"http://10.0.{n >> 8}.{n & 255}:80" for n in range(500)]}}
    prober.sync(Table.from_document({"backends": many, "routes": {}}, 1))
    while len(asked) < 500:
        await asyncio.sleep(0)
        turn += 1
    assert max(asked.count(each) for each in set(asked)) <= 2 * AT_ONCE
    await prober.close()


def test_shares_are_worked_out_for_the_routes_that_an_edit_or_a_backend_changed_alone() -> None:
    def routes(number: int, **weights: int) -> dict[str, Route]:
        document = {
            "backends": {"a": {}, "b": {}},
            "routes": {
                f"r{n}": {"match": f"/{n}", "split": {"ab"[n % 2]: weights.get(f"r{n}", 1)}}
                for n in range(number)
            },
        }
        return dict(Table.from_document(document, 1).routes)

    worked: list[str] = []

    def computed(route: Route) -> dict[str, float]:
        worked.append(route.name)
        return {name: float(weight) for name, weight in route.split}

    def told(table: dict[str, Route], *serving: str) -> list[str]:
        worked.clear()
        names = frozenset(serving)
        found = effective.of(table, names, names, computed)
        assert found == {name: {n: float(w) for n, w in each.split} for name, each in table.items()}
        return sorted(worked)

    effective, first = Effective(), routes(6)
    assert len(told(first, "a", "b")) == 6
    assert told(first, "a", "b") == []
    edited = {**first, "r2": routes(6, r2=7)["r2"], "r6": routes(7)["r6"]}
    del edited["r4"]
    assert told(edited, "a", "b") == ["r2", "r6"]
    assert told(edited, "a") == ["r1", "r3", "r5"]
    assert told({}, "a") == []
