"""Lines on their way to a reader that stalls, comes back, or shares its pipe with others."""

import fcntl
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.processes.outlet import PIPE_BUF, Outlet
from tests.harness.full_disk import NO_BYTECODE
from tests.harness.unread import full_pipe


def until(check: Callable[[], object], within_s: float = 60.0) -> None:
    end = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.paced
def test_who_writes_never_waits_and_what_finds_no_room_is_counted() -> None:
    with full_pipe() as pipe:
        outlet = Outlet(pipe, max_bytes=1000)
        began = time.monotonic()
        for _ in range(100):
            outlet.put(b"x" * 99 + b"\n")
        outlet.put(b"one\ntwo\n" * 100)
        assert time.monotonic() - began < 0.5
        assert outlet.dropped == 90 + 200
        outlet.close(0.05)
        assert time.monotonic() - began < 1.0


def test_a_reader_that_comes_back_gets_what_waited_and_learns_what_is_missing() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    filled = os.write(writing, b"." * (1 << 20))
    os.set_blocking(writing, True)
    outlet = Outlet(writing, max_bytes=300, gap=lambda lines: b"%d lines are missing\n" % lines)
    for number in range(1000):
        outlet.put(b"%d\n" % number)
    dropped = outlet.dropped
    assert 800 < dropped < 1000
    while filled:
        filled -= len(os.read(reading, filled))
    until(lambda: not outlet.waiting)
    outlet.put(b"last\n")
    outlet.close(60)
    os.close(writing)
    with os.fdopen(reading) as told:
        lines = told.read().splitlines()
    assert lines[: 1000 - dropped] == [str(number) for number in range(1000 - dropped)]
    assert lines[1000 - dropped :] == [f"{dropped} lines are missing", "last"]
    assert outlet.dropped == dropped


