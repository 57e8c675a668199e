"""Which processes are started, placed and stopped, against a fleet that is only a model."""

import random
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gateway.core.faults import Conflict
from gateway.core.placement import (
    Place,
    Process,
    Start,
    Stop,
    held,
    in_force,
    is_fleets,
    on_demand,
    outlook,
    place,
    steps,
    unplaced,
    version_of,
    wanted,
    with_places,
)
from gateway.core.table import Document, Table

Spec = dict[str, Any]


def served(model: str = "m:A", *ports: int, placed: tuple[int, ...] = (), **serve: Any) -> Spec:
    spec: Spec = {"serve": {"model": model, **serve}}
    if ports:
        spec["instances"] = [f"http://127.0.0.1:{port}" for port in ports]
    if placed:
        spec["placed"] = [f"http://127.0.0.1:{port}" for port in placed]
    return spec


def document(**backends: Spec) -> Document:
    return {"backends": backends, "routes": {}}


def at(port: int) -> str:
    return f"127.0.0.1:{port}"


def process(number: int, spec: Spec, port: int, state: Any = "ready") -> Process:
    is_served = state == "ready"
    return Process(number, "a", version_of(spec["serve"]), at(port), state, is_served)


def next_steps(spec: Spec, *running: Process) -> list[Any]:
    asked = wanted(spec)
    assert asked is not None
    return steps({"a": asked}, running)


def test_what_is_written_starts_where_it_is_written_and_the_rest_anywhere() -> None:
    assert next_steps(served("m:A", 1, 2)) == [
        Start("a", (at(1),), pinned=True),
        Start("a", (at(2),), pinned=True),
    ]
    assert next_steps(served()) == [Start("a")]
    assert next_steps(served(placed=(7,))) == [Start("a", (at(7),))]


def test_a_new_version_is_ready_before_the_old_one_loses_its_place() -> None:
    old, new = served("m:A", 1), served("m:B", 1)
    before = process(1, old, 1)
    assert next_steps(new, before) == [Start("a")]
    assert next_steps(new, before, process(2, new, 9, "starting")) == []
    assert next_steps(new, before, process(2, new, 9)) == [Place("a", (at(9),))]
    moved = {**new, "placed": ["http://127.0.0.1:9"]}
    assert next_steps(moved, before, process(2, new, 9)) == [Stop(1)]
    assert next_steps(moved, process(2, new, 9)) == []


def test_several_are_replaced_one_after_the_other() -> None:
    old, new = served("m:A", 1, 2), served("m:B", 1, 2)
    running = [process(1, old, 1), process(2, old, 2)]
    assert next_steps(new, *running) == [Start("a")]
    assert next_steps(new, *running, process(3, new, 9)) == [Place("a", (at(9), at(1)))]
    moved = {**new, "placed": ["http://127.0.0.1:9", "http://127.0.0.1:1"]}
    assert next_steps(moved, *running, process(3, new, 9)) == [Stop(2)]
    assert next_steps(moved, running[0], process(3, new, 9)) == [Start("a", (at(2),), pinned=True)]


def test_a_version_that_cannot_start_leaves_the_old_one_where_it_is() -> None:
    old, new = served("m:A", 1), served("m:B", 1)
    running = [process(1, old, 1), process(2, new, 9, "failed")]
    assert next_steps(new, *running) == []
    assert next_steps(old, *running) == [Stop(2)]


def test_of_what_is_asked_for_no_more_no_failure_is_remembered() -> None:
    spec = served("m:A", 1)
    failed = process(1, spec, 1, "failed")
    assert next_steps(spec, failed) == []
    none = {**spec, "serve": {**spec["serve"], "replicas": 0}, "placed": []}
    assert Stop(1) in next_steps(none, failed)


def test_a_version_that_nobody_wants_any_more_is_stopped_while_it_loads() -> None:
    old, second, third = served("m:A", 1), served("m:B", 1), served("m:C", 1)
    running = [process(1, old, 1), process(2, second, 9, "starting")]
    assert next_steps(third, *running) == [Stop(2)]
    assert next_steps(third, running[0], replace(running[1], state="stopping")) == [Start("a")]


def test_what_died_is_started_again_by_who_keeps_it_and_keeps_its_place() -> None:
    spec = served("m:A", 1)
    assert next_steps(spec, replace(process(1, spec, 1), state="starting")) == []


def test_processes_of_what_is_served_no_more_stop() -> None:
    assert steps({}, [process(1, served(), 1)]) == [Stop(1)]


def test_fewer_lose_their_place_first() -> None:
    spec = served("m:A", 1)
    two = {**spec, "placed": ["http://127.0.0.1:1", "http://127.0.0.1:2"]}
    running = [process(1, spec, 1), process(2, spec, 2)]
    assert next_steps(two, *running) == [Place("a", (at(1),))]
    assert next_steps(spec, *running) == [Stop(2)]


