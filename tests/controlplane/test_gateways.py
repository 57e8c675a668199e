"""Whom does an edit wait for, and what is said of those that are lost?"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.cli.grids import Grid
from gateway.cli.screen import plain
from gateway.cli.watching import drawn
from gateway.controlplane.events import Events
from gateway.controlplane.gateways import SharedGateways
from gateway.controlplane.published import Applied, Everywhere, NotEverywhere, Published
from gateway.controlplane.sharing import Participant
from gateway.controlplane.store.etcd.layout import Head
from gateway.controlplane.store.etcd.membership import BEHIND, Lease
from gateway.controlplane.store.etcd.watch import Seen
from gateway.controlplane.store.store import Member, NotYet, Unavailable
from gateway.controlplane.watch.alerts import alerts
from gateway.core.merging import Change
from gateway.core.table import Document, Table
from gateway.processes.tasks import Tasks
from tests.harness.gateway import eventually


def member(name: str, applied: int, workers: int = 2) -> Member:
    return Member(name, applied, workers, "2026-01-01T00:00:00Z", f"http://{name}:8081")


class Play:
    """A store that says what the test says, and this gateway, which is gw-a."""

    is_copy, copied_gateways = False, 1

    def __init__(self, before: tuple[float, int, int] = (0.0, 1, 0)) -> None:
        self.now = 1000.0
        self.told: list[tuple[float, int]] = []
        self.announced: list[Member | None] = []
        self.events = Events()
        self.gateways = SharedGateways(
            self, member("gw-a", 0), self.events, lambda *told: self.told.append(told[:2]),
            clock=lambda: self.now, wait_s=30.0, before=before,
        )  # fmt: skip

    def join(self, *, look: Callable[[Seen], None], told: Callable[[Lease], None], alive: Any):  # type: ignore[no-untyped-def]
        self.look, self.lease = look, told

    def follow(self, after: int, hear: Any) -> None: ...

    def announce(self, own: Member | None, within_s: float = 0.0) -> None:
        self.announced.append(own)
        self.within_s = within_s

    def stay(self, within_s: float = 0.0) -> None: ...

    async def see(self, number: int, *members: Member, away: str = "") -> None:
        self.look(Seen(Head(number), {each.name: each for each in members}, away=away))
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def hold(self, until: float, why: str = "") -> None:
        self.lease(Lease(until, why))
        await asyncio.sleep(0)
        await asyncio.sleep(0)


@pytest.fixture
async def play() -> Play:
    made = Play()
    await made.gateways.begin(1)
    await made.hold(1005.0)
    made.gateways.announce(Table.from_document({"backends": {}, "routes": {}}, 7), 2)
    return made


async def test_an_edit_waits_for_each_gateway_that_holds_its_lease(play: Play) -> None:
    await play.see(6, member("gw-a", 6), member("gw-b", 6), member("gw-c", 6))
    edit = asyncio.create_task(play.gateways.in_force(7))
    await asyncio.sleep(0)
    assert not edit.done(), "what is known is older than the edit"
    await play.see(7, member("gw-a", 6), member("gw-b", 7), member("gw-c", 6, 4))
    assert not edit.done(), "gw-c decides by 6"
    await play.see(7, member("gw-a", 6), member("gw-b", 8), member("gw-c", 7, 4))
    assert await edit == Everywhere(3, 8, [])


def drained(revision: int, *states: str) -> Table:
    instances = [f"http://127.0.0.1:{n}" for n in range(1, 1 + len(states))]
    out = {f"127.0.0.1:{n}": state for n, state in enumerate(states, 1) if state}
    backend = {"instances": instances, "states": out}
    return Table.from_document({"backends": {"b": backend}, "routes": {}}, revision)


async def test_others_are_told_at_which_drained_instances_requests_may_be_in_flight(
    play: Play,
) -> None:
    """With the table, so that whoever waits for that to be in force does not miss it."""

    def told() -> tuple[int, tuple[str, ...]]:
        own = play.announced[-1]
        assert own is not None
        return own.applied, own.finishing

    gateways = play.gateways
    gateways.begin_look()
    gateways.announce(drained(8, "draining", "", "disabled"), 2)
    assert told() == (8, ("b/127.0.0.1:1", "b/127.0.0.1:3")), "nobody knows yet"
    gateways.looked([])
    assert told() == (8, ("b/127.0.0.1:1", "b/127.0.0.1:3")), "that look began before"
    assert gateways.begin_look() == {"b/127.0.0.1:1", "b/127.0.0.1:3"}
    gateways.looked(["b/127.0.0.1:3"])
    assert told() == (8, ("b/127.0.0.1:3",))
    assert gateways.status(8)["gateways"]["gw-a"]["finishing"] == ("b/127.0.0.1:3",)
    gateways.announce(drained(9, "draining", "draining", "disabled"), 2)
    assert told() == (9, ("b/127.0.0.1:2", "b/127.0.0.1:3")), "of the first it is known"

    gateways.begin_look()
    gateways.announce(drained(10, "", "", "disabled"), 2)
    gateways.announce(drained(11, "draining", "", "disabled"), 2)
    gateways.looked(["b/127.0.0.1:3"])
    assert told() == (11, ("b/127.0.0.1:1", "b/127.0.0.1:3")), "it got requests in between"

    gateways.begin_look()
    gateways.looked(["b/127.0.0.1:3"])
    written = len(play.announced)
    gateways.looked(["b/127.0.0.1:3"])
    assert len(play.announced) == written, "it is told where it changed"
    gateways.looked([])
    assert told() == (11, ())
    gateways.withdraw("it cannot be read")
    gateways.looked(["b/127.0.0.1:1"])
    assert play.announced[-1] is None


async def test_who_loses_its_lease_is_waited_for_no_longer_and_named_until_it_is_back(
    play: Play,
) -> None:
    await play.see(7, member("gw-b", 7), member("gw-c", 6))
    heard = play.events.subscribe()
    edit = asyncio.create_task(play.gateways.in_force(7))
    await asyncio.sleep(0)
    await play.see(7, member("gw-b", 7))
    assert await edit == Everywhere(2, 4, ["gw-c"])
    event = await anext(heard)
    assert (event["type"], event["gateway"], event["what"]) == ("gateway", "gw-c", "lost")
    assert (await play.gateways.in_force(7)).lost == ["gw-c"]
    await play.see(7, member("gw-b", 7), member("gw-c", 7))
    assert await play.gateways.in_force(7) == Everywhere(3, 6, [])


async def test_who_says_that_it_goes_is_not_missed(play: Play) -> None:
    await play.see(7, member("gw-b", 7), member("gw-c", 6))
    await play.see(7, member("gw-b", 7), member("gw-c", 6, workers=0))
    assert await play.gateways.in_force(7) == Everywhere(2, 4, [])
    await play.see(7, member("gw-b", 7))
    assert await play.gateways.in_force(7) == Everywhere(2, 4, [])


async def test_nothing_is_promised_for_others_without_the_own_lease(play: Play) -> None:
    await play.see(7, member("gw-b", 6))
    edit = asyncio.create_task(play.gateways.in_force(7))
    await asyncio.sleep(0)
    await play.hold(0.0, "etcd does not answer")
    with pytest.raises(NotEverywhere, match="revision 7 is stored and in force here, but this"):
        await edit
    with pytest.raises(Unavailable, match=r"does not hold its lease in etcd .etcd does not answer"):
        play.gateways.check()


async def test_the_first_edit_waits_for_a_lease_that_is_just_being_taken() -> None:
    play = Play()
    await play.gateways.begin(1)
    with pytest.raises(NotYet):
        play.gateways.check()
    first = asyncio.create_task(play.gateways.settled())
    await asyncio.sleep(0)
    await play.hold(1005.0)
    await first
    play.gateways.check()
    await play.hold(0.0, BEHIND)
    with pytest.raises(Unavailable) as refused:
        play.gateways.check()
    assert not isinstance(refused.value, NotYet)


async def test_the_first_edit_waits_no_longer_once_it_is_known_why_there_is_no_lease() -> None:
    play = Play()
    await play.gateways.begin(1)
    await play.hold(0.0, BEHIND)
    first = asyncio.create_task(play.gateways.settled())
    await asyncio.sleep(0)
    assert not first.done()
    await play.hold(0.0, "etcd cannot be reached")
    await first
    with pytest.raises(Unavailable, match="etcd cannot be reached"):
        play.gateways.check()


async def test_a_lease_ends_by_the_own_clock_although_nobody_says_so(play: Play) -> None:
    play.gateways.check()
    play.now = 1005.1
    with pytest.raises(Unavailable):
        play.gateways.check()
    assert play.gateways.status(7)["store"]["lease"] == "lost"


async def test_who_keeps_its_lease_and_takes_nothing_over_is_named_at_last(play: Play) -> None:
    await play.see(7, member("gw-b", 6))
    edit = asyncio.create_task(play.gateways.in_force(7))
    await asyncio.sleep(0)
    await play.hold(9999.0)
    play.now += 31
    await play.see(7, member("gw-b", 6, 3))
    with pytest.raises(NotEverywhere, match="gateway gw-b does not take it over"):
        await edit


async def test_workers_are_told_until_when_and_by_how_many_limits_are_divided(play: Play) -> None:
    await play.see(7, member("gw-a", 7), member("gw-b", 7), member("gw-c", 7, workers=0))
    await play.hold(1010.0)
    assert play.told[-1] == (1010.0, 2)
    assert play.gateways.status(7)["limits"] == {"divided_by": 2}


async def test_workers_count_on_the_lease_of_the_control_process_before_until_there_is_one() -> (
    None
):
    play = Play(before=(1004.0, 3, 0))
    play.gateways.go_on()
    assert play.told[-1] == (1004.0, 3)
    await play.gateways.begin(1)
    await play.hold(0.0, "not yet")
    assert play.told[-1] == (1004.0, 3)
    await play.see(7, member("gw-a", 7), member("gw-b", 7))
    assert play.told[-1] == (1004.0, 2)
    await play.hold(1010.0)
    assert play.told[-1] == (1010.0, 2)
    await play.hold(0.0, "lost")
    assert play.told[-1] == (0.0, 2), "no other one counts any more"


async def test_limits_stay_divided_while_nobody_can_look_who_shares_them() -> None:
    """A control process that starts again while etcd is away, with or without a copy."""
    play = Play(before=(1004.0, 3, 0))
    play.is_copy = True
    play.gateways.go_on()
    assert play.told[-1] == (0.0, 3), "the copy may be old"
    await play.gateways.begin(1)
    play.look(Seen(away="etcd cannot be reached"))
    await play.hold(0.0, "etcd cannot be reached")
    assert play.told[-1] == (0.0, 3)
    assert play.gateways.status(7)["limits"] == {"divided_by": 3}
    await play.see(7, member("gw-b", 7))
    assert play.told[-1] == (0.0, 1)
    begun_anew = Play()
    begun_anew.is_copy, begun_anew.copied_gateways = True, 3
    begun_anew.gateways.go_on()
    assert begun_anew.told[-1] == (0.0, 3), "as the copy says"


async def test_status_alerts_and_metrics_say_who_is_live_and_who_lags(play: Play) -> None:
    await play.see(7, member("gw-a", 7), member("gw-b", 5), member("gw-c", 7))
    await play.see(7, member("gw-a", 7), member("gw-b", 5))
    shown = play.gateways.status(7)
    assert [(n, e["live"], e.get("behind")) for n, e in shown["gateways"].items()] == [
        ("gw-a", True, 0), ("gw-b", True, 2), ("gw-c", False, None),
    ]  # fmt: skip
    status = {"revision": 7, "workers": [], "routes": {}, "backends": {}, **shown}
    said = [alert["text"] for alert in alerts(status)]
    assert said == [
        "gateway gw-b decides by revision 5, 2 behind",
        "gateway gw-c has lost its lease; edits do not wait for it",
    ]
    lines = "\n".join(
        line for part in drawn(status) if isinstance(part, Grid) for line in plain(part)
    )
    assert "gw-a (this one)" in lines
    assert "2 behind" in lines
    gauges = play.gateways.gauges()
    assert gauges["headgate_gateways"] == {(): 2.0}
    assert gauges["headgate_gateway_revision"]["gw-b",] == 5.0
    await play.hold(0.0, "etcd is away")
    assert alerts({**status, **play.gateways.status(7)})[0]["kind"] == "store_lost"


async def test_what_was_edited_here_is_said_with_what_comes_next_as_nobody_waits_for_it(
    play: Play,
) -> None:
    table = Table.from_document({"backends": {}, "routes": {}}, 8)
    play.gateways.announce(table, 2, awaited=False)
    assert play.within_s > 0
    play.gateways.announce(table, 2)
    assert play.within_s == 0


async def test_who_cannot_take_a_table_over_is_no_gateway_any_more(play: Play) -> None:
    play.gateways.withdraw("revision 8 cannot be used: unknown key")
    assert play.announced[-1] is None
    await play.hold(0.0, "…")
    await eventually(lambda: "revision 8 cannot be used" in play.gateways.why)


async def test_a_file_that_is_late_is_applied_once_the_store_takes_it(
    play: Play, capsys: pytest.CaptureFixture[str]
) -> None:
    class Reluctant:
        """A publisher whose store is away again when it is asked first."""

        def __init__(self) -> None:
            self.late: Document | None = {"backends": {}, "routes": {}}
            self.asked: list[Document] = []

        async def apply(self, file: Document, *, who: str, why: str) -> Applied:
            self.asked.append(file)
            if len(self.asked) == 1:
                raise Unavailable("etcd cannot be reached")
            table = Table.from_document({"backends": {}, "routes": {}}, 7)
            lost = Change("/routes/r/split/a", 1, 2)
            return Applied(Published.nothing(table), (lost,))

    class Idle:
        def canaries(self) -> set[str]:
            return set()

    made: Any = Reluctant()
    idle: Any = Idle()
    failed = list[str]()
    tasks = Tasks(lambda name, error: failed.append(name))
    one = Participant(play.gateways, idle, made, idle, tasks, tasks, "headgate.yaml")
    one.beat()
    await eventually(lambda: len(made.asked) == 1 and made.late is not None)
    one.beat()
    await eventually(lambda: len(made.asked) == 2 and made.late is None)
    await tasks.ended()
    said = capsys.readouterr().err
    assert "not applied" not in said
    assert "the file overrides a live edit: /routes/r/split/a: 1 → 2" in said
    assert not failed
