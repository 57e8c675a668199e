"""A rollout moves by what was counted, keeps its split to itself, and survives its process."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gateway.controlplane.configuration.checks import Checks
from gateway.controlplane.configuration.reading import parse
from gateway.controlplane.events import Events
from gateway.controlplane.published import NotInForce
from gateway.controlplane.publisher import Publisher
from gateway.controlplane.rollouts.commands import Commands, How
from gateway.controlplane.rollouts.controller import LOADING_S, Rollouts
from gateway.controlplane.rollouts.keeping import ROOM, Keeper, RolloutFile
from gateway.controlplane.rollouts.tallies import MAX_NAMED, Tallies
from gateway.controlplane.store.store import DiskRefused, StateRefused
from gateway.core import edits
from gateway.core.faults import Conflict, Invalid, Missing
from gateway.core.mirrored import Counts
from gateway.core.table import Document, Table
from gateway.wire.messages import Judging
from tests.controlplane.conftest import FILE, make_publisher
from tests.controlplane.memory_store import InMemory, MemoryStore
from tests.controlplane.scripted import ScriptedInstances, ScriptedWorkers
from tests.harness.gateway import eventually

PLAN = {"to": "digits-cnn", "steps": [5, 50, 100], "hold": "60s", "min_requests": 10, "warmup": 0}
START = {"digits-linear": 90, "digits-cnn": 10}


class House:
    """A control plane on memory, a clock, and a worker that says what it is told to."""

    def __init__(self, keeper: Keeper | None = None, publisher: Publisher | None = None) -> None:
        settings, document = parse(FILE)
        self.events = Events()
        self.now = 1000.0
        self.working = frozenset({"digits-linear", "digits-cnn"})
        self.asked: Mapping[str, Judging] = {}
        self.keeper = keeper or InMemory()
        self.store = MemoryStore()
        self.publisher = publisher or make_publisher(self.store, settings, self.events)
        if publisher is None:
            self.publisher.start(document, why="test")
        self.rollouts = Rollouts(
            self.publisher,
            self.keeper,
            self.events,
            tell=self.tell,
            working=lambda: self.working,
            why_unwell=lambda backend: f"{backend}:1 is draining",
            agreement=lambda route, canary: self.mirrored,
            clock=lambda: self.now,
        )
        self.commands = Commands(self.rollouts, self.publisher)
        self.publisher.allow = self.rollouts.allow
        self.mirrored: tuple[str, Counts, bool] | None = None
        self.counts: dict[str, list[int]] = {}
        self.refused: dict[str, list[int]] = {}
        self.answers: dict[str, dict[str, list[int]]] = {}
        self.numbers: list[float] = []

    def tell(self, routes: Mapping[str, Judging]) -> None:
        self.asked = routes

    @property
    def weights(self) -> dict[str, int]:
        return edits.weights_of(self.publisher.table.document, "digits")

    def count(
        self,
        canary: tuple[int, int] = (0, 0),
        stable: tuple[int, int] = (0, 0),
        *,
        worker: str = "w",
        warmed: int = 0,
        refused: int = 0,
        beside: int = 0,
    ) -> None:
        """The worker counted more (requests, failures) of either arm at the share of now."""
        weights = self.weights
        share = f"{weights['digits-cnn']}/{sum(weights.values())}"
        row = self.counts.setdefault(share, [0] * 8)
        self.refused[share] = [refused, beside]
        for at, (requests, failed) in ((0, canary), (4, stable)):
            row[at] += requests
            row[at + 1] += failed
            row[at + 2] += requests - failed
        self.rollouts.hear(
            {
                "type": "judged",
                "id": self.asked["digits"]["id"],
                "worker": worker,
                "counts": self.counts,
                "times": {},
                "warmed": warmed,
                "refused": self.refused,
                "keys": {},
                "answers": self.answers,
                "numbers": self.numbers,
            }
        )

    async def wait(self, seconds: float, every_s: float = 1.0) -> dict[str, Any]:
        """Time passes, looked at now and then."""
        for _ in range(round(seconds / every_s)):
            self.now += every_s
            await self.rollouts.look()
        return self.shown()

    def shown(self) -> dict[str, Any]:
        found: dict[str, Any] = self.rollouts.shown("digits")
        return found

    async def begin(self, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = await self.commands.begin("digits", {**PLAN, **more})
        return found

    def successor(self, keeper: Keeper | None = None) -> "House":
        """The control process that comes after this one was killed."""
        found = House(keeper or self.keeper, self.publisher)
        found.counts, found.refused = self.counts, self.refused
        found.now = self.now + 5000.0
        return found

    async def taken_up(self) -> "House":
        """The same, once it goes on with what was kept."""
        task = asyncio.create_task(self.rollouts.run())
        await asyncio.sleep(0)
        task.cancel()
        return self


async def test_a_good_canary_is_led_to_everything_step_by_step() -> None:
    house = House()
    shown = await house.begin()
    assert (shown["state"], shown["step"], shown["share"]) == ("running", 1, 5)
    assert house.weights == {"digits-linear": 95, "digits-cnn": 5}
    assert (await house.wait(60))["step"] == 1, "without requests nothing moves"
    house.count((10, 0), (190, 0))
    assert (await house.wait(1))["step"] == 2
    house.count((10, 0), (10, 0))
    assert (await house.wait(59))["step"] == 2
    assert (await house.wait(1))["step"] == 3
    assert house.weights == {"digits-linear": 0, "digits-cnn": 100}
    house.count((10, 0))
    shown = await house.wait(60)
    assert (shown["state"], shown["share"]) == ("done", 100)
    assert [each["state"] for each in shown["history"]] == ["running"] * 3 + ["done"]
    assert house.asked == {}, "nobody counts any more"
    page = await house.publisher.history(limit=9)
    assert [edit.who for edit in page.edits[:3]] == ["rollout"] * 3


async def test_a_step_is_held_from_the_moment_at_which_its_edit_is_in_force() -> None:
    house = House()
    publish = house.publisher.publish

    async def slowly(*edit: Any, **more: Any) -> Any:
        house.now += 0.7
        return await publish(*edit, **more)

    house.publisher.publish = slowly  # type: ignore[method-assign]
    await house.begin(hold="1s", min_requests=1)
    house.count((1, 0), (9, 0))
    assert (await house.wait(0.9, 0.1))["step"] == 1
    assert (await house.wait(0.2, 0.1))["step"] == 2
    house.count((1, 0), (9, 0))
    assert (await house.wait(0.8, 0.1))["step"] == 2, "the edit took most of a second"
    assert (await house.wait(0.4, 0.1))["step"] == 3


async def test_a_canary_that_fails_goes_back_in_one_edit_and_says_why() -> None:
    house = House()
    await house.publisher.publish(
        lambda d: edits.set_weights(d, "digits", {"digits-cnn": 0}, partial=True), who="o"
    )
    await house.begin(steps=[10, 100])
    revision = house.publisher.table.revision
    house.count((212, 9), (1908, 17))
    shown = await house.wait(1)
    assert shown["state"] == "rolled_back"
    assert house.weights == {"digits-linear": 90, "digits-cnn": 0}
    assert house.publisher.table.revision == revision + 1 == shown["revision"]
    guard = shown["guards"]["errors"]
    assert guard["verdict"] == "failed"
    assert guard["canary"] == {"events": 9, "requests": 212}
    assert guard["sentence"] == (
        "errors: 9 of 212 against 17 of 1,908 at 10 %: E = 119 ≥ 100, rolled back"
    )
    assert shown["history"][-1]["why"] == guard["sentence"]
    newest = (await house.publisher.history(limit=1)).edits[0]
    assert guard["sentence"] in newest.why


@pytest.mark.parametrize("word", ["pause", None])
async def test_a_failed_guard_acts_while_it_is_paused_and_while_it_waits(word: str | None) -> None:
    house = House()
    step = {"percent": 10, "hold": "0s", "min_requests": 1, "approval": True}
    await house.begin(steps=[step, 100])
    if word is None:
        house.count((1, 0), (9, 0))
        assert (await house.wait(1))["state"] == "waiting"
    else:
        await house.commands.command("digits", word)
        assert (await house.wait(500))["state"] == "paused"
    house.count((100, 50), (900, 1))
    assert (await house.wait(1))["state"] == "rolled_back"


async def test_what_speaks_against_it_and_is_not_enough_holds_it() -> None:
    house = House()
    await house.begin(steps=[10, 100])
    house.count((100, 5), (900, 8))
    shown = await house.wait(500)
    assert shown["guards"]["errors"]["verdict"] == "failing"
    assert (shown["state"], shown["step"]) == ("running", 1)


async def test_a_guard_that_holds_pauses_once_and_a_person_may_go_on() -> None:
    house = House()
    await house.begin(steps=[10, 100], guards={"errors": {"on_fail": "hold"}})
    house.count((100, 50), (900, 1))
    assert (await house.wait(5))["state"] == "paused"
    await house.commands.command("digits", "resume")
    assert (await house.wait(50))["state"] == "running"
    assert (await house.wait(50))["step"] == 2


async def test_who_said_to_go_on_is_not_asked_again_by_a_successor() -> None:
    house = House()
    await house.begin(steps=[10, 100], guards={"errors": {"on_fail": "hold"}})
    house.count((100, 50), (900, 1))
    assert (await house.wait(5))["state"] == "paused"
    await house.commands.command("digits", "resume")
    successor = await house.successor().taken_up()
    assert (await successor.wait(1))["state"] == "running"


async def test_a_guard_that_warns_says_so_and_stops_nothing() -> None:
    house = House()
    heard = house.events.subscribe()
    await house.begin(steps=[10, 100], guards={"errors": {"on_fail": "warn"}})
    house.count((100, 50), (900, 1))
    assert (await house.wait(61))["step"] == 2
    heard.close()
    told = [event["why"] async for event in heard if event["type"] == "rollout"]
    assert any("warned" in why for why in told)


async def test_a_canary_without_a_healthy_instance_is_a_failure_at_once() -> None:
    house = House()
    await house.begin()
    house.working = frozenset({"digits-linear"})
    shown = await house.wait(1)
    assert shown["state"] == "rolled_back"
    why = "digits-cnn has no healthy instance: digits-cnn:1 is draining"
    assert shown["history"][-1]["why"] == why


async def test_a_canary_that_has_everything_and_dies_goes_back_to_those_that_could_serve() -> None:
    house = House()
    await house.begin(steps=[50, 100])
    await house.commands.command("digits", "promote")
    assert house.weights == {"digits-linear": 0, "digits-cnn": 100}
    house.working = frozenset({"digits-linear"})
    shown = await house.wait(1)
    assert shown["state"] == "rolled_back"
    assert "no healthy instance" in shown["history"][-1]["why"]
    assert house.weights == START


async def test_after_a_restart_a_canary_may_load_for_a_while_and_no_longer() -> None:
    before = House()
    await before.begin()
    house = await before.successor().taken_up()
    house.working = frozenset({"digits-linear"})
    assert (await house.wait(LOADING_S - 1))["state"] == "running"
    assert (await house.wait(1))["state"] == "rolled_back"


async def test_after_a_restart_a_canary_that_was_there_and_goes_fails_at_once() -> None:
    before = House()
    await before.begin()
    house = await before.successor().taken_up()
    await house.wait(1)
    house.working = frozenset({"digits-linear"})
    assert (await house.wait(1))["state"] == "rolled_back"


async def test_where_nobody_is_well_it_is_not_the_canarys_fault() -> None:
    house = House()
    await house.begin()
    house.working = frozenset()
    assert (await house.wait(9))["state"] == "running"


async def test_while_nothing_beside_it_can_serve_no_step_is_held_or_passed() -> None:
    house = House()
    await house.begin(steps=[50, 100])
    house.working = frozenset({"digits-cnn"})
    house.counts["50/50"] = [500, 0, 500, 0, 0, 0, 0, 0]  # as workers decide then
    house.count()
    assert (await house.wait(300))["step"] == 1, "all went to the canary, compared with nothing"
    house.working = frozenset({"digits-linear", "digits-cnn"})
    assert (await house.wait(60))["step"] == 1, "none of them counts as judged at this step"
    house.count((10, 0), (10, 0))
    assert (await house.wait(1))["step"] == 2
    house.working = frozenset({"digits-cnn"})
    house.count((10, 0))
    assert (await house.wait(60))["state"] == "done", "at 100 % nothing is beside it by the plan"


async def test_a_rollout_that_is_held_by_what_is_beside_it_says_so_and_when_it_goes_on() -> None:
    house = House()
    await house.begin(steps=[50, 100])
    heard = house.events.subscribe()
    house.working = frozenset({"digits-cnn"})
    await house.wait(1)
    house.working = frozenset({"digits-linear", "digits-cnn"})
    assert len((await house.wait(9))["history"]) == 1, "a moment is none"
    house.working = frozenset({"digits-cnn"})
    last = (await house.wait(30))["history"][-1]
    assert (last["state"], last["step"]) == ("running", 1)
    assert last["why"].startswith("held: no healthy instance of digits-linear")
    house.keeper.keep({"digits": house.rollouts.of("digits").as_json()})
    after = await house.successor().taken_up()
    after.working = frozenset({"digits-cnn"})
    assert len((await after.wait(30))["history"]) == 2, "a successor says it no second time"
    house.working = frozenset({"digits-linear", "digits-cnn"})
    last = (await house.wait(1))["history"][-1]
    assert last["why"] == "goes on: digits-linear has a healthy instance again"
    house.events.close()
    told = [(each["state"], each["why"][:4]) async for each in heard if each["type"] == "rollout"]
    assert told == [("running", "held"), ("running", "goes")]


async def test_a_canary_that_refuses_what_others_take_gets_no_more_and_says_so() -> None:
    """To refuse as busy is no error, and no proof of being well either."""
    house = House()
    await house.begin(steps=[50, 100])
    house.count((0, 0), (40, 0), refused=40)
    shown = await house.wait(90)
    assert (shown["state"], shown["step"], shown["refused"]) == ("running", 1, 40)
    guard = shown["guards"]["errors"]
    assert guard["verdict"] == "no_data"
    assert guard["sentence"] == "errors: no requests of the canary yet, 40 refused as busy"
    said = "digits-cnn refuses 40 of 40 requests of this step as busy, the others 0 of 40"
    assert shown["held"] == said
    assert shown["history"][-1]["why"] == f"held: {shown['held']}"
    house.count((60, 0), (60, 0), refused=40)
    after = await house.successor().taken_up()
    assert (await after.wait(9))["step"] == 1, "sixty would be enough of one that takes them"
    after.count((700, 0), (700, 0), refused=40)
    shown = await after.wait(1)
    assert (shown["step"], shown["requests"], shown["refused"]) == (2, 0, 0)
    assert [each["why"][:4] for each in shown["history"]][1:] == ["held", "goes", "760 "]


async def test_a_canary_that_refuses_no_more_than_the_others_at_the_same_step_is_led_on() -> None:
    house = House()
    await house.begin(steps=[5, 50, 100])
    house.count((60, 0), (60, 0), refused=40, beside=36)
    assert (await house.wait(61))["step"] == 2
    house.count((40, 0), (200, 0), refused=40, beside=0)
    shown = await house.wait(61)
    said = "digits-cnn refuses 40 of 80 requests of this step as busy, the others 0 of 200"
    assert (shown["step"], shown["held"]) == (2, said)
    house.count((0, 0), (0, 0), refused=40, beside=180)
    assert (await house.wait(1))["step"] == 3


async def test_a_canary_that_has_all_and_refuses_some_of_it_is_not_done() -> None:
    house = House()
    await house.begin(steps=[100])
    house.count((60, 0), (0, 0), refused=40)
    shown = await house.wait(61)
    said = "digits-cnn refuses 40 of 100 requests of this step as busy"
    assert (shown["state"], shown["held"]) == ("running", said)


async def test_after_it_went_back_its_guards_still_say_at_which_share_they_judged() -> None:
    house = House()
    await house.begin()
    house.count((40, 0), (760, 0))
    await house.wait(1)
    said = house.shown()["guards"]["errors"]["sentence"]
    assert "of 760 at 5 %" in said
    shown = await house.commands.command("digits", "abort")
    assert shown["share"] == 10, "the weights of the start"
    assert shown["guards"]["errors"]["sentence"] == said


async def test_its_first_requests_teach_nothing() -> None:
    house = House()
    await house.begin(warmup=20)
    assert house.asked["digits"]["warming"]
    house.count(warmed=19)
    await house.wait(1)
    assert house.asked["digits"]["warming"]
    house.count(warmed=20)
    await house.wait(1)
    assert not house.asked["digits"]["warming"]


async def test_a_threshold_is_learned_from_the_interval_before() -> None:
    house = House()
    await house.begin()
    told: Any = {
        "type": "judged", "id": house.asked["digits"]["id"], "worker": "w", "counts": {},
        "times": {"100": 100}, "warmed": 0, "refused": {}, "keys": {}, "answers": {}, "numbers": [],
    }  # fmt: skip
    house.rollouts.hear(told)
    await house.wait(4)
    assert house.asked["digits"]["slow_s"] == 0.0
    await house.wait(1)
    first = house.asked["digits"]["slow_s"]
    assert first > 0.0
    house.rollouts.hear({**told, "times": {"100": 100, "200": 60}})
    await house.wait(5)
    assert house.asked["digits"]["slow_s"] > first, "of the new ones alone"


PREDICTIONS = {"predictions": {"field": "/digit", "on_fail": "hold"}}


async def test_a_canary_that_answers_otherwise_is_found_by_its_answers() -> None:
    house = House()
    await house.begin(steps=[10, 100], guards=PREDICTIONS)
    assert house.asked["digits"]["field"] == "/digit"
    house.answers = {"≤ 1": {"10/100": [55, 500]}, "≤ 7": {"10/100": [45, 400]}}
    house.count((100, 0), (900, 0))
    shown = await house.wait(1)
    assert shown["guards"]["predictions"]["verdict"] == "well"
    assert shown["guards"]["predictions"]["canary"]["requests"] == 100
    house.answers = {"≤ 1": {"10/100": [110, 500]}, "≤ 7": {"10/100": [2, 800]}}
    house.count((100, 0), (900, 0))
    shown = await house.wait(1)
    assert (shown["state"], shown["guards"]["predictions"]["verdict"]) == ("paused", "failed")
    assert shown["guards"]["predictions"]["sentence"].startswith(
        "predictions: ≤ 7: 2 of 112 against 800 of 1,300 at 10 %: E = "
    )


async def test_a_guard_that_has_nothing_to_judge_says_what_it_lacks() -> None:
    house = House()
    guards = {"errors": {}, "latency": {}, "predictions": {"field": "/digit"}, "agreement": {}}
    house.mirrored = ("m", Counts(), True)
    await house.begin(guards=guards)

    def said() -> list[str]:
        told = house.shown()["guards"]
        return [told[name]["sentence"] for name in guards if told[name]["verdict"] == "no_data"]

    assert said() == [
        "errors: no requests of the canary yet",
        "latency: no requests of the canary yet",
        "predictions: no requests of the canary yet",
        "agreement: no pair of answers was compared yet",
    ]
    house.count((10, 0), (190, 0))
    for row in house.counts.values():
        row[2] = row[6] = 0  # none of them was timed
    house.count()
    assert said() == [
        "latency: no threshold yet, which takes 50 answers of the others",
        "predictions: no answer of the canary with /digit yet",
        "agreement: no pair of answers was compared yet",
    ]


async def test_a_step_that_waits_for_a_guard_with_nothing_to_judge_says_so() -> None:
    """Where the canary gets everything at once nobody else is timed: it never ends by itself."""
    house = House()
    await house.begin(steps=[100], hold="5s", guards={"errors": {}, "latency": {}})
    house.count((300, 0))
    house.counts["100/100"][2] = 0  # none of them was timed
    house.count()
    assert (await house.wait(30))["held"] == "", "by then there may be a threshold"
    shown = await house.wait(10)
    assert (shown["state"], shown["step"]) == ("running", 1)
    assert shown["held"] == "latency: no threshold yet, which takes 50 answers of the others"
    assert shown["history"][-1]["why"] == f"held: {shown['held']}"
    assert (await house.commands.command("digits", "promote"))["state"] == "done"


async def test_numbers_are_told_apart_by_the_deciles_of_the_others_before() -> None:
    house = House()
    await house.begin(steps=[10, 100], guards=PREDICTIONS)
    house.numbers = [number / 100 for number in range(100)]
    house.count((1, 0), (100, 0))
    await house.wait(6)
    assert house.asked["digits"]["edges"] == tuple(number / 10 for number in range(1, 10))


def test_kinds_of_answers_keep_their_places() -> None:
    tallies = Tallies()
    tallies.hear(told("a", 1, answers={"x": {"1/10": [1, 0]}}))
    tallies.hear(told("b", 1, answers={"y": {"1/10": [1, 0]}, "x": {"1/10": [0, 3]}}))
    again = Tallies.from_json(tallies.as_json())
    again.hear(told("c", 1, answers={"z": {}}))
    found = again.answers()
    assert [(answer, found[answer].place) for answer in found] == [("x", 0), ("y", 1), ("z", 2)]
    assert found["x"].events == {0.1: (1, 3)}


async def test_while_it_runs_nobody_else_edits_its_split() -> None:
    house = House()
    await house.begin()

    async def weigh(dry_run: bool = False) -> None:
        await house.publisher.publish(
            lambda d: edits.set_weights(d, "digits", {"digits-cnn": 7}, partial=True),
            who="operator",
            dry_run=dry_run,
        )

    for dry_run in (True, False):
        with pytest.raises(Conflict, match="rollout of 'digits-cnn' runs on route 'digits'"):
            await weigh(dry_run)
    with pytest.raises(Conflict):
        await house.publisher.publish(lambda d: edits.delete_route(d, "digits"), who="operator")
    with pytest.raises(Conflict):
        await house.publisher.restore(1, who="operator")
    changed = FILE.replace("digits-cnn: 10", "digits-cnn: 11")
    with pytest.raises(Conflict):
        await house.publisher.apply(parse(changed)[1], who="operator")
    await house.publisher.apply(parse(FILE.replace("/predict", "/other"))[1], who="operator")
    await house.commands.command("digits", "abort")
    assert house.weights == START
    await weigh()


async def test_a_second_one_is_refused_as_one_runs_also_when_the_first_has_all_the_weight() -> None:
    house = House()
    await house.begin(steps=[100])
    assert house.weights["digits-linear"] == 0
    with pytest.raises(Conflict, match="runs on route"):
        await house.begin()


async def test_a_second_one_is_refused_and_a_finished_one_makes_room_or_is_forgotten() -> None:
    house = House()
    await house.begin()
    with pytest.raises(Conflict, match="runs on route"):
        await house.begin()
    with pytest.raises(Conflict, match="abort it first"):
        await house.commands.forget("digits")
    await house.commands.command("digits", "abort")
    with pytest.raises(Conflict, match="cannot pause"):
        await house.commands.command("digits", "pause")
    assert (await house.begin())["state"] == "running"
    await house.commands.command("digits", "abort")
    await house.commands.forget("digits")
    with pytest.raises(Missing):
        house.shown()


async def test_one_that_has_ended_goes_with_its_route() -> None:
    house = House()
    await house.begin()
    await house.commands.command("digits", "abort")
    await house.publisher.publish(lambda d: edits.delete_route(d, "digits"), who="operator")
    with pytest.raises(Missing, match="no route 'digits'"):
        house.shown()
    house.rollouts.sync(house.publisher.table)
    await house.publisher.restore(1, who="operator")
    with pytest.raises(Missing, match="no rollout"):
        house.shown()  # the route is another one, by that name
    house.now += 2
    await house.rollouts.look()
    assert house.keeper.load() == {}


async def test_a_dry_run_and_a_disk_that_refuses_change_nothing() -> None:
    class Full(InMemory):
        is_full = True

        def keep(self, rollouts: Mapping[str, Any]) -> None:
            if self.is_full:
                raise DiskRefused("no space")
            super().keep(rollouts)

    full = Full()
    house = House(full)
    tried = await house.commands.begin("digits", PLAN, How(dry_run=True))
    assert [step["percent"] for step in tried["plan"]["steps"]] == [5, 50, 100]
    assert (tried["state"], tried["step"], tried["share"]) == ("running", 1, 5)
    with pytest.raises(DiskRefused):
        await house.begin()
    assert house.weights == START
    with pytest.raises(Missing):
        house.shown()
    full.is_full = False
    await house.begin()
    full.is_full = True
    with pytest.raises(DiskRefused):
        await house.commands.command("digits", "abort")
    assert house.weights == {"digits-linear": 95, "digits-cnn": 5}
    assert (await house.wait(3))["state"] == "running", "what was refused is not done later"


class Filling(InMemory):
    """Has room for so many more writes."""

    room = 10**9

    def keep(self, rollouts: Mapping[str, Any]) -> None:
        if not self.room:
            raise DiskRefused("no space")
        self.room -= 1
        super().keep(rollouts)


async def test_a_disk_that_fills_with_the_first_step_leaves_it_guarded() -> None:
    house = House(Filling())
    house.keeper.room = 1  # the wish, and the edit; not that it is made
    assert (await house.begin())["state"] == "running"
    assert house.weights == {"digits-linear": 95, "digits-cnn": 5}
    house.count((100, 100), (1900, 0))
    house.keeper.room = 10**9
    assert (await house.wait(1))["state"] == "rolled_back"
    assert house.weights == START


async def test_what_failed_and_cannot_go_back_says_so_and_not_that_it_did() -> None:
    house = House(Filling())
    await house.begin()
    house.keeper.room = 0
    house.count((100, 100), (1900, 0))
    shown = await house.wait(1)
    assert (shown["state"], shown["pending"]) == ("running", "rolled_back")
    assert shown["held"] == "cannot become rolled back: no space"
    assert shown["guards"]["errors"]["sentence"].endswith("≥ 100")
    house.keeper.room = 10**9
    shown = await house.wait(1)
    assert (shown["state"], shown["pending"], shown["held"]) == ("rolled_back", "", "")
    assert shown["guards"]["errors"]["sentence"].endswith("≥ 100, rolled back")


async def test_on_a_full_disk_there_is_room_to_go_back_and_for_nothing_else() -> None:
    class Reserve(Filling):
        held = 2

        def make_room(self) -> bool:
            self.room, self.held = self.room + self.held, 0
            return self.room > 0

    house = House(Reserve())
    await house.begin()
    house.keeper.room = 0
    with pytest.raises(DiskRefused):
        await house.commands.command("digits", "promote")
    house.count((100, 100), (1900, 0))
    assert (await house.wait(1))["state"] == "rolled_back"
    assert house.weights == START


def test_a_file_holds_room_while_a_rollout_runs_and_not_while_it_moves(tmp_path: Path) -> None:
    file = RolloutFile(tmp_path / "rollouts.json")
    assert not file.make_room()
    file.keep({"r": {"state": "running", "move": None}})
    assert (tmp_path / "rollouts.room").stat().st_size == ROOM
    assert file.make_room()
    (tmp_path / "rollouts.room").unlink()
    file.keep({"r": {"state": "running", "move": {"state": "rolled_back"}}})
    assert not file.make_room(), "what is decided may need it"
    file.keep({"r": {"state": "paused", "move": None, "tallies": "k" * ROOM}})
    assert (tmp_path / "rollouts.room").stat().st_size > 1.5 * ROOM - 1, "room for what there is"
    file.keep({"r": {"state": "rolled_back", "move": None}})
    assert [each.name for each in tmp_path.iterdir()] == ["rollouts.json"]


async def test_a_successor_holds_room_again_for_what_it_takes_up(tmp_path: Path) -> None:
    class Room:
        held = 0

        def hold(self, size: int) -> None:
            self.held = size

        def release(self) -> None:
            self.held = 0

    path, room = tmp_path / "rollouts.json", Room()
    house = House(RolloutFile(path))
    await house.begin()
    await house.commands.command("digits", "pause")
    after = await house.successor(RolloutFile(path, edits=room)).taken_up()
    await after.wait(2)
    assert room.held == ROOM
    await after.commands.command("digits", "abort")
    assert room.held == 0


async def test_what_was_done_is_written_once_there_is_room_and_not_called_refused() -> None:
    house = House(Filling())
    await house.begin()
    house.keeper.room = 1
    assert (await house.commands.command("digits", "promote"))["step"] == 2
    assert house.keeper.load()["digits"]["step"] == 0, "as a wish"
    house.keeper.room = 10**9
    await house.wait(2)
    assert house.keeper.load()["digits"]["step"] == 1


async def test_an_end_that_could_not_be_written_is_written_though_nothing_runs_any_more() -> None:
    house = House(Filling())
    await house.begin()
    house.keeper.room = 1
    task = asyncio.create_task(house.rollouts.run())
    assert (await house.commands.command("digits", "abort"))["state"] == "aborted"
    house.keeper.room = 10**9
    house.now += 5

    async def written() -> bool:
        return bool(house.keeper.load()["digits"]["state"] == "aborted")

    await eventually(written, what="the end is written", every_s=0.02)
    task.cancel()


async def test_a_move_that_is_stored_is_done_once_every_worker_decides_by_it() -> None:
    class Late(ScriptedWorkers):
        is_late = False

        async def put_in_force(self, table: Table) -> int:
            if self.is_late:
                raise NotInForce(table.revision, [7])
            return await super().put_in_force(table)

    settings, document = parse(FILE)
    workers, events = Late(), Events()
    store, instances = MemoryStore(), ScriptedInstances()
    publisher = Publisher(store, workers, instances, events, check=Checks(settings))
    publisher.start(document, why="test")
    house = House(publisher=publisher)
    await house.begin()
    workers.is_late = True
    house.count((100, 100), (1900, 0))
    assert (await house.wait(1))["state"] == "running", "a worker may decide by the table before"
    workers.is_late = False
    shown = await house.wait(1)
    assert (shown["state"], house.weights) == ("rolled_back", START)
    assert shown["revision"] == publisher.table.revision


@pytest.mark.parametrize("word", ["pause", "abort"])
async def test_a_command_that_could_not_be_written_has_changed_nothing(word: str) -> None:
    house = House(Filling())
    await house.begin()
    house.keeper.room = 0
    with pytest.raises(DiskRefused):
        await house.commands.command("digits", word)
    assert house.shown()["state"] == "running"


async def test_a_command_that_was_refused_is_logged_with_its_route_and_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    house = House()
    with pytest.raises(Missing):
        await house.commands.command("digits", "pause")
    with pytest.raises(Missing):
        await house.commands.forget("digits")
    await house.begin()
    with pytest.raises(Conflict):
        await house.begin()
    assert [each.getMessage() for each in caplog.records if "refused" in each.msg] == [
        "to pause the rollout on digits was refused: Missing: route 'digits' has no rollout",
        "to forget the rollout on digits was refused: Missing: route 'digits' has no rollout",
        "to begin a rollout on digits was refused: Conflict: a rollout of 'digits-cnn' runs on"
        " route 'digits' already",
    ]


async def test_a_command_that_was_refused_is_no_wish_that_a_successor_finds() -> None:
    house = House()
    await house.begin()

    def refused(*_: object) -> None:
        raise Conflict("not now")

    house.publisher.allow = refused
    with pytest.raises(Conflict):
        await house.commands.command("digits", "abort")
    await house.wait(1)
    assert house.keeper.load()["digits"]["move"] is None


async def test_a_command_that_is_but_tried_says_where_it_would_lead() -> None:
    house = House()
    await house.begin()
    for word, state, step, share in (
        ("pause", "paused", 1, 5),
        ("promote", "running", 2, 50),
        ("abort", "aborted", 1, 10),
    ):
        tried = await house.commands.command("digits", word, How(dry_run=True))
        assert (tried["state"], tried["step"], tried["share"]) == (state, step, share)
    shown = house.shown()
    assert (shown["state"], shown["step"], shown["share"]) == ("running", 1, 5)
    assert house.weights == {"digits-linear": 95, "digits-cnn": 5}


async def test_promote_goes_on_and_approve_answers_a_wait() -> None:
    house = House()
    await house.begin()
    with pytest.raises(Conflict, match="cannot approve"):
        await house.commands.command("digits", "approve")
    assert (await house.commands.command("digits", "promote"))["step"] == 2
    assert (await house.commands.command("digits", "promote"))["step"] == 3
    assert (await house.commands.command("digits", "promote"))["state"] == "done"


async def test_the_old_backend_goes_where_the_plan_says_so() -> None:
    house = House()
    await house.begin(steps=[100], on_done="remove_old")
    await house.commands.command("digits", "promote")
    assert house.weights == {"digits-cnn": 100}


async def test_a_backend_that_had_nothing_at_the_start_is_no_old_one() -> None:
    house = House()

    def with_a_reserve(document: Document) -> Document:
        document = edits.put(document, "backends", "reserve", {"instances": ["http://127.0.0.1:9"]})
        route = edits.entry_of(document, "routes", "digits")
        split = {**route["split"], "reserve": 0}
        return edits.put(document, "routes", "digits", {**route, "split": split})

    await house.publisher.publish(with_a_reserve, who="o")
    await house.begin(steps=[100], on_done="remove_old")
    await house.commands.command("digits", "promote")
    assert house.weights == {"digits-cnn": 100, "reserve": 0}


async def test_a_plan_that_was_taken_before_is_not_asked_for_what_new_ones_are(
    tmp_path: Path,
) -> None:
    keeper = RolloutFile(tmp_path / "rollouts.json")
    house = House(keeper)
    await house.begin(steps=[50])
    kept = dict(keeper.load())
    said = {**kept["digits"]["said"], "on_done": "remove_old"}
    keeper.keep({"digits": {**kept["digits"], "said": said}})
    assert House(keeper, house.publisher).shown()["share"] == 50


# -- death


async def test_a_successor_goes_on_with_the_same_evidence_and_no_time_was_held(
    tmp_path: Path,
) -> None:
    keeper = RolloutFile(tmp_path / "rollouts.json")
    house = House(keeper)
    await house.begin(steps=[10, 100])
    house.count((100, 5), (900, 8))
    before = await house.wait(30)
    successor = await house.successor(RolloutFile(tmp_path / "rollouts.json")).taken_up()
    after = successor.shown()
    assert after == before
    successor.count((100, 7), (100, 0), worker="w")
    assert (await successor.wait(1))["state"] == "rolled_back"


async def test_time_that_was_held_without_a_request_is_no_time_to_hold_again() -> None:
    house = House()
    await house.begin(steps=[10, 100])
    await house.wait(33)
    successor = await house.successor().taken_up()
    assert successor.shown()["held_s"] == 30


async def test_killed_at_any_write_it_ends_with_the_weights_of_a_step_or_of_its_start() -> None:
    """The successor finds what was kept last: before the edit, after it, or before it was noted."""

    class Dying(InMemory):
        left = 10**9

        def keep(self, rollouts: Mapping[str, Any]) -> None:
            if not self.left:
                raise DiskRefused("killed")
            self.left -= 1
            super().keep(rollouts)

    for moment in range(8):
        keeper = Dying()
        house = House(keeper)
        await house.begin(hold="0s", min_requests=1)
        keeper.left = moment
        try:
            house.count((100, 0), (100, 0))
            await house.commands.command("digits", "promote")
            await house.commands.command("digits", "promote")
            await house.commands.command("digits", "abort")
        except DiskRefused:
            pass
        keeper.left = 10**9
        successor = house.successor()
        shown = await successor.wait(1)
        steps = [{"digits-linear": 100 - p, "digits-cnn": p} for p in (5, 50, 100)]
        if shown["state"] == "aborted":
            assert successor.weights == START
        else:
            assert successor.weights == steps[shown["step"] - 1]


async def test_a_split_that_was_edited_while_nothing_ran_is_not_fought_for() -> None:
    house = House()
    await house.begin()
    house.publisher.allow = lambda *_: None
    await house.publisher.publish(
        lambda d: edits.set_weights(d, "digits", {"digits-cnn": 7}, partial=True), who="file"
    )
    successor = await house.successor().taken_up()
    shown = await successor.wait(1)
    assert shown["state"] == "aborted"
    assert successor.weights == {"digits-linear": 95, "digits-cnn": 7}
    assert shown["share"] == pytest.approx(100 * 7 / 102, abs=1e-4), "not that of its start"
    later = await successor.successor().taken_up()
    assert later.shown()["share"] == shown["share"]


async def started_anew_with(text: str) -> House:
    """What takes over from a rollout at 80:20, with a file that was edited meanwhile."""
    house = House()
    await house.begin(steps=[20, 100])
    assert house.weights == {"digits-linear": 80, "digits-cnn": 20}
    settings, document = parse(text)
    publisher = make_publisher(house.store, settings, Events())
    successor = House(house.keeper, publisher)
    publisher.start(document, why="test", meets=successor.rollouts.given_back)
    return successor


async def test_a_file_that_edits_the_split_while_nothing_runs_gets_its_own_and_no_mixture() -> None:
    successor = await started_anew_with(FILE.replace("digits-linear: 90", "digits-linear: 9"))
    assert successor.weights == {"digits-linear": 9, "digits-cnn": 10}
    await successor.taken_up()
    assert (await successor.wait(1))["state"] == "aborted"


async def test_a_file_that_edits_something_else_meanwhile_leaves_the_rollout_its_split() -> None:
    successor = await started_anew_with(FILE.replace("match: /digits", "match: /numbers"))
    assert successor.weights == {"digits-linear": 80, "digits-cnn": 20}
    await successor.taken_up()
    assert (await successor.wait(1))["state"] == "running"


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"version": 2}', b'{"version": 1}'])
def test_a_file_that_is_damaged_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rollouts.json"
    path.write_bytes(content)
    with pytest.raises(StateRefused, match="kept as it is"):
        RolloutFile(path).load()
    assert path.read_bytes() == content


# -- what was counted


def told(worker: str, requests: int, **more: Any) -> Any:
    return {
        "type": "judged", "id": "i", "worker": worker, "times": {}, "warmed": 0, "refused": {},
        "keys": {}, "answers": {}, "numbers": [],
        "counts": {"1/10": [requests, 1, 0, 0, 0, 0, 0, 0]}, **more,
    }  # fmt: skip


def test_what_is_told_twice_counts_once_and_who_ends_keeps_what_it_told() -> None:
    tallies = Tallies()
    for requests in (3, 5, 5):
        tallies.hear(told("a", requests))
    tallies.hear(told("b", 2))
    assert tallies.ended == 7
    assert tallies.events("errors") == {0.1: (2, 0)}
    again = Tallies.from_json(tallies.as_json())
    again.hear(told("a", 6))
    assert again.ended == 8


def test_of_very_many_workers_the_oldest_are_summed_up_and_believed_no_more() -> None:
    tallies = Tallies()
    for number in range(3 * MAX_NAMED):
        tallies.hear(told(f"w{number}", 1))
    tallies.hear(told("w0", 100))
    assert tallies.ended == 3 * MAX_NAMED


def test_a_key_counts_once_whoever_tells_it() -> None:
    tallies = Tallies()
    tallies.hear(told("a", 1, keys={"errors": [(7, "1/10", 0, "")]}))
    tallies.hear(told("b", 1, keys={"errors": [(7, "1/2", 0, ""), (8, "1/2", 4, "")]}))
    assert tallies.events("errors") == {0.1: (3, 0), 0.5: (0, 1)}
    assert Tallies.from_json(tallies.as_json()).events("errors") == tallies.events("errors")


def test_a_key_has_one_answer_too() -> None:
    tallies = Tallies()
    tallies.hear(told("a", 1, keys={"predictions": [(7, "1/10", 0, "x"), (8, "1/10", 4, "y")]}))
    tallies.hear(told("b", 1, keys={"predictions": [(7, "1/10", 0, "y"), (9, "1/10", 4, "x")]}))
    for each in (tallies, Tallies.from_json(tallies.as_json())):
        found = each.answers()
        assert found["x"].events == {0.1: (1, 1)}
        assert found["y"].events == {0.1: (0, 1)}


# -- agreement

AGREEMENT = {"agreement": {"at_least": 0.98}}


def pairs(pairs: int, differ: int, noise: int = 0, twice: bool = True) -> tuple[str, Counts, bool]:
    """What a comparison has counted, where each request was answered twice by the stable one."""
    return "one", Counts(pairs, differ, pairs, differ, noise), twice


async def test_a_canary_that_answers_otherwise_is_held_with_the_sentence() -> None:
    house = House()
    house.mirrored = pairs(1000, 500)  # of before: none of this rollout's
    await house.begin(guards=AGREEMENT)
    assert house.shown()["guards"]["agreement"]["verdict"] == "no_data"
    house.mirrored = pairs(1200, 520)
    shown = await house.wait(1)
    assert shown["state"] == "paused"
    guard = shown["guards"]["agreement"]
    assert guard["verdict"] == "failed"
    assert (guard["canary"], guard["stable"]) == (
        {"events": 20, "requests": 200},
        {"events": 0, "requests": 200},
    )
    assert guard["sentence"].startswith("agreement: 20 of 200 against 0 of 200 at 5 %: E = ")
    assert guard["sentence"].endswith("≥ 100, held")
    assert house.weights == {"digits-linear": 95, "digits-cnn": 5}


async def test_what_the_stable_version_does_to_itself_excuses_the_canary() -> None:
    house = House()
    house.mirrored = pairs(0, 0)
    await house.begin(guards=AGREEMENT)
    house.mirrored = pairs(200, 20, noise=18)
    shown = await house.wait(1)
    assert shown["state"] == "running"
    assert shown["guards"]["agreement"]["verdict"] == "well"


async def test_a_canary_that_nearly_always_agrees_is_led_on() -> None:
    house = House()
    house.mirrored = pairs(0, 0, twice=False)
    await house.begin(guards=AGREEMENT)
    house.count((10, 0), (190, 0))
    assert (await house.wait(61))["step"] == 1, "without a pair nobody knows"
    house.mirrored = pairs(1000, 2, twice=False)
    assert (await house.wait(1))["step"] == 2


async def test_evidence_of_pairs_is_gone_on_with_by_another_control_process() -> None:
    house = House()
    house.mirrored = pairs(100, 0)
    await house.begin(guards=AGREEMENT)
    house.mirrored = pairs(110, 1)
    await house.wait(2)
    found = house.successor()
    found.mirrored = ("one", Counts(10, 3, 10, 3, 0), True)  # the comparison began anew, too
    await found.rollouts.look()
    assert found.shown()["guards"]["agreement"]["canary"] == {"events": 4, "requests": 20}


async def test_pairs_count_once_where_the_comparison_has_not_told_a_new_control_process_yet() -> (
    None
):
    house = House()
    house.mirrored = pairs(100, 50)  # of before
    await house.begin(guards=AGREEMENT)
    house.mirrored = pairs(110, 51)
    await house.wait(2)
    found = house.successor()
    found.mirrored = "one", None, True
    await found.rollouts.look()
    found.mirrored = pairs(115, 51)
    await found.rollouts.look()
    assert found.shown()["guards"]["agreement"]["canary"] == {"events": 1, "requests": 15}


async def test_what_another_gateway_compared_before_it_goes_on_with_a_rollout_is_none_of_its() -> (
    None
):
    house = House()
    house.mirrored = pairs(100, 0)
    await house.begin(guards=AGREEMENT)
    house.mirrored = pairs(110, 1)
    await house.wait(2)
    found = house.successor()
    for counted in (1000, 500), (1020, 500):
        found.mirrored = "another", Counts(*counted, counted[0], counted[1], 0), True
        await found.rollouts.look()
    assert found.shown()["guards"]["agreement"]["canary"] == {"events": 1, "requests": 30}


async def test_agreement_needs_a_mirror_that_compares() -> None:
    with pytest.raises(Invalid, match="needs a mirror of this route to 'digits-cnn'"):
        await House().begin(guards=AGREEMENT)


async def test_nothing_is_loaded_for_a_plan_that_is_refused_with_every_fault_named() -> None:
    house, woken = House(), []

    async def ready(backend: str) -> None:
        woken.append(backend)

    def refuse(current: Any) -> None:
        raise Conflict("somebody else was quicker")

    commands = Commands(house.rollouts, house.publisher, ready=ready)
    with pytest.raises(Invalid) as refused:
        await commands.begin("digits", {**PLAN, "guards": AGREEMENT, "steps": [50, 5]})
    pointers = {fault.pointer for fault in refused.value.faults}
    assert pointers == {"/steps/1", "/guards/agreement"}
    with pytest.raises(Invalid):
        await commands.begin("digits", {**PLAN, "guards": AGREEMENT})
    with pytest.raises(Conflict, match="quicker"):
        await commands.begin("digits", PLAN, How(guard=refuse))
    assert woken == []
    await commands.begin("digits", PLAN)
    assert woken == ["digits-cnn"]


# -- plans


@pytest.mark.parametrize(
    ("said", "pointers"),
    [
        ({}, ["/to"]),
        ({"to": "digits-cn"}, ["/to"]),
        ({"steps": [5, 5]}, ["/steps/1"]),
        ({"steps": [50, 5]}, ["/steps/1"]),
        ({"steps": []}, ["/steps"]),
        ({"steps": [0, 101, 0.001, "5", True]}, [f"/steps/{n}" for n in range(5)]),
        ({"steps": [{"percent": 5, "holds": "1s"}]}, ["/steps/0/holds"]),
        ({"hold": 5, "min_requests": 0, "warmup": -1}, ["/hold", "/min_requests", "/warmup"]),
        ({"guards": {}}, ["/guards"]),
        ({"guards": {"error": {}}}, ["/guards/error"]),
        ({"guards": {"agreement": {}}}, ["/guards/agreement"]),
        ({"guards": {"predictions": {}}}, ["/guards/predictions/field"]),
        ({"guards": {"predictions": {"field": "digit"}}}, ["/guards/predictions/field"]),
        ({"guards": {"errors": {"alpha": 1, "on_fail": "x"}}},
         ["/guards/errors/alpha", "/guards/errors/on_fail"]),
        ({"steps": [5, 50], "on_done": "remove_old"}, ["/on_done"]),
        ({"on_done": "burn", "why": "a\nb", "extra": 1}, ["/extra", "/on_done", "/why"]),
    ],
)  # fmt: skip
async def test_a_plan_that_cannot_be_is_refused_with_every_fault_named(
    said: dict[str, Any], pointers: list[str]
) -> None:
    house = House()
    whole = {"to": "digits-cnn", **said} if said else {}
    with pytest.raises(Invalid) as refused:
        await house.commands.begin("digits", whole)
    assert [fault.pointer for fault in refused.value.faults] == pointers
    assert house.weights == START


async def test_a_canary_that_has_all_of_the_route_has_nothing_beside_it() -> None:
    house = House()
    await house.publisher.publish(
        lambda d: edits.set_weights(d, "digits", {"digits-linear": 0}, partial=True), who="o"
    )
    with pytest.raises(Invalid, match="nothing to compare"):
        await house.begin()


async def test_a_canary_without_any_instance_is_refused_before_anything_is_edited() -> None:
    house = House()
    await house.publisher.publish(
        lambda d: edits.put(d, "backends", "digits-cnn", {"instances": []}), who="o"
    )
    revision = house.publisher.table.revision
    with pytest.raises(Invalid, match="backend 'digits-cnn' has no instance"):
        await house.begin()
    assert house.publisher.table.revision == revision


async def test_whether_a_canary_is_well_is_found_out_before_it_is_begun() -> None:
    house = House()
    house.working = frozenset({"digits-linear"})

    async def ready(backend: str) -> None:
        house.working |= {backend}

    commands = Commands(house.rollouts, house.publisher, ready=ready)
    assert (await commands.begin("digits", PLAN))["state"] == "running"
    assert (await house.wait(1))["state"] == "running"


async def test_what_was_kept_before_refusals_were_counted_is_gone_on_with() -> None:
    house = House()
    await house.begin()
    house.count((7, 0), (133, 0))
    await house.wait(9)
    kept = house.keeper.load()["digits"]
    for key in ("entered_refused", "entered_beside", "lost"):
        del kept[key]
    del kept["tallies"]["refused"]
    house.keeper.keep({"digits": {**kept, "waits": False}})
    after = await house.successor().taken_up()
    shown = after.shown()
    assert (shown["state"], shown["requests"], shown["refused"]) == ("running", 7, 0)
    of_the_canary_alone = {**kept["tallies"], "refused": {"w": {"5/100": 3}}}
    assert Tallies.from_json(of_the_canary_alone).refused(alone=False) == 3
    assert (await after.wait(1))["held"] == ""