def test_of_those_that_are_too_many_who_answers_nothing_goes_first() -> None:
    spec = served("m:A", placed=(1, 2, 3), replicas=2)
    one, two, three = (process(number, spec, number) for number in (1, 2, 3))
    asked = wanted(spec)
    assert asked is not None
    hung = replace(asked, out=frozenset({at(1)}))
    assert steps({"a": hung}, [one, two, three]) == [Place("a", (at(2), at(3)))]
    # Nor is one kept that died, and is started again, nor one that somebody took out.
    died = replace(two, state="starting")
    assert next_steps(spec, one, died, three) == [Place("a", (at(1), at(3)))]
    drained = {**spec, "states": {at(1): "draining"}}
    assert next_steps(drained, one, two, three) == [Place("a", (at(2), at(3)))]
    # Where none answers, each stays where it is.
    none = replace(asked, out=frozenset({at(1), at(2), at(3)}))
    assert steps({"a": none}, [one, two, three]) == [Place("a", (at(1), at(2)))]


def test_the_old_version_answers_by_those_that_can() -> None:
    old, new = served("m:A", 1, 2), served("m:B", 1, 2)
    asked = wanted(new)
    assert asked is not None
    hung = replace(asked, out=frozenset({at(1)}))
    running = [process(1, old, 1), process(2, old, 2)]
    assert steps({"a": hung}, [*running, process(3, new, 9)]) == [Place("a", (at(9), at(2)))]
    tight = replace(hung, spare=False)
    assert steps({"a": tight}, running) == [Place("a", (at(2),))]


def test_without_a_spare_one_goes_first_and_the_others_answer() -> None:
    old, new = served("m:A", 1, 2), served("m:B", 1, 2)
    asked = wanted(new)
    assert asked is not None
    tight = replace(asked, spare=False)
    one, two = process(1, old, 1), process(2, old, 2)
    assert steps({"a": tight}, [one, two]) == [Place("a", (at(1),))]
    left = replace(tight, in_force=(at(1),))
    assert steps({"a": left}, [one, two]) == [Stop(2)]
    assert steps({"a": left}, [one, replace(two, state="stopping")]) == []
    assert steps({"a": left}, [one]) == [Start("a", (at(2),), pinned=True)]
    assert steps({"a": left}, [one, process(3, new, 2, "starting")]) == []
    assert steps({"a": left}, [one, process(3, new, 2)]) == [Place("a", (at(2), at(1)))]
    alone = replace(tight, count=1, pins=(at(1),), in_force=(at(1),))
    assert steps({"a": alone}, [one]) == [Stop(1)]


class TestDocument:
    def test_an_edit_leaves_processes_where_they_are(self) -> None:
        before = document(a=served("m:A", 1))
        after = held(before, document(a=served("m:B", 8)))
        assert list(in_force(after["backends"]["a"])) == ["http://127.0.0.1:1"]
        assert after["backends"]["a"]["instances"] == ["http://127.0.0.1:8"]
        assert held(before, document(a=served("m:B", 1))) == document(a=served("m:B", 1))

    def test_what_an_edit_says_of_places_counts_for_nothing(self) -> None:
        before = document(a=served("m:A", placed=(7,)))
        assert held(before, document(a=served("m:B", placed=(6,)))) == document(
            a=served("m:B", placed=(7,))
        )
        assert held(document(), document(a=served("m:B", placed=(6,)))) == document(a=served("m:B"))
        left = {"instances": ["http://127.0.0.1:1"]}
        assert held(before, document(a=left)) == document(a=left)
        assert unplaced({}, before) == document(a=served("m:A"))

    def test_states_go_with_the_addresses_they_are_of(self) -> None:
        spec = {**served("m:A", 1), "states": {at(1): "disabled"}}
        moved = place(document(a=spec), "a", version_of(spec["serve"]), ["http://127.0.0.1:9"])
        assert moved == document(a=served("m:A", 1, placed=(9,)))

    def test_a_place_is_that_of_the_version_that_is_asked_for(self) -> None:
        here = document(a=served("m:A", 1))
        version = version_of({"model": "m:A"})
        assert place(here, "a", version, ["http://127.0.0.1:1"]) is here
        back = place(
            document(a=served("m:A", 1, placed=(9,))), "a", version, ["http://127.0.0.1:1"]
        )
        assert back == here
        with pytest.raises(Conflict):
            place(here, "a", version_of({"model": "m:B"}), ["http://127.0.0.1:1"])

    def test_a_start_says_all_anew(self) -> None:
        document_ = document(a=served("m:A", 1, placed=(9,)), b=served("m:B", placed=(8,)))
        assert with_places(document_, {"b": ["http://127.0.0.1:7"]}) == document(
            a=served("m:A", 1), b=served("m:B", placed=(7,))
        )

    @pytest.mark.parametrize(
        ("before", "after", "words"),
        [
            (None, served(), "1 instance of it will be started"),
            (served(), None, "stop"),
            (served(), served("m:B"), "of the new version will be started; each takes over"),
            (served("m:A", 1), served("m:A", 1, 2), "1 instance will be started"),
            (served("m:A", 1), served("m:A", 2), "keeps its address"),
            (served("m:A", 1), {**served("m:A", 1), "balance": "random"}, ""),
        ],
    )
    def test_what_will_happen_is_said(
        self, before: Spec | None, after: Spec | None, words: str
    ) -> None:
        old, new = (document(**({"a": spec} if spec else {})) for spec in (before, after))
        told = outlook(old, held(old, new))
        assert (words in told["a"]) if words else told == {}