def test_lines_of_several_writers_are_not_torn_apart_where_they_share_a_pipe() -> None:
    reading, writing = os.pipe()
    outlets = [Outlet(writing) for _ in range(3)]
    lines = [bytes([97 + who]) * (PIPE_BUF // 3) + b"\n" for who in range(3)]
    for line, outlet in zip(lines, outlets, strict=True):
        for _ in range(30):
            outlet.put(line * 10)
    found: list[bytes] = []

    def read() -> None:
        with os.fdopen(reading, "rb") as told:
            found.extend(told)

    reader = threading.Thread(target=read)
    reader.start()
    for outlet in outlets:
        outlet.close(60)
    os.close(writing)
    reader.join(60)
    assert sorted(found) == [line for line in lines for _ in range(300)]


def test_a_pause_of_the_whole_process_costs_no_line_that_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Time that went by while nothing of it ran was none for the thread that writes."""
    hours = SimpleNamespace(monotonic=itertools.count(0, 3600).__next__)
    monkeypatch.setattr("gateway.processes.outlet.time", hours)
    reading, writing = os.pipe()
    outlet = Outlet(writing)
    outlet.put(b"x" * (1 << 20) + b"\n")  # more than a pipe takes
    outlet.put(b"last\n")
    found: list[bytes] = []
    with os.fdopen(reading, "rb") as told:
        reader = threading.Timer(0.1, lambda: found.extend(told))
        reader.start()
        outlet.close(60)
        os.close(writing)
        reader.join(60)
    assert (found[1:], outlet.dropped) == ([b"last\n"], 0)


def test_a_line_longer_than_any_pipe_takes_at_once_arrives_whole() -> None:
    reading, writing = os.pipe()
    outlet = Outlet(writing)
    outlet.put(b"a\n" + b"x" * 20_000 + b"\nb\n")
    outlet.close(60)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        assert [len(line) for line in told] == [2, 20_001, 2]


def test_a_pipe_that_others_made_non_blocking_loses_nothing() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    outlet = Outlet(writing)
    for _ in range(10):
        outlet.put((b"x" * 99 + b"\n") * 1000)
    size = 0
    while size < 1_000_000:
        size += len(os.read(reading, 1 << 16))
    outlet.close(60)
    assert (size, outlet.dropped) == (1_000_000, 0)
    os.close(reading)
    os.close(writing)


def test_a_reader_that_is_gone_costs_the_lines_and_nothing_else() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    outlet = Outlet(writing)
    outlet.put(b"1\n2\n")
    outlet.close(60)
    assert outlet.dropped == 2
    os.close(writing)


def test_a_file_that_was_moved_away_is_opened_anew_by_itself_and_when_told(tmp_path: Path) -> None:
    path = tmp_path / "log"
    outlet = Outlet(None, path=str(path))

    def write(line: str) -> None:
        outlet.put(f"{line}\n".encode())
        until(lambda: any(line in each.read_text() for each in tmp_path.iterdir()))

    write("first")
    path.rename(tmp_path / "log.1")
    outlet.reopen()
    until(path.exists)
    write("second")
    path.rename(tmp_path / "log.2")

    def written_to_the_new_one() -> bool:
        outlet.put(b"third\n")
        return path.exists()

    until(written_to_the_new_one)
    outlet.close(60)
    assert (tmp_path / "log.1").read_text() == "first\n"
    assert (tmp_path / "log.2").read_text().startswith("second\n")
    assert set(path.read_text().splitlines()) == {"third"}


FULL = """
import resource, sys, time
from gateway.processes.outlet import Outlet

def room(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def put(line):
    outlet.put(line)
    while outlet.waiting:
        time.sleep(0.001)

outlet = Outlet(None, path=sys.argv[1])
room(15)  # what a full disk leaves
for number in range(4):
    put(b"line %d...\\n" % number)
room(resource.RLIM_INFINITY)
put(b"line 4...\\n")
put(b"line 5...\\n")
outlet.close()
print(outlet.dropped)
"""


def test_a_line_that_found_no_more_room_spoils_none_that_comes_once_there_is(
    tmp_path: Path,
) -> None:
    path = tmp_path / "log"
    command = [sys.executable, "-c", FULL, str(path)]
    env = {**os.environ, **NO_BYTECODE}
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    assert path.read_text().splitlines() == ["line 0...", "line ", "line 4...", "line 5..."]
    assert ran.stdout == "3\n"


@pytest.mark.parametrize("is_held", [False, True])
def test_a_line_that_another_process_left_unfinished_spoils_none_of_ours(
    tmp_path: Path, is_held: bool
) -> None:
    path = tmp_path / "access.log"
    path.write_bytes(b'{"whole": 1}\n')
    outlet = Outlet(None, path=str(path))
    outlet.put(b'{"ours": 1}\n')
    until(lambda: b"ours" in path.read_bytes())
    with path.open("ab") as killed:
        killed.write(b'{"to')
        killed.flush()
        outlet.put(b'{"ours": 2}\n')
        until(lambda: b"2}\n" in path.read_bytes())
        if is_held:  # by one that was stopped while it wrote: nobody waits for it for long
            fcntl.flock(killed, fcntl.LOCK_EX)
        outlet.put(b'{"ours": 3}\n')
        until(lambda: b"3}\n" in path.read_bytes())
    outlet.close()
    lines = path.read_bytes().splitlines()
    assert lines == [b'{"whole": 1}', b'{"ours": 1}', b'{"to', b'{"ours": 2}', b'{"ours": 3}']
    assert outlet.dropped == 0


def test_a_file_whose_directory_is_gone_is_written_on(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    outlet = Outlet(None, path=str(folder / "log"))
    outlet.put(b"first\n")
    folder.rename(tmp_path / "old")
    outlet.reopen()
    outlet.put(b"second\n")
    outlet.close(60)
    assert (tmp_path / "old" / "log").read_text() == "first\nsecond\n"
    assert outlet.dropped == 0


def test_a_named_pipe_whose_reader_goes_and_comes_costs_the_lines_in_between(
    tmp_path: Path,
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as reading:
        outlet = Outlet(None, path=str(path))
        outlet.put(b"one\n")
        until(lambda: not outlet.waiting)
        assert reading.read() == b"one\n"
    outlet.put(b"two\n")
    until(lambda: outlet.dropped == 1)
    outlet.reopen()
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as reading:
        outlet.put(b"three\n")
        until(lambda: not outlet.waiting)
        assert reading.read() == b"three\n"
    outlet.close()
