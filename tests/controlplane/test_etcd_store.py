"""What a table that several gateways share promises beyond what every store does."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from gateway.controlplane.store.etcd.client import (
    Access,
    Answer,
    Client,
    delete,
    get,
    put,
    transact,
)
from gateway.controlplane.store.etcd.copy_file import Copy
from gateway.controlplane.store.etcd.etcd_store import EtcdStore, Kind
from gateway.controlplane.store.etcd.layout import Keys, packed_member
from gateway.controlplane.store.etcd.membership import Lease
from gateway.controlplane.store.etcd.watch import Seen
from gateway.controlplane.store.names import COPY
from gateway.controlplane.store.store import (
    Conflict,
    Member,
    Revision,
    StateRefused,
    StoreError,
    StoreFull,
    Unavailable,
)
from tests.harness.certificates import make_ca, make_certificate
from tests.harness.etcd import Cluster, echo, etcd_cluster, handled, protect, transactions

DOCUMENT = {"backends": {"b": {"instances": ["http://127.0.0.1:1"]}}, "routes": {}}


def revision(number: int, document: Any = None, why: str = "because") -> Revision:
    time = f"2026-01-01T00:00:{number % 60:02}.000Z"
    return Revision(number, time, "me", why, "api", [], document or DOCUMENT)


def wait_for(check: Callable[[], Any], within_s: float = 60.0) -> None:
    end = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture(scope="module")
def etcd() -> Iterator[Cluster]:
    with etcd_cluster() as cluster:
        yield cluster


@pytest.fixture
def prefix() -> str:
    return f"/tests/{uuid4()}"


@contextmanager
def opened(access: Access, prefix: str, **more: Any) -> Iterator[EtcdStore]:
    copy = more.pop("copy", None)
    store = EtcdStore(access, Kind(prefix, **more), copy)
    try:
        yield store
    finally:
        store.close()


def do(etcd: Cluster, *operations: Any) -> Answer:
    """Does `operations` as somebody does who is no gateway."""

    async def done() -> Answer:
        client = Client(Access(etcd.urls))
        answer = await transact(client, operations)
        await client.close()
        return answer

    return asyncio.run(done())


def write(etcd: Cluster, *keys: bytes, value: bytes = b"rubbish") -> None:
    """Writes `keys` as somebody does who is no gateway."""
    do(etcd, *(put(each, value) for each in keys))


class Gateway:
    """A member as a control process is one: it hears of the others and of its own lease."""

    def __init__(self, store: EtcdStore, name: str, id: str = "") -> None:
        self.store, self.own = store, Member(name, 0, 2, "2026", "http://admin", id or name)
        self.seen, self.lease = Seen(), Lease()
        self.stands_still = False
        self.heard, self.workers = list[int](), list[int]()
        store.join(look=self._look, told=self._told, alive=self._alive)

    def announce(self, applied: int) -> None:
        self.own = Member(self.own.name, applied, 2, "2026", "http://admin", self.own.id)
        self.store.announce(self.own)

    def _look(self, seen: Seen) -> None:
        self.seen = seen
        self.heard += [each.applied for each in seen.members.values()]
        self.workers += [each.workers for each in seen.members.values()]

    def _told(self, lease: Lease) -> None:
        self.lease = lease

    async def _alive(self) -> None:
        while self.stands_still:
            await asyncio.sleep(0.01)

    @property
    def holds(self) -> bool:
        return self.lease.until > time.monotonic()


def test_of_two_edits_of_one_revision_one_is_refused_and_not_kept(
    etcd: Cluster, prefix: str
) -> None:
    access = Access(etcd.urls)
    with opened(access, prefix) as one, opened(access, prefix) as other:
        one.commit(revision(1))
        other.load()
        one.commit(revision(2, why="first"))
        with pytest.raises(Conflict) as lost:
            other.commit(revision(2, why="second"), {"routes": {}})
        assert lost.value.newer == [revision(2, why="first")], "who lost need not ask for it"
        stored = other.load()
        assert stored is not None
        assert (stored.newest, stored.applied) == (revision(2, why="first"), None)
        other.commit(revision(3))
        with pytest.raises(Conflict) as lost:
            one.commit(revision(3, why="late"))
        assert lost.value.newer == [revision(3)]
        assert [each.number for each in one.history(limit=9).edits] == [3, 2, 1]


def test_of_two_edits_that_are_alike_in_all_they_say_one_is_refused(
    etcd: Cluster, prefix: str
) -> None:
    access = Access(etcd.urls)
    with opened(access, prefix) as one, opened(access, prefix) as other:
        one.commit(revision(1))
        other.load()
        one.commit(revision(2))
        with pytest.raises(Conflict):
            other.commit(revision(2))


def test_edits_of_another_gateway_are_heard(etcd: Cluster, prefix: str) -> None:
    access, heard = Access(etcd.urls), list[Revision]()
    with opened(access, prefix) as one, opened(access, prefix) as other:
        other.follow(0, heard.append)
        for number in range(1, 40):
            one.commit(revision(number))
        wait_for(lambda: len(heard) == 39)
    assert heard == [revision(n) for n in range(1, 40)]


def test_what_others_store_is_heard_without_asking_for_it(etcd: Cluster, prefix: str) -> None:
    access, heard = Access(etcd.urls), list[Revision]()
    with opened(access, prefix) as one, opened(access, prefix) as other:
        other.follow(0, heard.append)
        one.commit(revision(1))
        wait_for(lambda: len(heard) == 1)
        before = transactions(etcd.urls)
        for number in range(2, 42):
            one.commit(revision(number))
        wait_for(lambda: len(heard) == 41)
        # A watch is doubted now and then, by one more.
        assert transactions(etcd.urls) - before < 60


def test_what_nobody_waits_for_is_written_with_what_comes_next(etcd: Cluster, prefix: str) -> None:
    access = Access(etcd.urls)
    with opened(access, prefix) as one, opened(access, prefix) as other:
        one.commit(revision(1))
        gateway = Gateway(one, "gw-a")
        gateway.announce(1)
        wait_for(lambda: gateway.holds)
        seen = Gateway(other, "gw-b").heard
        one.announce(replace(gateway.own, applied=2), 3600.0)
        one.announce(replace(gateway.own, applied=3))
        wait_for(lambda: 3 in seen)
        assert 2 not in seen
        one.announce(replace(gateway.own, applied=4), 0.05)
        wait_for(lambda: 4 in seen)


def test_what_is_too_large_for_etcd_is_refused_with_its_size(etcd: Cluster, prefix: str) -> None:
    with opened(Access(etcd.urls), prefix) as store:
        store.commit(revision(1))
        noise = os.urandom(1_500_000).hex()
        with pytest.raises(StoreFull, match=r"revision 2 takes 1\.\d+ MiB compressed"):
            store.commit(revision(2, {"routes": {"r": noise}}))
        store.commit(revision(2, {"routes": {"r": "x" * 20_000_000}}))
        stored = store.load()
        assert stored is not None
        assert len(stored.newest.document["routes"]["r"]) == 20_000_000


def test_a_revision_and_a_file_that_fit_only_apart_are_both_kept(
    etcd: Cluster, prefix: str
) -> None:
    with opened(Access(etcd.urls), prefix) as store:
        document = {"routes": {"r": os.urandom(700_000).hex()}}
        store.commit(revision(1, document), {"routes": {"s": os.urandom(700_000).hex()}})
        stored = store.load()
        assert stored is not None
        assert stored.newest.document == document
        assert stored.applied is not None


def test_a_file_counts_as_applied_only_once_its_edit_is_stored(etcd: Cluster, prefix: str) -> None:
    """Also where the two fit only apart."""
    file = {"routes": {"s": os.urandom(700_000).hex()}}
    large = revision(2, {"routes": {"r": os.urandom(700_000).hex()}})
    with opened(Access(etcd.urls), prefix) as store, opened(Access(etcd.urls), prefix) as other:
        store.commit(revision(1), DOCUMENT)
        other.load()
        other.commit(revision(2))
        with pytest.raises(Conflict):
            store.commit(large, file)
        stored = store.load()
        assert stored is not None
        assert stored.applied == DOCUMENT


def test_a_file_that_changes_nothing_counts_as_applied_only_to_the_newest_revision(
    etcd: Cluster, prefix: str
) -> None:
    """Another gateway's may be what it changes, and nobody would see that it was not applied."""
    first, second = {"routes": {}}, {"routes": {"r": {}}}
    with opened(Access(etcd.urls), prefix) as a, opened(Access(etcd.urls), prefix) as b:
        a.commit(revision(1), first)
        b.commit(revision(2), second)
        with pytest.raises(Conflict) as lost:
            a.applied_again(first, 1)
        assert [each.number for each in lost.value.newer] == [2]
        stored = b.load()
        assert stored is not None
        assert stored.applied == second
        with pytest.raises(Conflict):
            a.applied_again(first, 2)
        assert a.load() == stored
        a.applied_again(first, 2)
        stored = b.load()
        assert stored is not None
        assert stored.applied == first