@dataclass
class House:
    """Processes that load, fail and die as chance has it, and a table that others edit."""

    chance: random.Random
    document: Document = field(default_factory=document)
    history: list[Document] = field(default_factory=list)
    processes: dict[int, Process] = field(default_factory=dict)
    number: int = 0
    port: int = 10_000
    broken: frozenset[str] = frozenset({"m:X"})
    restarts: dict[str, int] = field(default_factory=dict)
    tight: set[str] = field(default_factory=set)
    awake: set[str] = field(default_factory=set)  # of those that start on demand
    at: dict[str, tuple[str, ...]] = field(default_factory=dict)  # those told beside the document

    @property
    def backends(self) -> dict[str, Spec]:
        return dict(self.document["backends"])

    def wanted(self) -> dict[str, Any]:
        found = {name: wanted(spec) for name, spec in self.backends.items()}
        return {
            name: replace(
                asked,
                version=f"{asked.version}#{self.restarts.get(name, 0)}",
                spare=name not in self.tight,
                count=0 if self.is_asleep(name) else asked.count,
                in_force=self.at.get(name, asked.in_force),
            )
            for name, asked in found.items()
            if asked is not None
        }

    def is_asleep(self, name: str) -> bool:
        return on_demand(self.backends[name]) and name not in self.awake

    # -- what others do

    def edit(self) -> None:
        backends, name = self.backends, self.chance.choice("abcd")
        roll = self.chance.random()
        if roll < 0.1:
            backends.pop(name, None)
        elif roll < 0.15:
            self.restarts[name] = self.restarts.get(name, 0) + 1
            self.tight.add(name)
        elif roll < 0.25 and self.history:
            backends = dict(self.chance.choice(self.history)["backends"])
        elif roll < 0.35 and name in backends:
            backends[name] = {"instances": ["http://127.0.0.1:1"]}
        else:
            first = 100 * (1 + "abcd".index(name))
            pins = self.chance.sample(range(first, first + 5), self.chance.choice([0, 0, 1, 2, 3]))
            model = self.chance.choice(["m:A", "m:B", "m:C", "m:X"])
            more: Spec = {}
            if self.chance.random() < 0.5:
                more["replicas"] = self.chance.randint(1, 3)
            if self.chance.random() < 0.4:
                more["start"] = "demand"
            backends[name] = served(model, *pins, **more)
        self.take(held(self.document, {"backends": backends, "routes": {}}))

    def take(self, document: Document) -> None:
        before, at = self.serving(), {n: asked.in_force for n, asked in self.wanted().items()}
        self.document = document
        running = {p.backend for p in self.processes.values() if p.served}
        beside = {n for n, spec in self.backends.items() if spec.get("serve") and is_fleets(spec)}
        self.awake = {n for n in beside if n in (self.awake if n in self.at else running)}
        self.at = {name: at.get(name, ()) for name in beside}
        Table.from_document(document, 1)  # it is one that can be served
        self.history.append(document)
        self.lost_nothing(before)

    def live(self) -> None:
        """Something happens to a process, or a request asks for what sleeps."""
        for name in list(self.at):
            if self.chance.random() < 0.2:
                self.awake ^= {name}
        for number, each in list(self.processes.items()):
            roll = self.chance.random()
            model = each.version
            if each.state == "stopping" and roll < 0.5:
                del self.processes[number]
            elif each.state == "starting" and roll < 0.4:
                if any(name in model for name in self.broken) and not each.served:
                    self.processes[number] = replace(each, state="failed")
                else:
                    self.processes[number] = replace(each, state="ready", served=True)
            elif each.state == "ready" and roll < 0.03:
                self.processes[number] = replace(each, state="starting")

    # -- what is to be held

    def serving(self) -> dict[str, int]:
        """How many of each backend get requests, of those that did not just die."""
        return {
            name: sum(
                p.backend == name and p.served and p.state != "stopping"
                and p.address in wanted_.in_force
                for p in self.processes.values()
            )
            for name, wanted_ in self.wanted().items()
        }  # fmt: skip

    def lost_nothing(self, before: dict[str, int]) -> None:
        now = self.serving()
        for name, count in before.items():
            if name in now and not self.is_asleep(name):
                # Without a spare one of them goes before its successor is there.
                least = min(count, self.wanted()[name].count) - (name in self.tight)
                assert now[name] >= least, f"{name} had {count} that served and has {now[name]}"

    def step(self) -> bool:
        asked = self.wanted()
        self.tight = {
            name
            for name in self.tight & asked.keys()
            if any(
                p.backend == name and p.version != asked[name].version
                for p in self.processes.values()
            )
        }
        found = steps(self.wanted(), self.processes.values())
        for each in found:
            before = self.serving()
            self.do(each)
            self.lost_nothing(before)
        return bool(found)

    def do(self, step: Any) -> None:
        match step:
            case Start():
                address = step.addresses[0] if step.addresses else self.fresh()
                used = {p.address for p in self.processes.values() if p.state != "failed"}
                assert address not in used, f"{address} is taken twice"
                self.number += 1
                asked = self.wanted()[step.backend]
                alive = [
                    p for p in self.processes.values()
                    if p.backend == step.backend and p.state not in ("failed", "stopping")
                ]  # fmt: skip
                assert not self.is_asleep(step.backend)
                assert len(alive) < asked.count + asked.spare
                version = asked.version
                self.processes[self.number] = Process(
                    self.number, step.backend, version, address, "starting"
                )
            case Stop():
                process = self.processes[step.number]
                assert process.state != "stopping"
                if process.state == "failed":
                    del self.processes[step.number]
                else:
                    self.processes[step.number] = replace(process, state="stopping")
            case Place():
                asked = self.wanted()[step.backend]
                assert len(step.addresses) <= asked.count
                spec = self.backends[step.backend]
                if is_fleets(spec):
                    assert set(self.at[step.backend]) != set(step.addresses)
                    self.at[step.backend] = step.addresses
                    return
                urls = [f"http://{address}" for address in step.addresses]
                moved = place(self.document, step.backend, version_of(spec["serve"]), urls)
                assert moved is not self.document
                self.take(moved)

    def fresh(self) -> str:
        self.port += 1
        return at(self.port)

    def settle(self) -> None:
        """Lets everything come to rest, with nobody dying."""
        for _ in range(200):
            for number, each in list(self.processes.items()):
                if each.state == "stopping":
                    del self.processes[number]
                elif each.state == "starting":
                    fails = any(m in each.version for m in self.broken) and not each.served
                    state: Any = "failed" if fails else "ready"
                    self.processes[number] = replace(each, state=state, served=not fails)
            if not self.step():
                return
        raise AssertionError("it never comes to rest")

    def is_as_wanted(self) -> None:
        asked = self.wanted()
        for each in self.processes.values():
            assert each.backend in asked, f"an orphan of {each.backend}"
        for name, want in asked.items():
            own = [p for p in self.processes.values() if p.backend == name]
            fresh = [p for p in own if p.version == want.version]
            ready = {p.address for p in own if p.state == "ready"}
            if any(p.state == "failed" for p in fresh):
                assert len(ready) <= want.count
                continue
            assert len(fresh) == len(own) == want.count, (name, own, want)
            assert set(want.in_force) == ready


@pytest.mark.parametrize("seed", range(20))
def test_after_any_edits_what_runs_is_what_the_table_says_and_nobody_lost_a_place(
    seed: int,
) -> None:
    house = House(random.Random(seed))
    for number in range(50):
        house.edit()
        for _ in range(house.chance.randrange(6)):
            house.live()
            house.step()
        if number % 10 == 9:
            house.settle()
            house.is_as_wanted()


def test_what_a_cluster_has_is_told_beside_the_document() -> None:
    document = {"backends": {"a": {"serve": {"model": "m:M"}}}, "routes": {}}
    placed = {"a": ["fleet://a", "http://10.0.0.4:20001"]}
    assert with_places(document, placed)["backends"]["a"]["placed"] == ["fleet://a"]


def test_who_starts_none_leaves_what_a_shared_fleet_has_where_it_is() -> None:
    there = document(a={"serve": {"model": "m:A"}, "placed": ["fleet://a"]})
    assert unplaced({}, there) is there
    written = {"instances": ["http://10.0.0.4:1"], "placed": ["fleet://a"]}
    assert unplaced({}, document(a={"serve": {"model": "m:A"}, **written})) == document(
        a={"serve": {"model": "m:A"}, "instances": ["http://10.0.0.4:1"]}
    )
