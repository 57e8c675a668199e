"""Permits of an instance: a count over processes, which the kernel keeps."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.dataplane.permits import FEW, Permits, PermitsFile, is_few

ROOT = Path(__file__).parents[2]
OTHER = """
import sys
from gateway.dataplane.permits import Permits
permits = Permits(int(sys.argv[1]), "b", "h:1")
for line in sys.stdin:
    word, _, limit = line.strip().partition(" ")
    number = [int(limit)] if limit else []
    print(getattr(permits, word)(*number), flush=True)
"""


class OtherWorker:
    def __init__(self, file: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(file)], cwd=ROOT, text=True, pass_fds=[file],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def __call__(self, command: str) -> bool:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(command, file=self.process.stdin, flush=True)
        return self.process.stdout.readline().strip() == "True"


@pytest.fixture
def file() -> Iterator[int]:
    with tempfile.TemporaryFile() as made:
        yield made.fileno()


@pytest.fixture
def other(file: int) -> Iterator[OtherWorker]:
    made = OtherWorker(file)
    with made.process as process:
        yield made
        process.kill()


def test_there_are_as_many_permits_as_the_limit_says_for_all_together(file, other) -> None:
    mine = Permits(file, "b", "h:1")
    assert mine.acquire(3)
    assert other("acquire 3")
    assert mine.acquire(3)
    assert not other("acquire 3")
    assert not mine.acquire(3)
    other("release")
    assert other("acquire 3")
    assert Permits(file, "b", "h:2").acquire(1), "another instance"


def test_whoever_found_none_first_gets_the_next_one(file, other) -> None:
    mine = Permits(file, "b", "h:1")
    assert mine.acquire(1)
    assert not other("acquire 1")
    mine.release()
    assert not mine.acquire(1), "it was not this worker's turn"
    assert other("acquire 1")
    other("release")
    assert mine.acquire(1)


def test_who_does_not_want_it_any_more_lets_others_be_next(file, other) -> None:
    mine = Permits(file, "b", "h:1")
    assert mine.acquire(1)
    assert not other("acquire 1")
    other("resign")
    mine.release()
    assert mine.acquire(1)


def test_a_worker_that_is_killed_gives_back_what_it_had(file, other) -> None:
    mine = Permits(file, "b", "h:1")
    assert other("acquire 2")
    assert other("acquire 2")
    assert not mine.acquire(2)
    other.process.kill()
    other.process.wait()
    assert mine.acquire(2)
    assert mine.acquire(2)
    assert not mine.acquire(2)


def test_an_instance_that_comes_again_is_counted_with_what_it_still_has() -> None:
    file = PermitsFile(None)
    mine = file.at("b", "h:1")
    assert mine.acquire(1)
    assert not file.at("b", "h:1").acquire(1)
    assert file.at("c", "h:1").acquire(1)


def test_few_are_counted_and_many_are_shared_out() -> None:
    assert is_few(1, 1)
    assert is_few(FEW, 2)
    assert not is_few(FEW + 1, 2)
    assert is_few(FEW + 1, FEW + 1)


def test_a_permit_that_was_never_taken_is_not_given_back(file) -> None:
    permits = Permits(file, "b", "h:1")
    permits.release()
    permits.resign()
    assert permits.acquire(1)
    assert os.fstat(file).st_size == 0, "only locks"
