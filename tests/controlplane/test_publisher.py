"""What happens to an edit, in which order, and what does not happen when a step fails."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from gateway.controlplane import parties
from gateway.controlplane.configuration.checks import Checks
from gateway.controlplane.events import Events
from gateway.controlplane.published import Everywhere, NotInForce, Stale, start_notes
from gateway.controlplane.publisher import Publisher
from gateway.controlplane.store.store import Kept, NotYet, Page, Revision, StoreFull, Unavailable
from gateway.core import edits
from gateway.core.faults import Invalid, Missing
from gateway.core.merging import NOT_SERVED
from gateway.core.placement import place, version_of
from gateway.core.table import Document, Table
from tests.controlplane.memory_store import MemoryStore
from tests.harness.gateway import eventually

FILE: Document = {
    "backends": {"a": {"instances": ["http://127.0.0.1:1"]}, "b": {}},
    "routes": {"r": {"match": {"path": "/r"}, "split": {"a": 90, "b": 10}}},
}


class Journal:
    """Store, workers and prober in one, which write down what was asked of them."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.store = MemoryStore()
        self.full = False
        self.hold: asyncio.Event | None = None
        self.late: list[int] = []
        self.slow: asyncio.Event | None = None

    def load(self) -> Any:
        return self.store.load()

    def commit(self, revision: Revision, applied: Document | None = None) -> None:
        if self.full:
            raise StoreFull("no space")
        self.store.commit(revision, applied)
        self.lines.append(f"durable {revision.number}")

    def applied_again(self, applied: Document, number: int) -> None:
        self.store.applied_again(applied, number)

    def history(self, *, limit: int, before: int | None = None) -> Page:
        return self.store.history(limit=limit, before=before)

    def get(self, number: int) -> Kept | None:
        return self.store.get(number)

    def close(self) -> None:
        self.lines.append("closed")

    def sync(self, table: Table) -> None:
        ports = sorted(i.port for b in table.backends.values() for i in b.instances)
        self.lines.append(f"watch {ports}")

    async def met(self, previous: Table, table: Table) -> None:
        """Nobody is asked, but while they are `slow`."""
        if self.slow is not None:
            self.lines.append("meet")
            await self.slow.wait()

    async def put_in_force(self, table: Table) -> int:
        self.lines.append(f"in force {table.revision}")
        if self.hold is not None:
            await self.hold.wait()
        if self.late:
            late, self.late = self.late, []
            raise NotInForce(table.revision, late)
        return 2


class Outrun(Journal):
    """One before which another gateway stores an edit, so often."""

    rivals = 0

    def commit(self, revision: Revision, applied: Document | None = None) -> None:
        if self.rivals:
            self.rivals -= 1
            self.store.commit(replace(revision, who="a rival"))
        super().commit(revision, applied)


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture
async def publisher(journal: Journal) -> AsyncIterator[Publisher]:
    made = new_publisher(journal)
    made.start(FILE, why="start")
    journal.lines.clear()
    yield made
    await made.close()


def new_publisher(journal: Journal, events: Events | None = None) -> Publisher:
    return Publisher(journal, journal, journal, events or Events(), check=Checks())


def beside(here: Journal, journal: Journal) -> Publisher:
    """Another gateway's, on the same store, which has begun; what happens there is in `here`."""
    here.store = journal.store
    other = new_publisher(here)
    other.start(FILE, why="start")
    here.lines.clear()
    return other


def weights(**new: int) -> Any:
    return lambda document: edits.set_weights(document, "r", new, partial=True)


async def test_an_edit_is_durable_then_visible_then_acknowledged(
    publisher: Publisher, journal: Journal
) -> None:
    published = await publisher.publish(weights(b=50), who="me", why="more")
    assert journal.lines == ["durable 2", "watch [1]", "in force 2", "watch [1]"]
    assert (published.revision, published.previous.revision, published.workers) == (2, 1, 2)
    assert publisher.table.routes["r"].weights == {"a": 90, "b": 50}
    assert [change.as_json() for change in published.diff] == [
        {"op": "replace", "pointer": "/routes/r/split/b", "before": 10, "after": 50}
    ]


