"""Workers tell each other their load in memory that all of them map."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from gateway.core.shared_load import size
from gateway.dataplane.load_memory import ALIVE_S, MIN_LANES, LoadMemory
from gateway.telemetry.book import shared_memory

NOW = 1000.0
OTHER = """
import sys
from gateway.dataplane.load_memory import LoadMemory
memory = LoadMemory(int(sys.argv[1]), 2)
load = memory.load("b", "10.0.0.1:80")
memory.beat(1000.0)
load.tell(7, 3)
memory.queue("b").tell(4, 2)
print("told", flush=True)
sys.stdin.readline()
"""


@contextmanager
def memory() -> Iterator[int]:
    descriptor = shared_memory()
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def begun(program: str, descriptor: int) -> subprocess.Popen[str]:
    """A process that runs `program` with the memory as its argument."""
    return subprocess.Popen(
        [sys.executable, "-c", program, str(descriptor)],
        pass_fds=(descriptor,),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def another_worker(descriptor: int) -> subprocess.Popen[str]:
    """A process that has 7 requests at an instance of `b`, and 4 that wait."""
    process = begun(OTHER, descriptor)
    assert process.stdout is not None
    assert process.stdout.readline() == "told\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_process_sees_what_another_one_has_until_that_one_runs_no_more() -> None:
    with memory() as descriptor:
        own = LoadMemory(descriptor, 2)
        load, queue = own.load("b", "10.0.0.1:80"), own.queue("b")
        assert load is not None
        assert queue is not None
        other = another_worker(descriptor)
        try:
            own.beat(NOW)
            load.look()
            queue.look()
            assert (load.first, load.second) == (7, 3)
            assert (queue.first, queue.second) == (4, 2)
        finally:
            end(other)
        own.beat(NOW + ALIVE_S)
        load.look()
        assert (load.first, load.second) == (0, 0)


def test_a_worker_that_takes_the_lane_of_one_that_died_has_nothing_of_it() -> None:
    with memory() as descriptor:
        own = LoadMemory(descriptor, 2)
        load = own.load("b", "10.0.0.1:80")
        assert load is not None
        end(another_worker(descriptor))
        program = OTHER.replace("load.tell(7, 3)", "").replace('memory.queue("b").tell(4, 2)', "")
        next_one = subprocess.run(
            [sys.executable, "-c", program, str(descriptor)],
            pass_fds=(descriptor,),
            stdin=subprocess.DEVNULL,
            check=True,
        )
        assert next_one.returncode == 0
        own.beat(NOW)
        load.look()
        assert (load.first, load.second) == (0, 0)


def test_instances_are_told_apart_and_what_all_have_left_is_free_again() -> None:
    with memory() as descriptor:
        own = LoadMemory(descriptor, 2)
        own.beat(NOW)
        for number in range(300):
            one = own.load("b", f"10.0.0.{number}:80")
            two = own.load("c", f"10.0.0.{number}:80")
            assert one is not None
            assert two is not None
            one.tell(1, 1)
            assert two.own == (0, 0)
            own.leave("b", f"10.0.0.{number}:80")
            own.leave("c", f"10.0.0.{number}:80")
        own.leave("b")
        own.leave("c")
        assert not any(own.directory)


def test_who_lost_its_place_to_another_instance_finds_one_again() -> None:
    with memory() as descriptor:
        own = LoadMemory(descriptor, 2)
        load = own.load("b", "10.0.0.1:80")
        assert load is not None
        for place, word in enumerate(own.directory):
            if word:
                own.directory[place] = 99
        before = load.cells
        own.beat(NOW)
        assert load.cells is not before
        load.tell(2, 0)
        assert own.load("b", "10.0.0.1:80") is not None


def test_without_other_workers_nothing_is_shared() -> None:
    own = LoadMemory(None, 1)
    own.beat(NOW)
    assert own.queue("b") is None
    assert own.load("b", "10.0.0.1:80") is None
    own.leave("b")


def test_a_worker_that_has_just_begun_is_noticed_at_once() -> None:
    with memory() as descriptor:
        own = LoadMemory(descriptor, 2)
        load = own.load("b", "10.0.0.1:80")
        assert load is not None
        own.beat(NOW - 1.0)
        other = another_worker(descriptor)
        try:
            own.notice(NOW)
            load.look()
            assert load.first == 7
        finally:
            end(other)


BETWEEN = """
import sys
from gateway.dataplane.load_memory import NEAR, LoadMemory

def pause():
    print("pauses", flush=True)
    sys.stdin.readline()

class Moment:
    def __float__(self):
        pause()
        return 1000.0
    def __sub__(self, seconds):
        return 1000.0 - seconds

class Directory:
    def __init__(self, words):
        self.words, self.looks = words, 0
    def __getitem__(self, place):
        word = self.words[place]
        self.looks += 1
        if self.looks == NEAR + 1:
            pause()
        return word
    def __setitem__(self, place, word):
        self.words[place] = word

memory = LoadMemory(int(sys.argv[1]), 2)
memory.directory = Directory(memory.directory)
queue = memory.queue("b")
memory.beat(Moment())
queue.tell(4, 2)
print("told", flush=True)
sys.stdin.readline()
"""


@contextmanager
def that_pauses(descriptor: int) -> Iterator[Iterator[None]]:
    """A process that finds a place for `b` and then says that it runs, and pauses before each
    thing that it writes: one step at a time, until it has told that 4 wait."""
    process = begun(BETWEEN, descriptor)
    assert process.stdin is not None
    assert process.stdout is not None

    def steps() -> Iterator[None]:
        assert process.stdin is not None
        assert process.stdout is not None
        while process.stdout.readline() == "pauses\n":
            yield
            process.stdin.write("\n")
            process.stdin.flush()

    try:
        yield steps()
    finally:
        end(process)


def test_who_takes_the_same_place_at_the_same_time_erases_nothing() -> None:
    with memory() as descriptor, that_pauses(descriptor) as steps:
        own = LoadMemory(descriptor, 2)
        own.beat(NOW - 1.0)
        next(steps)
        queue = own.queue("b")
        assert queue is not None
        queue.tell(3, 1)
        assert len(list(steps)) > 0
        assert queue.own == (3, 1)
        own.notice(NOW)
        queue.look()
        assert (queue.first, queue.second) == (4, 2)


def test_a_worker_is_noticed_whenever_another_one_looks_while_it_says_that_it_runs() -> None:
    with memory() as descriptor, that_pauses(descriptor) as steps:
        own = LoadMemory(descriptor, 2)
        queue = own.queue("b")
        assert queue is not None
        own.beat(NOW - 1.0)
        for _ in steps:
            own.notice(NOW)
        own.notice(NOW)
        queue.look()
        assert queue.first == 4


def test_a_place_that_is_free_again_has_nothing_of_who_was_there() -> None:
    with memory() as descriptor:
        own = LoadMemory(descriptor, 2)
        load = own.load("b", "10.0.0.1:80")
        assert load is not None
        end(another_worker(descriptor))  # killed: it leaves 7 behind
        cells = size(max(MIN_LANES, 4 * 2))
        for at in range(cells):
            load.cells[at] += 1.0
        own.leave("b", "10.0.0.1:80")
        own.leave("b")
        again = own.load("b", "10.0.0.1:80")
        assert again is not None
        assert [again.cells[at] for at in range(cells)].count(0.0) == cells - 1