def test_the_history_is_bounded_in_bytes_and_the_newest_stays(etcd: Cluster, prefix: str) -> None:
    with opened(Access(etcd.urls), prefix, keep_bytes=60_000) as store:
        for number in range(1, 21):
            store.commit(revision(number, {"routes": {"r": os.urandom(5_000).hex()}}))
        numbers = [each.number for each in store.history(limit=99).edits]
        assert numbers[0] == 20
        assert 5 <= len(numbers) <= 12
        assert store.get(numbers[-1]) is not None
        assert store.get(numbers[-1] - 1) is None
    # Whoever comes later knows how large the others are.
    with opened(Access(etcd.urls), prefix, keep_bytes=20_000) as store:
        store.load()
        for number in range(21, 24):
            store.commit(revision(number, {"routes": {"r": os.urandom(5_000).hex()}}))
        assert len(store.history(limit=99).edits) <= 4


def test_a_value_that_was_changed_by_hand_is_refused_in_one_line(
    etcd: Cluster, prefix: str
) -> None:
    with opened(Access(etcd.urls), prefix) as store:
        store.commit(revision(1))
        write(etcd, f"{prefix}/revisions/{1:020}".encode())
        with pytest.raises(StateRefused, match="revision 1 does not match its checksum"):
            store.load()