async def test_instances_of_either_table_are_watched_until_all_workers_took_it_over(
    publisher: Publisher, journal: Journal
) -> None:
    def swap(document: Document) -> Document:
        added = edits.add_instance(document, "a", "http://127.0.0.1:2")
        return edits.remove_instance(added, "a", "127.0.0.1:1")

    await publisher.publish(swap, who="me")
    assert journal.lines == ["durable 2", "watch [1, 2]", "in force 2", "watch [2]"]


async def test_r38_what_cannot_be_stored_changes_nothing_and_the_next_edit_works(
    publisher: Publisher, journal: Journal
) -> None:
    journal.full = True
    with pytest.raises(StoreFull):
        await publisher.publish(weights(b=50), who="me")
    assert journal.lines == []
    assert publisher.table.revision == 1
    assert publisher.table.routes["r"].weights == {"a": 90, "b": 10}
    journal.full = False
    assert (await publisher.publish(weights(b=50), who="me")).revision == 2


async def test_an_edit_that_changes_nothing_is_acknowledged_once_what_is_there_is_in_force(
    publisher: Publisher, journal: Journal
) -> None:
    """Whoever was told that it is stored and not in force everywhere asks for it again."""
    journal.late = [7]
    with pytest.raises(NotInForce):
        await publisher.publish(weights(b=50), who="me")
    journal.lines.clear()
    published = await publisher.publish(lambda document: document, who="me")
    assert journal.lines == ["watch [1]", "in force 2", "watch [1]"]
    assert (published.revision, published.diff, published.workers) == (2, (), 2)
    journal.late = [7]
    with pytest.raises(NotInForce):
        await publisher.apply(FILE, who="me")
    applied = await publisher.apply(FILE, who="me")
    assert (applied.published.revision, applied.published.workers) == (2, 2)
    journal.lines.clear()
    dry = await publisher.publish(lambda document: document, who="me", dry_run=True)
    assert (dry.workers, journal.lines) == (0, [])


async def test_without_a_lease_nothing_is_acknowledged_and_what_is_placed_already_stays(
    journal: Journal,
) -> None:
    class Lost(parties.Gateways):
        def check(self) -> None:
            raise Unavailable("no lease")

    publisher = Publisher(
        journal, journal, journal, Events(), check=Checks(), gateways=Lost()
    )  # fmt: skip
    publisher.start(FILE, why="start")
    same = lambda document: document  # noqa: E731
    with pytest.raises(Unavailable):
        await publisher.publish(same, who="me")
    assert (await publisher.publish(same, who="up", places=True)).diff == ()
    await publisher.close()


async def test_the_first_edit_waits_for_a_lease_that_takes_an_announcement(
    journal: Journal,
) -> None:
    """It is announced under the same lock by which edits take turns."""

    class Starting(parties.Gateways):
        def __init__(self) -> None:
            self.asked, self.announced = asyncio.Event(), asyncio.Event()

        def check(self) -> None:
            self.asked.set()
            if not self.announced.is_set():
                raise NotYet("no lease")

        async def settled(self) -> None:
            await self.announced.wait()

        def announce(self, table: Table, workers: int, *, awaited: bool = True) -> None:
            self.announced.set()

        async def in_force(self, revision: int) -> Everywhere:
            return Everywhere(1, workers, [])

    workers, gateways = 2, Starting()
    publisher = Publisher(journal, journal, journal, Events(), check=Checks(), gateways=gateways)
    publisher.start(FILE, why="start")
    first = asyncio.create_task(publisher.publish(weights(b=50), who="me"))
    await gateways.asked.wait()
    following = asyncio.create_task(publisher.follow(asyncio.Queue()))
    assert (await first).revision == 2
    following.cancel()
    await publisher.close()


async def test_a_dry_run_shows_the_outcome_and_does_nothing(
    publisher: Publisher, journal: Journal
) -> None:
    published = await publisher.publish(weights(b=50), who="me", dry_run=True)
    assert published.revision == 1
    assert published.table.routes["r"].weights == {"a": 90, "b": 50}
    assert journal.lines == []
    assert publisher.table.revision == 1


