"""What every store promises, on each of them; and what SQLite does with damage."""

import gc
import os
import random
import resource
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest

from gateway.controlplane.store.disk import refusal
from gateway.controlplane.store.etcd.client import Access
from gateway.controlplane.store.etcd.etcd_store import EtcdStore, Kind
from gateway.controlplane.store.sqlite_store import SqliteStore
from gateway.controlplane.store.state_directory import StateDirectory
from gateway.controlplane.store.store import (
    Conflict,
    DiskRefused,
    Revision,
    StateRefused,
    Store,
    StoreError,
    StoreFull,
    Summary,
    canonical,
    checksum,
)
from tests.controlplane.memory_store import MemoryStore
from tests.harness.etcd import Cluster, etcd_cluster

DOCUMENT = {"backends": {"b": {"instances": ["http://127.0.0.1:1"]}}, "routes": {}}


def revision(number: int, **changes: object) -> Revision:
    document = {**DOCUMENT, "routes": {"r": {"match": {"path": "/"}, "split": {"b": number}}}}
    fields = {
        "time": f"2026-01-01T00:00:{number % 60:02}.000Z",
        "who": "me",
        "why": "because",
        "document": document,
        "diff": [{"op": "add"}],
    }
    return Revision(number=number, source="api", **{**fields, **changes})