def test_what_is_no_word_of_a_gateway_is_passed_over(etcd: Cluster, prefix: str) -> None:
    below = f"{prefix}/".encode()
    with opened(Access(etcd.urls), prefix) as store, opened(Access(etcd.urls), prefix) as other:
        store.commit(revision(1))
        before = Gateway(store, "gw-a")
        before.announce(1)
        wait_for(lambda: before.holds)
        write(etcd, below + b"revisions/notes", below + b"gateways/\xff", below + b"rollouts/\xff")
        write(etcd, below + b"rollout-states/\xff", below + b"unknown")
        write(etcd, below + b"gateways/no-lease", value=packed_member(before.own))
        store.commit(revision(2))
        wait_for(lambda: before.seen.head.number == 2)
        # Whoever comes now reads all of it at once.
        after = Gateway(other, "gw-b")
        loaded = other.load()
        assert loaded is not None
        assert loaded.newest.number == 2
        after.announce(2)
        wait_for(lambda: after.holds)
        before.announce(2)
        wait_for(lambda: [each.name for each in store.members()] == ["gw-a", "gw-b"])
        assert [each.number for each in other.history(limit=1).edits] == [2]
        assert [each.number for each in other.history(limit=99).edits] == [2, 1]
        assert other.rollouts("gw-b").load() == {}


def test_a_rollout_that_was_changed_by_hand_is_refused_by_the_name_of_its_key(
    etcd: Cluster, prefix: str
) -> None:
    write(etcd, f"{prefix}/rollout-states/digits".encode())
    with opened(Access(etcd.urls), prefix) as store:
        with pytest.raises(StateRefused, match="the key `rollout-states/digits` cannot be read"):
            store.rollouts("gw-a").load()


def test_a_member_that_does_not_answer_is_left_for_one_that_does(
    etcd: Cluster, prefix: str
) -> None:
    with opened(Access(["http://127.0.0.1:9", *etcd.urls, "http://127.0.0.1:9"]), prefix) as store:
        store.commit(revision(1))
        assert store.load() is not None


async def test_a_member_that_is_slow_is_not_given_up_while_another_is_asked() -> None:
    """Nor is one waited for that keeps silent: whichever answers first."""
    asked, another = list[asyncio.StreamWriter](), asyncio.Event()

    async def member(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(writer)
        if len(asked) > 1:
            another.set()  # it keeps silent
        else:
            await another.wait()
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}')
        with suppress(OSError):
            await reader.read()
        writer.close()

    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(await asyncio.start_server(member, "127.0.0.1", 0))
            for _ in range(3)
        ]
        urls = [f"http://127.0.0.1:{each.sockets[0].getsockname()[1]}" for each in servers]
        client = Client(Access(urls), within_s=9.0)
        stack.push_async_callback(client.close)
        assert await client.call("/v3/kv/txn", {}, within_s=60.0) == {"a": 1}
        assert len(asked) >= 2


def test_without_etcd_the_copy_is_there_to_start_from_and_nothing_is_edited(
    tmp_path: Path, prefix: str
) -> None:
    with etcd_cluster() as own:
        access = Access(own.urls)
        with opened(access, prefix, copy=tmp_path) as store:
            store.commit(revision(1), DOCUMENT)
            store.commit(revision(2))
            assert store.load() is not None
            assert not store.is_copy
        own.kill()
        with opened(access, prefix, copy=tmp_path, lease_s=0.3) as store:
            stored = store.load()
            assert store.is_copy
            assert stored is not None
            assert (stored.newest, stored.applied) == (revision(2), DOCUMENT)
            with pytest.raises(Unavailable):
                store.commit(revision(3))
        (tmp_path / "etcd-copy").write_bytes(b"rubbish")
        with (
            opened(access, prefix, copy=tmp_path, lease_s=0.3) as store,
            pytest.raises(StateRefused, match="etcd-copy is damaged"),
        ):
            store.load()
        with opened(access, prefix, lease_s=0.3) as store, pytest.raises(Unavailable):
            store.load()


def test_who_started_from_the_copy_is_no_gateway_of_another_story(
    tmp_path: Path, prefix: str
) -> None:
    """etcd's data was restored while it was away, and edited up to the number of the copy."""
    keys = Keys(prefix)
    with etcd_cluster() as own:
        access = Access(own.urls)
        with opened(access, prefix, copy=tmp_path) as store:
            store.commit(revision(1))
            store.commit(revision(2))
        own.kill()
        with opened(access, prefix, copy=tmp_path, lease_s=2) as store:
            assert store.load() is not None
            assert store.is_copy
            own.start()
            own.wait()
            before = do(own, get(keys.head), get(keys.revision(2)))
            do(own, delete(keys.head), delete(keys.revisions, keys.revisions_end))
            with opened(access, prefix) as other:
                other.commit(revision(1))
                other.commit(revision(2, why="another one"))
            one = Gateway(store, "gw-a")
            one.announce(2)
            wait_for(lambda: "revision 2 is another one than was there" in one.lease.why)
            assert not one.holds
            head, newest = (found[0] for found in before.found)
            do(own, put(newest.key, newest.value), put(head.key, head.value))
            wait_for(lambda: one.holds)