async def test_an_outcome_that_cannot_be_is_refused_with_every_fault(
    publisher: Publisher, journal: Journal
) -> None:
    def worse(document: Document) -> Document:
        spec = {"match": {"path": "/r"}, "split": {"x": 1, "y": 1}}
        return edits.put(document, "routes", "s", spec)

    with pytest.raises(Invalid) as refused:
        await publisher.publish(worse, who="me")
    assert [fault.pointer for fault in refused.value.faults] == [
        "/routes/s/split/x",
        "/routes/s/split/y",
        "/routes/s/match",
    ]
    assert journal.lines == []


async def test_an_edit_for_another_revision_is_stale(publisher: Publisher) -> None:
    await publisher.publish(weights(b=1), who="me", expected=1)
    with pytest.raises(Stale):
        await publisher.publish(weights(b=2), who="me", expected=1)
    assert publisher.table.routes["r"].weights["b"] == 1


async def test_a_caller_that_leaves_stops_no_edit_half_way(
    publisher: Publisher, journal: Journal
) -> None:
    journal.hold = asyncio.Event()
    leaving = asyncio.create_task(publisher.publish(weights(b=50), who="me"))
    while "in force 2" not in journal.lines:
        await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    journal.hold.set()
    journal.hold = None
    assert (await publisher.publish(weights(b=51), who="me")).revision == 3
    assert journal.lines[3:] == ["watch [1]", "durable 3", "watch [1]", "in force 3", "watch [1]"]


async def test_an_edit_waits_for_who_is_slow_to_be_met_until_somebody_else_edits(
    publisher: Publisher, journal: Journal
) -> None:
    journal.slow = asyncio.Event()
    slow = asyncio.create_task(publisher.publish(weights(b=50), who="me"))
    await eventually(lambda: "meet" in journal.lines, what="the new ones are asked")
    rollback = asyncio.create_task(publisher.publish(weights(b=51), who="me"))
    assert (await slow).revision == 2  # nobody has answered
    journal.slow.set()
    assert (await rollback).revision == 3
    told = [line for line in journal.lines if not line.startswith("watch")]
    assert told == ["durable 2", "meet", "in force 2", "durable 3", "meet", "in force 3"]