def wait_for(check: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not check():
        assert time.monotonic() < end
        time.sleep(0.005)


def got(store: Store, number: int) -> Revision | None:
    found = store.get(number)
    return None if found is None else found.whole()


@pytest.fixture(scope="module")
def etcd() -> Iterator[Cluster]:
    """One etcd for all tests of this file: each has a prefix of its own."""
    with etcd_cluster() as cluster:
        yield cluster


@pytest.fixture(params=["memory", "sqlite", "etcd"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    made: Store
    if request.param == "memory":
        made = MemoryStore(keep=5)
    elif request.param == "sqlite":
        made = SqliteStore(tmp_path / "state.db", keep=5)
    else:
        cluster = request.getfixturevalue("etcd")
        made = EtcdStore(Access(cluster.urls), Kind(f"/tests/{uuid4()}", keep=5))
    yield made
    made.close()


class TestEveryStore:
    """The conformance class: a new store is done when it passes."""

    def test_is_empty_at_first(self, store: Store) -> None:
        assert store.load() is None
        assert not store.history(limit=10).edits
        assert store.get(1) is None

    def test_gives_back_the_newest_revision_whole(self, store: Store) -> None:
        store.commit(revision(1))
        store.commit(revision(2, why="ünïcode ☃ 'quotes\" \x00"))
        stored = store.load()
        assert stored is not None
        assert stored.newest == revision(2, why="ünïcode ☃ 'quotes\" \x00")
        assert stored.applied is None

    def test_remembers_the_file_last_applied(self, store: Store) -> None:
        store.commit(revision(1), DOCUMENT)
        store.commit(revision(2))
        stored = store.load()
        assert stored is not None
        assert stored.applied == DOCUMENT
        store.applied_again({"routes": {}}, 2)
        stored = store.load()
        assert stored is not None
        assert stored.applied == {"routes": {}}
        assert stored.newest.number == 2

    def test_keeps_the_order_of_keys(self, store: Store) -> None:
        split = {"z": 1, "a": 2, "m": 3}
        store.commit(revision(1, document={"routes": {"r": {"split": split}}}))
        found = got(store, 1)
        assert found is not None
        assert list(found.document["routes"]["r"]["split"]) == ["z", "a", "m"]

    def test_a_section_of_nothing_stays_that(self, store: Store) -> None:
        store.commit(revision(1, document={"backends": None, "routes": {}}))
        document = {"backends": None, "routes": {"r": {"match": "/r"}}}
        store.commit(revision(2, document=document))
        assert got(store, 2) == revision(2, document=document)

    def test_lists_history_newest_first_in_pages(self, store: Store) -> None:
        for number in range(1, 5):
            store.commit(revision(number))
        assert [r.number for r in store.history(limit=3).edits] == [4, 3, 2]
        assert [r.number for r in store.history(limit=3, before=2).edits] == [1]

    def test_forgets_the_oldest_beyond_what_it_keeps(self, store: Store) -> None:
        for number in range(1, 9):
            store.commit(revision(number))
        assert [r.number for r in store.history(limit=100).edits] == [8, 7, 6, 5, 4]
        assert store.get(3) is None
        assert got(store, 4) == revision(4)

    def test_refuses_a_number_used_before_and_changes_nothing(self, store: Store) -> None:
        store.commit(revision(1), DOCUMENT)
        with pytest.raises(Conflict):
            store.commit(revision(1, why="again"), {"routes": {}})
        stored = store.load()
        assert stored is not None
        assert stored.newest == revision(1)
        assert stored.applied == DOCUMENT

    def test_who_follows_hears_of_each_revision_in_order_and_once(self, store: Store) -> None:
        heard: list[Revision] = []
        store.commit(revision(1))
        store.commit(revision(2))
        store.follow(1, heard.append)
        store.commit(revision(3))
        store.commit(revision(4), DOCUMENT)
        wait_for(lambda: len(heard) == 3)
        assert heard == [revision(2), revision(3), revision(4)]

    def test_who_follows_a_new_store_hears_of_the_first_revision(self, store: Store) -> None:
        heard: list[Revision] = []
        store.follow(0, heard.append)
        store.commit(revision(1))
        wait_for(lambda: heard == [revision(1)])

    def test_names_no_gateway_where_none_has_said_that_it_is_there(self, store: Store) -> None:
        assert list(store.members()) == []

    def test_has_no_revision_beyond_any_number(self, store: Store) -> None:
        for number in (-1, 0, 2**63, 2**80):
            assert store.get(number) is None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A state file with three revisions, closed as it should be."""
    path = tmp_path / "state.db"
    store = SqliteStore(path)
    for number in range(1, 4):
        store.commit(revision(number), DOCUMENT)
    store.close()
    return path


def opened(path: Path, newest: int = 3) -> list[Summary] | str:
    """What is in the file at `path`, or the line with which it is refused."""
    try:
        store = SqliteStore(path)
        try:
            stored = store.load()
            assert stored is not None, "silently empty"
            assert stored.newest == revision(newest)
            assert stored.applied == DOCUMENT
            return list(store.history(limit=10).edits)
        finally:
            store.close()
    except (StateRefused, StoreError) as error:
        return str(error)


def test_state_files_are_for_their_owner_only(path: Path) -> None:
    store = SqliteStore(path)
    store.commit(revision(4))
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    store.close()
    assert set(modes) >= {"state.db", "state.db-wal"}
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize(
    "step", [97, pytest.param(1, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]
)
def test_r53_a_truncated_file_is_refused_and_kept(path: Path, step: int) -> None:
    whole = path.read_bytes()
    for size in sorted({1, len(whole) - 1, *range(0, len(whole), step)}):
        path.write_bytes(whole[:size])
        refused = opened(path)
        assert isinstance(refused, str), f"{size} bytes"
        assert "\n" not in refused
        assert path.read_bytes() == whole[:size]


def test_r53_no_flipped_bit_changes_what_is_read(path: Path) -> None:
    whole = path.read_bytes()
    chance = random.Random(53)
    refusals = 0
    for _ in range(1000):
        bit = chance.randrange(len(whole) * 8)
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        found = opened(path)
        if isinstance(found, str):
            refusals += 1
            assert "\n" not in found
            assert path.read_bytes() == damaged, f"bit {bit}"
        else:
            assert found == [revision(n).summary for n in (3, 2, 1)], f"bit {bit}"
        for leftover in ("state.db-wal", "state.db-shm"):
            (path.parent / leftover).unlink(missing_ok=True)
    assert refusals > 50


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: p.write_bytes(b""), "is empty"),
        (lambda p: p.write_bytes(b"routes: {}\n"), "not a database"),
        (lambda p: (p.unlink(), p.mkdir()), "not a plain file"),
        (lambda p: p.chmod(0o644), "chmod 600"),
        (lambda p: _execute(p, "PRAGMA user_version = 99"), "version 99"),
        (lambda p: _execute(p, "PRAGMA application_id = 1"), "not a Headgate state file"),
        (lambda p: _execute(p, "DELETE FROM edits WHERE number = 3"), "3 was acknowledged"),
        (lambda p: _execute(p, "UPDATE edits SET who = 'you' WHERE number = 3"), "checksum"),
        (lambda p: _execute(p, "DROP TABLE head"), "no such table"),
        (lambda p: _execute(p, "DELETE FROM head"), "newest revision"),
    ],
)
def test_r53_other_damage_is_refused_with_one_clear_line(
    path: Path, damage: Callable[[Path], object], words: str
) -> None:
    damage(path)
    refused = opened(path)
    assert isinstance(refused, str)
    assert words in refused
    assert str(path) in refused
    assert "\n" not in refused
    assert path.exists()


def test_r53_a_database_of_another_program_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE theirs (x)")
    path.chmod(0o600)
    whole = path.read_bytes()
    assert "not a Headgate state file" in str(opened(path))
    assert path.read_bytes() == whole
    assert [file.name for file in tmp_path.iterdir()] == ["state.db"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a while")
def test_r53_a_file_of_somebody_else_is_refused_and_kept(path: Path) -> None:
    with TemporaryDirectory() as folder:
        moved = Path(folder) / path.name
        shutil.copy(path, moved)
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
        try:
            refused = opened(moved)
        finally:
            os.seteuid(0)
        assert isinstance(refused, str)
        assert str(moved) in refused
        assert "\n" not in refused
        assert moved.read_bytes() == path.read_bytes()


def test_r53_a_log_that_lost_its_end_is_refused(path: Path, tmp_path: Path) -> None:
    store = SqliteStore(path)
    store.commit(revision(4))
    log = path.with_name("state.db-wal")
    killed = tmp_path / "killed"
    killed.mkdir()
    for file in (path, log, path.with_suffix(".mark")):
        shutil.copy(file, killed / file.name)
    store.close()
    whole, base = (killed / log.name).read_bytes(), (killed / path.name).read_bytes()
    chance = random.Random(4)
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        (killed / log.name).write_bytes(whole[:size])
        (killed / path.name).write_bytes(base)
        assert "ends at revision 3 and 4 was acknowledged" in str(opened(killed / path.name))
    for _ in range(50):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        (killed / log.name).write_bytes(damaged)
        (killed / "state.db-shm").unlink(missing_ok=True)
        (killed / path.name).write_bytes(base)  # an open that succeeds folds the log into it
        found = opened(killed / path.name, newest=4)
        assert isinstance(found, str) or found[0] == revision(4).summary


def _execute(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute(statement)
    db.close()


def test_a_start_that_died_while_making_the_file_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "state.db.new").write_bytes(b"half")
    store = SqliteStore(tmp_path / "state.db")
    assert store.load() is None
    store.close()


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Nothing that this process writes grows beyond `size`: what SQLite sees is a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_r38_a_full_disk_refuses_the_edit_and_nothing_else(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db")
    store.commit(revision(1))
    large = revision(2, why="x" * 100_000)
    with no_file_beyond(64 << 10), pytest.raises(StoreFull, match="File too large"):
        store.commit(large)
    assert store.history(limit=5).edits == [revision(1).summary]
    store.commit(large)
    assert store.history(limit=5).edits == [large.summary, revision(1).summary]
    store.close()


def test_r38_room_that_is_held_is_for_no_edit_until_it_is_released(tmp_path: Path) -> None:
    """Then it is written over, and what was written is there after a kill."""
    path, killed = tmp_path / "state.db", tmp_path / "killed"
    log = path.with_name("state.db-wal")
    store = SqliteStore(path)
    store.commit(revision(1), DOCUMENT)
    store.hold(100_000)
    with no_file_beyond(log.stat().st_size):
        store.commit(revision(2))
        for _ in range(2):
            with pytest.raises(StoreFull, match="could not be stored: File too large"):
                store.commit(revision(3))
        store.release()
        store.commit(revision(3))
    killed.mkdir()
    for file in (path, log, path.with_suffix(".mark")):
        shutil.copy(file, killed / file.name)
    store.close()
    assert opened(killed / path.name) == opened(path)
    assert isinstance(opened(path), list)


def test_r38_what_sqlite_alone_calls_full_is_a_full_disk_too(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (x)")
        db.execute("PRAGMA max_page_count = 2")
        with pytest.raises(sqlite3.Error) as refused:
            db.execute("INSERT INTO t VALUES (zeroblob(100000))")
        said = refusal(refused.value, path)
    assert isinstance(said, StoreFull)
    assert "full" in str(said)


@pytest.mark.parametrize("replaced", [False, True])
def test_r38_an_edit_is_not_written_where_no_start_would_find_it(
    tmp_path: Path, replaced: bool
) -> None:
    store = SqliteStore(tmp_path / "state.db")
    store.commit(revision(1))
    (tmp_path / "state.db").rename(tmp_path / "elsewhere")
    if replaced:
        shutil.copy(tmp_path / "elsewhere", tmp_path / "state.db")
    with pytest.raises(DiskRefused, match="the state file was taken away"):
        store.commit(revision(2))
    os.replace(tmp_path / "elsewhere", tmp_path / "state.db")
    store.commit(revision(2))
    assert store.history(limit=5).edits == [revision(2).summary, revision(1).summary]
    store.close()


def test_r54_a_second_gateway_on_one_state_directory_is_refused(tmp_path: Path) -> None:
    first = StateDirectory(tmp_path / "state")
    with pytest.raises(StateRefused, match=f"in use by another gateway .process {os.getpid()}"):
        StateDirectory(tmp_path / "state")
    first.close()
    StateDirectory(tmp_path / "state").close()


def test_r54_a_lock_file_left_behind_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("99999\n")
    directory = StateDirectory(tmp_path)
    assert (tmp_path / "lock").read_text().strip() == str(os.getpid())
    directory.close()


def test_a_state_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateRefused, match="state directory"):
        StateDirectory(tmp_path / "file")
    shutil.rmtree(tmp_path)


def test_a_long_history_of_a_large_document_takes_little_and_every_revision_is_there(
    tmp_path: Path,
) -> None:
    routes = {f"r{n}": {"match": {"path": f"/{n}"}, "split": {"b": 1}} for n in range(500)}
    document = {**DOCUMENT, "routes": routes}
    store = SqliteStore(tmp_path / "state.db")
    for number in range(1, 201):
        changed = {"match": {"path": "/7"}, "split": {"b": number}}
        document = {**document, "routes": {**document["routes"], "r7": changed}}
        store.commit(revision(number, document=document))
    store.close()
    size = (tmp_path / "state.db").stat().st_size
    assert size < 20 * len(str(document)), "a whole document for every edit"
    store = SqliteStore(tmp_path / "state.db")
    assert store.load() is not None
    for number in (1, 2, 100, 199, 200):
        found = got(store, number)
        assert found is not None
        assert found.document["routes"]["r7"]["split"] == {"b": number}
        assert list(found.document["routes"]) == list(routes)
    store.close()


def test_reading_a_revision_of_a_large_table_leaves_nothing_to_collect(tmp_path: Path) -> None:
    """Everybody waits while the collector looks through a tree of twenty thousand routes."""
    routes = {f"r{n}": {"match": {"path": f"/{n}"}, "split": {"b": n}} for n in range(20_000)}
    store = SqliteStore(tmp_path / "state.db")
    document = {"backends": {"b": {}}, "routes": routes}
    for number in range(1, 101):
        changed = {"match": {"path": "/7"}, "split": {"b": number}}
        document = {**document, "routes": {**document["routes"], "r7": changed}}
        store.commit(revision(number, document=document))
    gc.collect()
    before, collections = len(gc.get_objects()), gc.get_stats()[2]["collections"]
    found = store.get(50)
    assert found is not None
    assert len(gc.get_objects()) - before < 100
    assert gc.get_stats()[2]["collections"] == collections
    assert found.whole().document == {**document, "routes": {**routes, "r7": {
        "match": {"path": "/7"}, "split": {"b": 50}}}}  # fmt: skip
    store.close()


def test_the_history_is_bounded_in_bytes_and_the_newest_stays(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db", keep_bytes=2 << 20)
    for number in range(1, 61):
        store.commit(revision(number, document={**DOCUMENT, "routes": {"r": "x" * 200_000}}))
    page = store.history(limit=100)
    numbers = [edit.number for edit in page.edits]
    assert numbers[0] == 60
    assert 2 <= len(numbers) < 30
    assert store.get(numbers[-1]) is not None
    assert store.get(1) is None
    assert (tmp_path / "state.db").stat().st_size < 6 << 20
    store.close()


def test_a_list_of_edits_reads_no_document(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db")
    for number in range(1, 4):
        store.commit(revision(number))
    _execute(tmp_path / "state.db", "UPDATE edits SET body = '{}'")
    assert len(store.history(limit=10).edits) == 3
    with pytest.raises(StateRefused, match="checksum"):
        store.get(2)
    store.close()


def test_a_start_reads_no_more_of_a_long_history_than_its_end(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = SqliteStore(path)
    for number in range(1, 21):  # so large that every third is kept whole
        document = {**DOCUMENT, "backends": {"b": {"n": number, "text": "x" * 100_000}}}
        store.commit(revision(number, document=document))
    store.close()
    _execute(path, "UPDATE edits SET body = '{}' WHERE number <= 15")
    store = SqliteStore(path)
    stored = store.load()
    assert stored is not None
    assert stored.newest.document["backends"]["b"]["n"] == 20
    with pytest.raises(StateRefused, match="checksum"):
        store.get(15)
    store.close()


def test_a_page_of_large_edits_is_cut_and_goes_on(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "state.db")
    for number in range(1, 8):
        store.commit(revision(number, diff=[{"op": "add", "after": "x" * 400_000}]))
    first = store.history(limit=100)
    assert [edit.number for edit in first.edits] == [7, 6, 5]
    assert first.more
    assert [edit.number for edit in store.history(limit=100, before=5).edits] == [4, 3, 2]
    last = store.history(limit=100, before=2)
    assert ([edit.number for edit in last.edits], last.more) == ([1], False)
    store.close()


VERSION_1 = """
CREATE TABLE revisions (number INTEGER PRIMARY KEY, time TEXT NOT NULL, who TEXT NOT NULL,
    why TEXT NOT NULL, source TEXT NOT NULL, diff TEXT NOT NULL, document TEXT NOT NULL,
    checksum TEXT NOT NULL) STRICT;
CREATE TABLE head (id INTEGER PRIMARY KEY CHECK (id = 1), number INTEGER NOT NULL,
    checksum TEXT NOT NULL) STRICT;
CREATE TABLE applied (id INTEGER PRIMARY KEY CHECK (id = 1), document TEXT NOT NULL,
    checksum TEXT NOT NULL) STRICT;
PRAGMA application_id = 0x48644774;
PRAGMA user_version = 1;
"""


def test_a_state_of_the_first_version_goes_on_without_loss(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(VERSION_1)
        for number in range(1, 4):
            made = revision(number)
            texts = canonical(made.diff), canonical(made.document), made.checksum()
            row = (number, made.time, made.who, made.why, made.source, *texts)
            db.execute("INSERT INTO revisions VALUES (?,?,?,?,?,?,?,?)", row)
        db.execute("INSERT INTO head VALUES (1, 3, ?)", (revision(3).checksum(),))
        text = canonical(DOCUMENT)
        db.execute("INSERT INTO applied VALUES (1, ?, ?)", (text, checksum(DOCUMENT)))
        db.commit()
    path.chmod(0o600)
    store = SqliteStore(path, keep=3)
    stored = store.load()
    assert stored is not None
    assert (stored.newest, stored.applied) == (revision(3), DOCUMENT)
    store.commit(revision(4))
    assert [edit.number for edit in store.history(limit=9).edits] == [4, 3, 2]
    assert store.history(limit=9).edits[2] == revision(2).summary
    assert (got(store, 2), got(store, 4), got(store, 1)) == (revision(2), revision(4), None)
    store.close()
    assert opened(path, newest=4) == [revision(n).summary for n in (4, 3, 2)]


def test_whatever_goes_wrong_in_an_edit_the_next_one_is_not_swallowed(tmp_path: Path) -> None:
    class Failing(SqliteStore):
        def forget(self, db: sqlite3.Connection, newest: int) -> None:
            if newest == 2 and not failed:
                failed.append(newest)
                raise ZeroDivisionError
            super().forget(db, newest)

    failed: list[int] = []
    store = Failing(tmp_path / "state.db")
    store.commit(revision(1))
    with pytest.raises(ZeroDivisionError):
        store.commit(revision(2))
    store.commit(revision(2, why="again"))
    newest = store.get(2)
    assert newest is not None
    assert newest.why == "again"
    store.close()