def test_the_copy_follows_what_other_gateways_store(
    etcd: Cluster, prefix: str, tmp_path: Path
) -> None:
    access, heard = Access(etcd.urls), list[Revision]()
    with opened(access, prefix) as one, opened(access, prefix, copy=tmp_path) as other:
        other.follow(0, heard.append)
        for number in range(1, 6):
            one.commit(revision(number))
        wait_for(lambda: len(heard) == 5)
    with opened(Access(["http://127.0.0.1:9"]), prefix, copy=tmp_path, lease_s=0.3) as store:
        stored = store.load()
        assert stored is not None
        assert stored.newest == revision(5)


def test_a_copy_that_cannot_be_written_is_told_once_and_again_when_it_can(
    etcd: Cluster, prefix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Or nobody knows that a start without etcd would begin with what was long changed."""
    folder = tmp_path / "state"

    def said(text: str) -> int:
        return sum(text in record.message for record in caplog.records)

    with opened(Access(etcd.urls), prefix, copy=folder) as store:
        store.commit(revision(1))
        wait_for(lambda: said("cannot be written"))
        store.commit(revision(2))
        folder.mkdir()
        store.commit(revision(3))
        wait_for(lambda: said("is written again: it has revision"))
    assert said("cannot be written") == 1


def test_endpoints_of_two_clusters_are_refused_and_named(etcd: Cluster, prefix: str) -> None:
    with etcd_cluster() as stranger:
        access, why = Access([*etcd.urls, *stranger.urls]), "is of another etcd cluster than http"
        with opened(access, prefix, lease_s=1) as store, pytest.raises(Unavailable, match=why):
            store.load()
        with opened(Access(etcd.urls), prefix) as store:
            store.commit(revision(1))
        with opened(access, prefix, lease_s=1) as store:
            wait_for(lambda: why in _refusal(store))
            assert why in _refusal(store), "it stays so"


def test_an_endpoint_of_another_cluster_than_most_is_not_asked(prefix: str) -> None:
    """As a member that was lost and began again by itself, at the address that it had."""
    with etcd_cluster(3) as own, etcd_cluster() as stranger:
        # A busy machine elects in its time.
        with opened(Access([*own.urls[:2], *stranger.urls]), prefix, lease_s=60) as store:
            assert store.load() is None
            store.commit(revision(1))
            own.kill(0)
            store.commit(revision(2))
            own.kill(1)
            own.start(0)
            store.commit(revision(3))
            stored = store.load()
        assert stored is not None
        assert stored.newest.number == 3
        with opened(Access(stranger.urls), prefix) as store:
            assert store.load() is None


def _refusal(store: EtcdStore) -> str:
    try:
        store.load()
    except Unavailable as error:
        return str(error)
    return ""


@pytest.mark.soak
@pytest.mark.parametrize("member", range(3))
def test_a_watch_at_a_member_that_stands_still_goes_on_at_another(member: int, prefix: str) -> None:
    """Whichever it is: the leader, or the one that the watch is with."""
    heard: list[Revision] = []
    with etcd_cluster(3) as own:
        access = Access(own.urls)
        with opened(access, prefix) as one, opened(access, prefix) as other:
            other.follow(0, heard.append)
            one.commit(revision(1))
            wait_for(lambda: len(heard) == 1)
            gateway = Gateway(other, "gw-a")
            gateway.announce(1)
            wait_for(lambda: gateway.holds)
            own.signal(signal.SIGSTOP, member)
            began = time.monotonic()
            while True:
                try:
                    one.commit(revision(2))
                    break
                except Conflict:
                    break  # it was stored at a try of which nobody heard
                except Unavailable:
                    pass
            stored_s = time.monotonic() - began
            wait_for(lambda: len(heard) == 2)
            print(f"stored after {stored_s:.1f} s, heard after {time.monotonic() - began:.1f} s")
            gateway.announce(2)
            wait_for(lambda: gateway.holds)


def test_a_watch_that_falls_silent_is_noticed_although_nothing_is_edited(
    etcd: Cluster, prefix: str
) -> None:
    """As one with a member whose host dies, and the gateway there with it: who shares the limits,
    and whom an edit that was just heard waits for, is another thing once its lease has ended."""
    with echo(etcd.urls[0]) as way, opened(Access([way.url]), prefix, lease_s=2) as store:
        store.commit(revision(1))
        with opened(Access(etcd.urls), prefix) as own:
            one = Gateway(own, "gw-a")
            one.announce(1)
            wait_for(lambda: store.members() == [one.own])
            way.silence()
        wait_for(lambda: not store.members())


def test_a_gateway_is_a_member_while_it_holds_its_lease(etcd: Cluster, prefix: str) -> None:
    access = Access(etcd.urls)
    with opened(access, prefix) as store, opened(access, prefix, lease_s=2) as own:
        store.commit(revision(1))
        one = Gateway(own, "gw-a")
        assert not one.holds
        one.announce(1)
        wait_for(lambda: one.holds)
        wait_for(lambda: store.members() == [one.own])
        store.commit(revision(2))
        one.announce(2)
        wait_for(lambda: store.members() == [one.own])
        # Its control process stands still: it knows that it is lost before others do.
        one.stands_still = True
        wait_for(lambda: not store.members())
        assert not one.holds, "whoever stops to wait for it does so later"
        one.stands_still = False
        wait_for(lambda: one.holds)


def test_a_gateway_does_not_announce_itself_with_an_old_table(etcd: Cluster, prefix: str) -> None:
    access = Access(etcd.urls)
    with opened(access, prefix) as store, opened(access, prefix) as own:
        store.commit(revision(1))
        store.commit(revision(2))
        one = Gateway(own, "gw-a")
        one.announce(1)
        wait_for(lambda: "not taken over the newest" in one.lease.why)
        assert not store.members()
        one.announce(2)
        wait_for(lambda: one.holds)
        # Eventually: a lease that a busy machine lets lapse is taken anew.
        wait_for(lambda: [each.applied for each in store.members()] == [2])


def test_who_only_changes_its_control_process_is_waited_for_until_its_lease_ends(
    etcd: Cluster, prefix: str
) -> None:
    access = Access(etcd.urls)
    with opened(access, prefix) as store:
        store.commit(revision(1))
        watching = Gateway(store, "gw-b")
        with opened(access, prefix, lease_s=2) as own:
            one = Gateway(own, "gw-a")
            one.announce(1)
            wait_for(lambda: one.holds)
            wait_for(lambda: "gw-a" in watching.seen.members)
            own.stay()
            until = one.lease.until
        wait_for(lambda: "gw-a" not in watching.seen.members)
        assert time.monotonic() > until, "its workers may count on the lease"
        assert 0 not in watching.workers, "it did not say that it goes"


def test_who_is_followed_in_order_is_waited_for_longer(etcd: Cluster, prefix: str) -> None:
    access = Access(etcd.urls)
    with opened(access, prefix) as store:
        store.commit(revision(1))
        watching = Gateway(store, "gw-b")
        with opened(access, prefix, lease_s=2) as own:
            one = Gateway(own, "gw-a")
            one.announce(1)
            wait_for(lambda: one.holds)
            until = one.lease.until
            own.stay(12.0)
            assert one.lease.until > until + 9.0
            wait_for(lambda: watching.seen.members.get("gw-a") == one.own)
        assert "gw-a" in watching.seen.members
        with opened(access, prefix) as successor:
            after = Gateway(successor, "gw-a", "gw-a")
            after.announce(1)
            wait_for(lambda: after.holds)
            assert 0 not in watching.workers


def test_who_is_followed_soon_is_waited_for_no_longer_than_its_lease(
    etcd: Cluster, prefix: str
) -> None:
    """Its machine may die in that very moment."""
    with opened(Access(etcd.urls), prefix, lease_s=2) as own:
        own.commit(revision(1))
        one = Gateway(own, "gw-a")
        one.announce(1)
        wait_for(lambda: one.holds)
        own.stay(0.5)
        assert one.lease.until <= time.monotonic() + 2.0


def test_who_has_seen_more_than_is_there_gives_up_its_lease_until_there_is_more(
    etcd: Cluster, prefix: str
) -> None:
    """As when a snapshot is restored, leases and all."""
    access, keys = Access(etcd.urls), Keys(prefix)
    with opened(access, prefix) as store, opened(access, prefix, lease_s=60) as own:
        store.commit(revision(1))
        before = do(etcd, get(keys.head)).found[0][0].value
        store.commit(revision(2))
        one = Gateway(own, "gw-a")
        one.announce(2)
        wait_for(lambda: one.holds)
        wait_for(lambda: [each.applied for each in store.members()] == [2])
        do(etcd, put(keys.head, before), delete(keys.revision(2)))
        wait_for(lambda: not one.holds)
        assert "revision is 1, and 2 was there; its data was lost or restored" in one.lease.why
        with opened(access, prefix) as other:
            # The lease goes on in etcd. Nobody takes it for one that decides by a new revision 2.
            wait_for(lambda: [each.applied for each in other.members()] == [0])
            other.load()
            other.commit(revision(2))
            wait_for(lambda: "revision 2 is another one than was there" in one.lease.why)
            assert not one.holds
            other.commit(revision(3))
        one.announce(3)
        wait_for(lambda: one.holds)


def test_who_cannot_hear_what_others_write_gives_up_its_lease(etcd: Cluster, prefix: str) -> None:
    """Renewals go on where the watch does not, and edits would wait for it again and again."""
    access, keys = Access(etcd.urls), Keys(prefix)
    with opened(access, prefix) as store, opened(access, prefix, lease_s=2) as own:
        store.commit(revision(1))
        before = do(etcd, get(keys.head)).found[0][0].value
        one = Gateway(own, "gw-a")
        one.announce(1)
        wait_for(lambda: one.holds)
        write(etcd, keys.head)
        wait_for(lambda: one.seen.away)
        assert one.holds, "it may be over soon"
        wait_for(lambda: not one.holds)
        assert "the key `head` is none of Headgate's" in one.lease.why
        do(etcd, put(keys.head, before))
        wait_for(lambda: one.holds)


def test_what_a_gateway_said_of_itself_and_arrives_late_takes_the_place_of_nothing_newer(
    etcd: Cluster, prefix: str
) -> None:
    """Else edits wait for who has long taken them over, or for nobody once an old lease ends."""
    with (
        echo(etcd.urls[0]) as way,
        opened(Access(etcd.urls), prefix) as store,
        opened(Access([way.url]), prefix) as own,
    ):
        store.commit(revision(1))
        one = Gateway(own, "gw-a")
        one.announce(1)
        wait_for(lambda: one.holds)
        one.store.announce(replace(one.own, finishing=("b/1",)))
        wait_for(lambda: [each.finishing for each in store.members()] == [("b/1",)])
        early = list(way.sent)
        one.announce(1)
        wait_for(lambda: store.members() == [one.own])
        way.again(early)
        (kept,) = do(etcd, get(Keys(prefix).gateway("gw-a"))).found[0]
        assert kept.value == packed_member(one.own)
        store.commit(revision(2))
        one.announce(2)
        wait_for(lambda: store.members() == [one.own])


def test_a_file_that_was_applied_and_arrives_late_takes_the_place_of_nothing_newer(
    etcd: Cluster, prefix: str
) -> None:
    with echo(etcd.urls[0]) as way, opened(Access([way.url]), prefix) as store:
        store.commit(revision(1))
        before = len(way.sent)
        for file in ({"routes": {}}, {"keys": {}}):
            store.applied_again(file, 1)
        way.again(way.sent[before:])
        stored = store.load()
        assert stored is not None
        assert stored.applied == {"keys": {}}


def test_the_copy_says_on_which_routes_rollouts_run(
    etcd: Cluster, prefix: str, tmp_path: Path
) -> None:
    """For a start with another store, where nobody would drive them."""
    copy = Copy(tmp_path / COPY)

    def said() -> list[str]:
        found = copy.read()
        return [] if found is None else list(found.rollouts)

    with opened(Access(etcd.urls), prefix, copy=tmp_path) as own:
        own.commit(revision(1))
        one = Gateway(own, "gw-a")
        one.announce(1)
        wait_for(lambda: one.holds)
        rollouts = own.rollouts("gw-a")
        assert rollouts.claim("all") == ""
        wait_for(lambda: said() == ["all"])
        rollouts.keep({"all": {"state": "done", "move": None}})
        wait_for(lambda: not said())
        rollouts.claim("all")
        wait_for(lambda: said() == ["all"])
    assert said() == ["all"], "its gateway has ended, and the rollout has not"
    copy.close()


def test_the_copy_says_how_many_gateways_there_were(
    etcd: Cluster, prefix: str, tmp_path: Path
) -> None:
    """By so many limits are divided until etcd says it."""
    with opened(Access(etcd.urls), prefix, copy=tmp_path) as own:
        own.commit(revision(1))
        with opened(Access(etcd.urls), prefix) as other:
            for store, name in ((own, "gw-a"), (other, "gw-b")):
                one = Gateway(store, name)
                one.announce(1)
                wait_for(lambda one=one: one.holds)  # type: ignore[misc]
            copy = Copy(tmp_path / COPY)
            wait_for(lambda: (copied := copy.read()) is not None and copied.gateways == 2)
            other.stay()  # as one whose machine loses its power
    copy.close()
    with opened(Access(["http://127.0.0.1:9"]), prefix, copy=tmp_path, lease_s=1) as later:
        assert later.load() is not None
        assert (later.is_copy, later.copied_gateways) == (True, 2)


def test_the_first_revision_may_follow_on_one_of_another_store(etcd: Cluster, prefix: str) -> None:
    with opened(Access(etcd.urls), prefix, keep=2) as store:
        for number in range(58, 62):
            store.commit(revision(number))
        with pytest.raises(Conflict):
            store.commit(revision(63))
        assert [each.number for each in store.history(limit=9).edits] == [61, 60]
        assert store.get(57) is store.get(58) is None


def test_what_was_kept_of_a_rollout_and_arrives_late_takes_the_place_of_nothing_newer(
    etcd: Cluster, prefix: str
) -> None:
    def state(step: int) -> Any:
        return {"all": {"state": "running", "step": step, "move": None}}

    with (
        echo(etcd.urls[0]) as way,
        opened(Access([way.url]), prefix) as own,
    ):
        own.commit(revision(1))
        one = Gateway(own, "gw-a")
        one.announce(1)
        wait_for(lambda: one.holds)
        rollouts = own.rollouts("gw-a")
        assert rollouts.claim("all") == ""
        rollouts.keep(state(0))
        early = list(way.sent)
        rollouts.keep(state(1))
        way.again(early)
        assert rollouts.load() == state(1)
        rollouts.keep(state(2))
        assert rollouts.load() == state(2)
        rollouts.keep({})
        way.again(list(way.sent))
        assert rollouts.load() == {}
        assert rollouts.claim("all") == ""
        rollouts.keep(state(0))
        assert rollouts.load() == state(0)


def test_of_two_gateways_of_one_name_the_second_waits_and_says_so(
    etcd: Cluster, prefix: str
) -> None:
    access = Access(etcd.urls)
    with opened(access, prefix) as store, opened(access, prefix) as second:
        store.commit(revision(1))
        one = Gateway(store, "gw-a", "here")
        one.announce(1)
        wait_for(lambda: one.holds)
        other = Gateway(second, "gw-a", "there")
        other.announce(1)
        wait_for(lambda: "another gateway is called 'gw-a'" in other.lease.why)
        assert not other.holds
        with opened(access, prefix) as successor:  # of the first, after a crash: no need to wait
            third = Gateway(successor, "gw-a", "here")
            third.announce(1)
            wait_for(lambda: third.holds)


def test_a_user_is_known_by_its_password_and_kept_to_its_keys(prefix: str) -> None:
    with etcd_cluster() as own:
        asyncio.run(protect(own.urls, prefix))
        unhurried = {"lease_s": 60}  # a busy machine takes its time to compare a password
        with opened(Access(own.urls, "headgate", "pass"), prefix, **unhurried) as store:
            store.commit(revision(1))
            one = Gateway(store, "gw-a")
            one.announce(1)
            wait_for(lambda: one.holds)
            own.kill()  # and with it every token that it gave
            own.start()
            own.wait()
            store.commit(revision(2))
        for access, words in (
            (Access(own.urls, "headgate", "wrong"), "user 'headgate'.*authentication failed"),
            (Access(own.urls), "user name is empty"),
        ):
            with (
                opened(access, prefix, **unhurried) as store,
                pytest.raises(StoreError, match=words),
            ):
                store.load()
        with (
            opened(Access(own.urls, "headgate", "pass"), "/elsewhere", **unhurried) as store,
            pytest.raises(StoreError, match="permission denied"),
        ):
            store.load()


async def test_calls_that_need_a_token_ask_for_one_together(prefix: str) -> None:
    """etcd stands still while it hashes a password."""
    with etcd_cluster() as own:
        await protect(own.urls, prefix)
        client = Client(Access(own.urls, "headgate", "pass"), within_s=30.0)
        before = handled(own.urls, "Authenticate")
        asked = get(Keys(prefix).head)
        await asyncio.gather(*(transact(client, [asked]) for _ in range(20)))
        assert handled(own.urls, "Authenticate") == before + 1
        await client.close()


def test_who_is_not_let_in_asks_ever_more_seldom(prefix: str) -> None:
    with etcd_cluster() as own:
        asyncio.run(protect(own.urls, prefix))
        with opened(Access(own.urls, "headgate", "wrong"), prefix) as store:
            gateway = Gateway(store, "gw-a")
            wait_for(lambda: "authentication failed" in gateway.seen.away)
            first, began = handled(own.urls, "Authenticate"), time.monotonic()
            wait_for(lambda: handled(own.urls, "Authenticate") >= first + 5)
            assert time.monotonic() - began > 2.0


def test_a_user_is_no_hindrance_where_etcd_asks_for_none(prefix: str) -> None:
    """As with every client of etcd's; and it is known again once etcd asks."""
    with etcd_cluster() as own, opened(Access(own.urls, "headgate", "pass"), prefix) as store:
        store.commit(revision(1))
        one = Gateway(store, "gw-a")
        one.announce(1)
        wait_for(lambda: one.holds)
        asyncio.run(protect(own.urls, prefix))
        store.commit(revision(2))
        one.announce(2)
        wait_for(lambda: one.seen.head.number == 2 and not one.seen.away)
        own.kill()
        own.start()
        own.wait()
        store.commit(revision(3))
        wait_for(lambda: one.seen.head.number == 3)


def test_etcd_is_asked_by_tls_and_shown_a_certificate(tmp_path: Path, prefix: str) -> None:
    authority = make_ca(tmp_path)
    made = make_certificate(tmp_path, "etcd", authority, "127.0.0.1")
    ca, cert, key = str(authority[0]), *map(str, made)
    options = ["--cert-file", cert, "--key-file", key, "--client-cert-auth",
               "--trusted-ca-file", ca]  # fmt: skip
    with etcd_cluster(more=options, tls=True) as own:
        with opened(Access(own.urls, ca=ca, cert=cert, key=key), prefix) as store:
            store.commit(revision(1))
            assert store.load() is not None
        with (
            opened(Access(own.urls, ca=ca), prefix, lease_s=0.3) as store,
            pytest.raises(Unavailable),
        ):
            store.load()
    with pytest.raises(StoreError, match=r"gateway\.etcd: .* cannot be used"):
        EtcdStore(Access(own.urls, ca=str(tmp_path / "none")), Kind(prefix))


def test_a_certificate_that_names_a_user_is_refused_in_the_words_of_etcd(
    tmp_path: Path, prefix: str
) -> None:
    """Its JSON gateway takes none with a common name once users are asked for."""
    authority = make_ca(tmp_path)
    named, nameless = (
        [str(each) for each in make_certificate(tmp_path, name, authority, "127.0.0.1")]
        for name in ("etcd", "")
    )
    ca = str(authority[0])
    options = ["--cert-file", named[0], "--key-file", named[1], "--client-cert-auth",
               "--trusted-ca-file", ca]  # fmt: skip
    with etcd_cluster(more=options, tls=True) as own:
        asyncio.run(protect(own.urls, prefix, ca=ca, cert=nameless[0], key=nameless[1]))
        access = Access(own.urls, "headgate", "pass", ca)
        with (
            opened(replace(access, cert=named[0], key=named[1]), prefix, lease_s=2) as store,
            pytest.raises(Unavailable, match="answers 400: CommonName of client"),
        ):
            store.load()
        with opened(replace(access, cert=nameless[0], key=nameless[1]), prefix) as store:
            store.commit(revision(1))


def test_a_key_for_etcd_that_is_encrypted_asks_no_terminal_for_its_password(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path, "gateway", make_ca(tmp_path), "127.0.0.1")
    locked = str(tmp_path / "locked.key")
    words = ["openssl", "ec", "-in", str(key), "-aes256", "-passout", "pass:x", "-out", locked]
    subprocess.run(words, check=True, capture_output=True, timeout=60)
    access = Access(["https://127.0.0.1:2379"], cert=str(cert), key=locked)
    with pytest.raises(StoreError, match="the key is encrypted, and nobody is here to ask"):
        access.tls()


def test_certificates_that_were_renewed_are_used_without_a_start(
    tmp_path: Path, prefix: str
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    files = dict[Path, list[str]]()
    for folder in (old, new):
        folder.mkdir()
        authority = make_ca(folder)
        made = make_certificate(folder, "etcd", authority, "127.0.0.1")
        files[folder] = [str(authority[0]), *map(str, made)]
    shown = [shutil.copy(each, tmp_path) for each in files[old]]
    ca, cert, key = files[new]
    options = ["--cert-file", cert, "--key-file", key, "--client-cert-auth",
               "--trusted-ca-file", ca]  # fmt: skip
    access = Access([], **dict(zip(("ca", "cert", "key"), shown, strict=True)))
    with (
        etcd_cluster(more=options, tls=True) as own,
        opened(replace(access, endpoints=own.urls), prefix, lease_s=1) as store,
    ):
        with pytest.raises(Unavailable, match="certificate verify failed"):
            store.load()
        for each in files[new]:
            shutil.copy(each, tmp_path)
        store.commit(revision(1))


def test_a_ca_of_etcds_that_was_replaced_is_believed_no_more(tmp_path: Path) -> None:
    authority, other = make_ca(tmp_path), make_ca(tmp_path, "other")
    cert, key = map(str, make_certificate(tmp_path, "etcd", authority, "127.0.0.1"))
    shown = shutil.copy(authority[0], tmp_path / "shown.crt")

    async def asked(urls: list[str]) -> None:
        client = Client(Access(urls, ca=str(shown)), within_s=5)
        put = {"key": "YQ==", "value": "YQ=="}
        try:
            await client.call("/v3/kv/put", put)
            shutil.copy(other[0], shown)
            with pytest.raises(Unavailable, match="certificate verify failed"):
                await client.call("/v3/kv/put", put)
        finally:
            await client.close()

    with etcd_cluster(more=["--cert-file", cert, "--key-file", key], tls=True) as own:
        asyncio.run(asked(own.urls))


def test_edits_go_on_without_the_leader_and_stop_without_a_quorum(prefix: str) -> None:
    heard: list[Revision] = []
    with (
        etcd_cluster(3) as own,
        opened(Access(own.urls), prefix, lease_s=60) as store,  # a busy machine elects in its time
        opened(Access(own.urls), prefix, lease_s=2) as hasty,
    ):
        store.commit(revision(1))
        hasty.follow(1, heard.append)
        own.kill(0)
        store.commit(revision(2))
        wait_for(lambda: len(heard) == 1)
        hasty.load()
        own.signal(signal.SIGSTOP, 1)
        with pytest.raises(Unavailable, match="etcd cannot be reached"):
            hasty.commit(revision(3))
        own.signal(signal.SIGCONT, 1)
        own.start(0)
        while True:
            stored = store.load()
            assert stored is not None
            # What was refused while nobody could know may be stored after all: once, whole.
            newest = stored.newest.number
            assert newest in (2, 3)
            try:
                store.commit(revision(newest + 1))
            except Conflict:
                continue  # just now
            break
        wait_for(lambda: len(heard) == newest)
        assert [each.number for each in heard] == list(range(2, newest + 2))