async def test_an_edit_waits_for_nobody_who_reads_the_history(
    publisher: Publisher, journal: Journal
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    history = journal.store.history

    def slow(*, limit: int, before: int | None = None) -> Page:
        begun.set()
        assert go_on.wait(60)
        return history(limit=limit, before=before)

    journal.store.history = slow  # type: ignore[method-assign]
    reading = asyncio.create_task(publisher.history(limit=10))
    assert await asyncio.to_thread(begun.wait, 60)
    published = await publisher.publish(weights(b=50), who="me")
    assert published.revision == 2
    assert not reading.done()
    go_on.set()
    assert [edit.number for edit in (await reading).edits] == [2, 1]


async def test_closing_waits_for_the_edit_under_way(journal: Journal) -> None:
    publisher = new_publisher(journal)
    publisher.start(FILE, why="start")
    edit = asyncio.create_task(publisher.publish(weights(b=50), who="me"))
    await asyncio.sleep(0)
    await publisher.close()
    assert (await edit).revision == 2
    assert journal.lines[-1] == "closed"


async def test_edits_are_one_after_another(publisher: Publisher, journal: Journal) -> None:
    def one_more(document: Document) -> Document:
        now = edits.weights_of(document, "r")["b"]
        return edits.set_weights(document, "r", {"b": now + 1}, partial=True)

    await asyncio.gather(*(publisher.publish(one_more, who="me") for _ in range(200)))
    assert publisher.table.revision == 201
    assert publisher.table.routes["r"].weights["b"] == 210
    steps = [line for line in journal.lines if line.startswith(("durable", "in force"))]
    assert steps == [line for n in range(2, 202) for line in (f"durable {n}", f"in force {n}")]


async def test_an_edit_is_made_again_on_what_another_gateway_stored_meanwhile(
    publisher: Publisher, journal: Journal
) -> None:
    here = Journal()
    other = beside(here, journal)
    await publisher.publish(weights(a=80), who="me")
    published = await other.publish(weights(b=30), who="you")
    assert (published.revision, published.previous.revision) == (3, 2)
    assert other.table.routes["r"].weights == {"a": 80, "b": 30}
    assert [line for line in here.lines if "watch" not in line] == [
        "in force 2", "durable 3", "in force 3",
    ]  # fmt: skip


async def test_who_loses_again_and_again_keeps_its_turn_at_its_own_gateway(
    publisher: Publisher, journal: Journal
) -> None:
    here = Outrun()
    here.rivals = 3
    other = beside(here, journal)
    first, second = await asyncio.gather(
        other.publish(weights(b=30), who="first"), other.publish(weights(b=40), who="second")
    )
    assert (first.revision, second.revision) == (5, 6)


async def test_an_edit_is_made_on_what_was_heard_before_it(
    publisher: Publisher, journal: Journal
) -> None:
    here = Journal()
    other = beside(here, journal)
    heard: asyncio.Queue[Revision] = asyncio.Queue()
    following = asyncio.create_task(other.follow(heard))
    await asyncio.sleep(0)
    here.store.follow(1, heard.put_nowait)
    await publisher.publish(weights(a=80), who="me")
    assert (await other.publish(weights(b=30), who="you")).revision == 3
    following.cancel()
    assert [line for line in here.lines if "watch" not in line] == [
        "in force 2", "durable 3", "in force 3",
    ]  # fmt: skip


async def test_an_edit_that_depends_on_a_revision_is_not_made_on_another(
    publisher: Publisher, journal: Journal
) -> None:
    other = beside(Journal(), journal)
    await publisher.publish(weights(a=80), who="me")
    with pytest.raises(Stale, match="the current revision is 2, not 1"):
        await other.publish(weights(b=20), who="you", expected=1)
    assert other.table.revision == 2


async def test_an_old_revision_comes_back_as_a_new_one(publisher: Publisher) -> None:
    await publisher.publish(weights(b=50), who="me")
    published = await publisher.restore(1, who="you")
    assert published.revision == 3
    assert publisher.table.document == FILE
    history = await publisher.history(limit=10)
    assert [(r.number, r.source, r.who, r.why) for r in history.edits] == [
        (3, "restore", "you", "back to 1"),
        (2, "api", "me", ""),
        (1, "file", "file", "start"),
    ]
    with pytest.raises(Missing):
        await publisher.restore(99, who="you")


async def test_events_tell_of_every_edit(journal: Journal) -> None:
    events = Events()
    publisher = new_publisher(journal, events)
    publisher.start(FILE, why="start")
    heard = events.subscribe()
    await publisher.publish(weights(b=50), who="me", why="more")
    event = await anext(heard)
    assert (event["type"], event["revision"], event["who"]) == ("edit", 2, "me")
    await publisher.close()


class TestAFileThatMeetsEditedState:
    """Contract: as `kubectl apply` does, at start and through the admin API."""

    async def restarted(self, journal: Journal, file: Document) -> tuple[Publisher, list[str]]:
        publisher = new_publisher(journal)
        applied = publisher.start(file, why="again")
        return publisher, [change.pointer for change in applied.overridden]

    async def test_the_same_file_keeps_live_edits_and_makes_no_revision(
        self, publisher: Publisher, journal: Journal
    ) -> None:
        await publisher.publish(weights(b=50), who="me")
        again, overridden = await self.restarted(journal, FILE)
        assert again.table == publisher.table
        assert overridden == []

    async def test_live_edits_that_stay_are_named_at_a_start_route_by_route(
        self, journal: Journal
    ) -> None:
        publisher = new_publisher(journal)
        publisher.start(FILE, why="start")
        await publisher.publish(weights(b=50), who="me")
        again = new_publisher(journal).start(FILE, why="start")
        assert start_notes(again) == ["live edits of route r are kept: split/b: 10 → 50"]
        changed = edits.set_weights(FILE, "r", {"b": 20}, partial=True)
        third = new_publisher(journal).start(changed, why="start")
        (note,) = start_notes(third)
        assert "overrides a live edit: /routes/r/split/b" in note

    async def test_the_first_key_or_limit_is_named_at_a_start_where_the_file_has_none(
        self, journal: Journal
    ) -> None:
        publisher = new_publisher(journal)
        publisher.start(FILE, why="start")
        added = {"keys": {"acme": {"hashes": ["sha256:" + 64 * "0"]}}}
        added["default_limits"] = {"requests": "5/s"}
        await publisher.publish(lambda document: {**document, **added}, who="me")
        notes = start_notes(new_publisher(journal).start(FILE, why="start"))
        assert [note.partition(": ")[0] for note in notes] == [
            "live edits of key acme are kept", "live edits of default_limit requests are kept",
        ]  # fmt: skip

    async def test_what_a_file_changes_that_cannot_be_stored_yet_is_no_live_edit_that_stays(
        self, journal: Journal
    ) -> None:
        class Away(Journal):
            """A store that is shared and away: it has a copy to start from."""

            def commit(self, revision: Revision, applied: Document | None = None) -> None:
                raise Unavailable("no etcd")

        publisher = new_publisher(journal)
        publisher.start(FILE, why="start")
        await publisher.publish(weights(a=80, b=50), who="me")
        here = Away()
        here.store = journal.store
        again = new_publisher(here)
        changed = edits.set_weights(FILE, "r", {"b": 20}, partial=True)
        notes = start_notes(again.start(changed, why="start"))
        assert notes == ["live edits of route r are kept: split/a: 90 → 80"]
        assert again.late == changed
        assert again.table.routes["r"].weights == {"a": 80, "b": 50}

    async def test_a_file_is_applied_once_a_store_is_back_that_had_a_copy_only(
        self, journal: Journal
    ) -> None:
        """Also where the copy knows it as applied: another gateway may have applied another."""

        class Copied(Journal):
            """A store that is shared and away: what was loaded is its copy."""

            def load(self) -> Any:
                return replace(super().load(), is_copy=True)

        new_publisher(journal).start(FILE, why="start")
        here = Copied()
        here.store = journal.store
        begun = new_publisher(here)
        begun.start(FILE, why="start")
        assert begun.late == FILE
        changed = edits.set_weights(FILE, "r", {"b": 20}, partial=True)
        begun = new_publisher(here)
        begun.start(changed, why="start")
        assert begun.late == changed
        assert here.lines[0].startswith("watch"), "nothing is stored by what may be old"
        begun = new_publisher(here)
        begun.start(changed, why="start", again=True)
        assert begun.late is None

    async def test_what_would_have_to_be_started_is_said_and_kept_in_the_history(
        self, publisher: Publisher
    ) -> None:
        served = {**FILE["backends"]["a"], "serve": {"model": "m:A"}}
        file = edits.put(FILE, "backends", "a", served)
        applied = await publisher.apply(file, who="me")
        assert [c.note for c in applied.published.diff] == [NOT_SERVED]
        other = edits.put(FILE, "backends", "a", {**served, "serve": {"model": "m:B"}})
        applied = await publisher.apply(other, who="me")
        assert [(c.pointer, c.note) for c in applied.published.diff] == [
            ("/backends/a/serve/model", NOT_SERVED)
        ]
        newest = (await publisher.history(limit=1)).edits[0]
        assert newest.diff[0]["note"] == NOT_SERVED
        applied = await publisher.apply(FILE, who="me")
        assert [c.note for c in applied.published.diff] == [NOT_SERVED]
        published = await publisher.publish(weights(b=50), who="me")
        assert [c.note for c in published.diff] == [""]

    async def test_what_the_file_changed_wins_and_is_named(
        self, publisher: Publisher, journal: Journal
    ) -> None:
        await publisher.publish(weights(a=80, b=50), who="me")
        file = edits.set_weights(FILE, "r", {"b": 20}, partial=True)
        again, overridden = await self.restarted(journal, file)
        assert again.table.routes["r"].weights == {"a": 80, "b": 20}
        assert again.table.revision == 3
        assert overridden == ["/routes/r/split/b"]

    async def test_applying_is_the_same_while_running(
        self, publisher: Publisher, journal: Journal
    ) -> None:
        await publisher.publish(weights(a=80, b=50), who="me")
        file = edits.set_weights(FILE, "r", {"b": 20}, partial=True)
        tried = await publisher.apply(file, who="me", dry_run=True)
        assert tried.published.revision == 2
        applied = await publisher.apply(file, who="me")
        assert [change.pointer for change in applied.overridden] == ["/routes/r/split/b"]
        assert applied.published.revision == 3
        same = await publisher.apply(file, who="me")
        assert (same.published.revision, same.published.diff) == (3, ())

    async def test_a_file_that_agrees_with_the_live_table_is_remembered(
        self, publisher: Publisher, journal: Journal
    ) -> None:
        await publisher.publish(weights(b=50), who="me")
        agreed = edits.set_weights(FILE, "r", {"b": 50}, partial=True)
        applied = await publisher.apply(agreed, who="me")
        assert applied.published.revision == 2
        # Back to the first file: that is a change of the file now.
        back = await publisher.apply(FILE, who="me")
        assert publisher.table.routes["r"].weights["b"] == 10
        assert back.published.revision == 3

    async def test_a_dry_run_knows_which_file_another_gateway_applied_last(
        self, publisher: Publisher, journal: Journal
    ) -> None:
        class Others(parties.Gateways):
            """Another gateway, which has applied a file that this one has not."""

        here = Publisher(
            journal, journal, journal, Events(), check=Checks(), gateways=Others()
        )  # fmt: skip
        here.start(FILE, why="start")
        more = {**FILE, "routes": {**FILE["routes"], "s": {"match": "/s", "split": {"a": 1}}}}
        await publisher.apply(more, who="you")
        heard: asyncio.Queue[Revision] = asyncio.Queue()
        journal.store.follow(1, heard.put_nowait)
        following = asyncio.create_task(here.follow(heard))
        await eventually(heard.empty)
        dry = await here.apply(FILE, who="me", dry_run=True)
        following.cancel()
        assert [change.pointer for change in dry.published.diff] == ["/routes/s"]

    async def test_a_file_that_does_not_fit_with_live_edits_is_refused(
        self, publisher: Publisher, journal: Journal
    ) -> None:
        spec = {"match": {"path": "/live"}, "split": {"b": 1}}
        await publisher.publish(lambda d: edits.put(d, "routes", "live", spec), who="me")
        file = {"backends": {"a": FILE["backends"]["a"]}, "routes": {}}
        with pytest.raises(Invalid, match="/routes/live/split/b"):
            await self.restarted(journal, file)


class TestHeldProcesses:
    """A gateway below `headgate up`: an edit never moves what runs."""

    async def test_an_edit_leaves_instances_in_place_and_says_what_will_be_done(
        self, journal: Journal
    ) -> None:
        told: list[int] = []
        publisher = Publisher(
            journal, journal, journal, Events(), holds=lambda table: told.append(table.revision)
        )
        spec = {**FILE["backends"]["a"], "serve": {"model": "m:A"}}
        start = edits.put(FILE, "backends", "a", spec)
        publisher.start(start, why="start", with_places=lambda document: document)
        before = [each.url for each in publisher.table.backends["a"].instances]
        moved = {"instances": ["http://127.0.0.1:9"], "serve": {"model": "m:B"}}
        published = await publisher.publish(
            lambda document: edits.put(document, "backends", "a", moved), who="me"
        )
        assert [each.url for each in publisher.table.backends["a"].instances] == before
        assert "of the new version will be started" in published.serves["a"]
        assert {c.note for c in published.diff if "/serve" in c.pointer} == {published.serves["a"]}
        assert told == [2]
        placed = await publisher.publish(
            lambda document: place(document, "a", version_of({"model": "m:B"}), moved["instances"]),
            who="up", places=True,
        )  # fmt: skip
        assert publisher.table.document["backends"]["a"] == moved
        assert (placed.serves, told) == ({}, [2, 3])

    async def test_who_starts_nothing_knows_nothing_of_places(self, publisher: Publisher) -> None:
        spec = {**FILE["backends"]["a"], "serve": {"model": "m:A"}}
        placed = {**spec, "placed": ["http://127.0.0.1:9"]}
        await publisher.publish(lambda d: edits.put(d, "backends", "a", placed), who="me")
        assert publisher.table.document["backends"]["a"] == spec
