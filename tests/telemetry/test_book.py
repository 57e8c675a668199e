"""Counting in memory that outlives who counts."""

import multiprocessing
import os
import random
import signal
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from gateway.controlplane.watch.counters import Totals
from gateway.telemetry.book import BLOCK, PLACE, Book, shared_memory
from gateway.telemetry.buckets import BOUNDS
from gateway.telemetry.catalogue import METRICS, TIMES
from gateway.telemetry.metrics import (
    CONSUMED,
    EJECTIONS,
    FIRST_BYTE,
    OVERHEAD,
    REQUEST,
    REQUESTS,
    RETRIES,
    SUMS,
    Counters,
)
from gateway.telemetry.series import TOTAL

OK = ("GET", "200", "")


@pytest.fixture
def memory() -> Iterator[int]:
    descriptor = shared_memory()
    yield descriptor
    os.close(descriptor)


def forked(work: Callable[[], Any]) -> int:
    """Runs `work` in a process of its own, as a worker would be; its exit code."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def ask(memory: int, count: int, *, route: str = "r", die: bool = False) -> int:
    """A worker that counts `count` requests and ends, by SIGKILL if it shall `die`."""

    def work() -> None:
        counters = Counters(Book(memory))
        for _ in range(count):
            cell = counters.cell(route, "b", "h:1")
            cell.count(b"GET", 200, "")
            cell.times.count(0.25, 0.2, 0.0001)
        if die:
            os.kill(os.getpid(), signal.SIGKILL)

    return forked(work)


def requests(totals: Totals) -> dict[Any, Any]:
    totals.read()
    return {labels: dict(tally.counts) for labels, tally in totals.of(REQUESTS).items()}


def test_r70_a_killed_process_takes_no_count_with_it(memory: int) -> None:
    assert ask(memory, 7, die=True) == -signal.SIGKILL
    totals = Totals(memory)
    assert requests(totals) == {("r", "b", "h:1"): {OK: 7}}
    tally = totals.of(REQUEST)["r", "b"]
    assert tally.buckets.total() == 7


def test_r70_the_next_process_counts_on_in_the_same_book(memory: int) -> None:
    totals = Totals(memory)
    for turn in range(1, 4):
        ask(memory, 7, die=turn % 2 == 1)
        assert requests(totals) == {("r", "b", "h:1"): {OK: 7 * turn}}
    used = os.pread(memory, 16, 0)[8:]
    ask(memory, 1)
    assert os.pread(memory, 16, 0)[8:] == used, "no block more for what is known"
    assert os.pread(memory, 8, PLACE) == bytes(8), "and no other book"


def test_r70_two_processes_at_once_have_a_book_each(memory: int) -> None:
    counters = Counters(Book(memory))
    counters.cell("r", "b", "h:1").count(b"GET", 200, "")
    ask(memory, 3)
    totals = Totals(memory)
    assert requests(totals) == {("r", "b", "h:1"): {OK: 4}}
    assert os.pread(memory, 8, PLACE) != bytes(8)


def test_a_look_tells_what_changed_and_nothing_else(memory: int) -> None:
    counters, totals = Counters(Book(memory)), Totals(memory)
    cell = counters.cell("r", "b", "h:1")
    counters.cell("r", "b", "h:2").count(b"GET", 200, "")
    cell.count(b"GET", 200, "")
    totals.read()
    assert totals.read() == []
    cell.count(b"POST", 503, "queue_full")
    (change,) = totals.read()
    assert (change.labels, change.key) == (("r", "b", "h:1"), ("POST", "503", "queue_full"))
    assert change.more == 1


def everything(totals: Totals) -> dict[Any, Any]:
    """All that is shown, sums of seconds as far as floats can be added in any order."""
    totals.read()
    return {
        (metric.name, labels): {k: round(n, 9) for k, n in tally.counts.items() if round(n, 9)}
        for metric in METRICS
        for labels, tally in totals.of(metric.name).items()
        if any(tally.counts.values())
    }


@pytest.mark.parametrize("seed", range(20))
def test_who_looked_all_the_time_sees_what_who_looks_now_sees(memory: int, seed: int) -> None:
    chance = random.Random(seed)
    kept, told = Totals(memory), Counter[Any]()
    counters = Counters(Book(memory), Book(memory, apart=True))
    for turn in range(300):
        cell = counters.cell("r" * chance.choice((1, 250, 499)), "b", chance.choice("123456789"))
        match chance.randrange(12):
            case 0:
                gone = [("instance", "b", chance.choice("123456789")) for _ in range(3)]
                counters.retire(gone, "retired-1")
            case 1:
                counters.retire([("instance", "b", "retired-1")], "retired-2")
            case 2:
                counters.add(RETRIES, "r", chance.choice("xyz"))
            case 3:
                cell.count(b"GET", 200, "")
                counters.consumed(chance.choice("kl"), cell.labels[0]).count(200)
            case 4:
                told.update(followed(kept.read(apart=chance.random() < 0.5)))
                if chance.random() < 0.3:
                    assert kept.of(REQUEST).keys() >= kept.of(OVERHEAD).keys()
            case _:
                took_s = chance.lognormvariate(-4, 1)
                cell.count(b"GET", chance.choice((200, 404, 500 + turn % 99)), "")
                cell.times.count(took_s, took_s * chance.choice((1.0, 0.5)), took_s / 100)
    told.update(followed(kept.read()))
    fresh = Totals(memory)
    now = Counter(followed(fresh.read()))
    assert everything(kept) == everything(fresh)
    assert {key: n for key, n in told.items() if n} == now


def test_who_asks_for_times_while_they_are_made_ready_for_another_gets_all_and_so_does_the_other(
    memory: int,
) -> None:
    counters, totals = Counters(Book(memory)), Totals(memory)
    cells = [counters.cell(f"r{number}", "b", "h:1") for number in range(100)]
    for _ in range(2):
        for cell in cells:
            cell.times.count(0.1, 0.1, 0.001)
        totals.read()
    first = totals.settling()
    next(first)
    assert len(totals.of(OVERHEAD)) == 100
    for _ in first:
        pass
    assert sum(tally.buckets.total() for tally in totals.of(REQUEST).values()) == 200


def followed(changes: Any) -> dict[Any, int]:
    """What was told of requests, consumers and times, summed up."""
    found: dict[Any, int] = {}
    for change in changes:
        of = change.metric, change.labels, change.key
        found[of] = found.get(of, 0) + change.more
    return found


def consumed(totals: Totals) -> dict[Any, Any]:
    return {labels: dict(tally.counts) for labels, tally in totals.of(CONSUMED).items()}


def test_what_consumers_did_is_read_when_it_is_asked_for(memory: int) -> None:
    counters, totals = Counters(Book(memory), Book(memory, apart=True)), Totals(memory)
    cell = counters.cell("r", "b", "h:1")
    acme = counters.consumed("acme", "r")

    def ask(code: int = 200) -> None:
        cell.count(b"GET", code, "")
        acme.count(code)

    ask()
    assert [change.metric for change in totals.read(apart=False)] == [REQUESTS]
    assert consumed(totals) == {}
    assert followed(totals.read()) == {(CONSUMED, ("acme", "r"), ("200",)): 1}
    ask()
    ask(429)
    totals.read(apart=False)
    assert consumed(totals) == {("acme", "r"): {("200",): 1}}
    assert followed(totals.read()) == {
        (CONSUMED, ("acme", "r"), ("200",)): 1,
        (CONSUMED, ("acme", "r"), ("429",)): 1,
    }
    assert consumed(totals) == {("acme", "r"): {("200",): 2, ("429",): 1}}
    assert requests(totals) == {("r", "b", "h:1"): {OK: 2, ("GET", "429", ""): 1}}


def test_a_consumer_that_is_gone_is_counted_together_apart(memory: int) -> None:
    counters, totals = Counters(Book(memory), Book(memory, apart=True)), Totals(memory)
    cell = counters.cell("r", "b", "h:1")
    for name in ("acme", "other"):
        cell.count(b"GET", 200, "")
        counters.consumed(name, "r").count(200)
    totals.read()
    gone = [("consumer", "acme"), ("instance", "b", "h:1")]
    for retire in (totals.retire, counters.retire):
        retire(gone, "retired-1")
        totals.read()
        assert consumed(totals) == {
            ("(retired-1)", "r"): {("200",): 1}, ("other", "r"): {("200",): 1},
        }  # fmt: skip
        assert requests(totals) == {("r", "b", "retired-1"): {OK: 2}}
    counters.consumed("acme", "r").count(200)
    totals.read()
    assert consumed(totals)["acme", "r"] == {("200",): 1}


def test_the_next_process_counts_on_in_both_books_of_one_that_ended(memory: int) -> None:
    def work() -> None:
        counters = Counters(Book(memory), Book(memory, apart=True))
        counters.consumed("acme", "r").count(200)

    totals = Totals(memory)
    for turn in (1, 2):
        forked(work)
        totals.read()
        assert consumed(totals) == {("acme", "r"): {("200",): turn}}


def test_a_method_that_http_does_not_know_is_other(memory: int) -> None:
    counters = Counters(Book(memory))
    for method in (b"BREW", b"x" * 1000):
        counters.cell("r", "b", "h:1").count(method, 400, "bad_request")
    assert requests(Totals(memory)) == {("r", "b", "h:1"): {("other", "400", "bad_request"): 2}}


def test_long_names_and_many_series_are_kept_whole(memory: int) -> None:
    names = [("ü" * 300 + str(number), "b", '"\n') for number in range(5000)]

    def work() -> None:
        counters = Counters(Book(memory))
        for name in names:
            for code in range(200, 220):
                counters.cell(*name).count(b"GET", code, "")

    forked(work)
    counters = Counters(Book(memory))
    counters.cell(*names[4321]).count(b"GET", 200, "")
    found = requests(Totals(memory))
    assert set(found) == set(names)
    assert found[names[4321]]["GET", "200", ""] == 2
    assert sum(sum(counts.values()) for counts in found.values()) == 5000 * 20 + 1


def churn(counters: Counters, number: int) -> None:
    """One more instance comes, answers, is ejected and goes for good."""
    instance = f"10.0.{number // 256}.{number % 256}:80"
    counters.cell("r", "b", instance).count(b"GET", 200, "")
    counters.add(EJECTIONS, "b", instance)
    counters.retire([("instance", "b", instance)], "retired")


def test_instances_that_come_and_go_take_no_room(memory: int) -> None:
    counters, totals = Counters(Book(memory)), Totals(memory)
    for number in range(50):
        churn(counters, number)
    used = counters.book.words[1]
    for number in range(50, 500):
        churn(counters, number)
        if number % 7 == 0:
            totals.read()
    assert counters.book.words[1] == used
    assert requests(totals) == {("r", "b", "retired"): {OK: 500}}
    assert totals.of(EJECTIONS)["b", "retired"].counts == {-2: 500}


def test_r70_what_ends_after_its_instance_is_gone_is_counted(memory: int) -> None:
    counters, totals = Counters(Book(memory)), Totals(memory)
    held = [counters.cell("r", "b", f"h:{number}") for number in range(3)]
    for number, cell in enumerate(held):
        cell.count(b"GET", 200, "")
        counters.retire([("instance", "b", f"h:{number}")], "retired")
    for cell in held:
        cell.count(b"GET", 200, "")
        cell.count(b"GET", 502, "upstream_broke")
    assert requests(totals) == {("r", "b", "retired"): {OK: 6, ("GET", "502", "upstream_broke"): 3}}
    counters.cell("r", "b", "h:1").count(b"GET", 200, "")
    assert requests(totals)["r", "b", "h:1"] == {OK: 1}, "an address that came back is anew"


def test_r70_what_ends_after_its_instance_was_counted_together_twice_is_counted(
    memory: int,
) -> None:
    counters, totals = Counters(Book(memory)), Totals(memory)
    held = counters.cell("r", "b", "h:1")
    held.count(b"GET", 200, "")
    counters.retire([("instance", "b", "h:1")], "retired-1")
    gone = [("instance", "b", "h:2"), ("instance", "b", "retired-1")]
    counters.cell("r", "b", "h:2").count(b"GET", 200, "")
    counters.retire(gone, "retired-2")
    for number in range(40):  # of others, in the blocks that were freed
        counters.cell("r", "b", f"k:{number}").count(b"GET", 200, "")
    held.count(b"GET", 200, "")
    found = requests(totals)
    assert found["r", "b", "retired-2"] == {OK: 3}
    assert all(found["r", "b", f"k:{number}"] == {OK: 1} for number in range(40))


def test_what_requests_hold_of_several_routes_that_were_folded_into_one_adds_up(
    memory: int,
) -> None:
    counters, totals = Counters(Book(memory)), Totals(memory)
    held = [took(counters, route, "b", "h:1") for route in ("first", "second")]
    counters.retire([("route", "first"), ("route", "second")], "retired-1")
    for _ in range(3):
        for cell in held:
            cell.count(b"GET", 200, "")
            cell.times.count(0.25, 0.2, 0.0001)
    assert requests(totals) == {("(retired-1)", "b", "h:1"): {OK: 8}}
    (tally,) = totals.of(REQUEST).values()
    assert tally.buckets.total() == 8
    assert tally.counts[TOTAL] == pytest.approx(8 * 0.25)


def took(counters: Counters, route: str, backend: str, instance: str) -> Any:
    """One request that was answered; where it was counted."""
    cell = counters.cell(route, backend, instance)
    cell.count(b"GET", 200, "")
    cell.times.count(0.25, 0.2, 0.0001)
    return cell


def test_r70_routes_and_backends_that_come_and_go_take_no_room_and_lose_no_count(
    memory: int,
) -> None:
    counters, totals = Counters(Book(memory)), Totals(memory)
    used = 0
    for number in range(1, 201):
        route, backend = f"r{number}", f"b{number}"
        held = took(counters, route, backend, "h:1")
        took(counters, "stays", backend, "h:1")
        took(counters, route, "stays", "h:9")
        counters.add(RETRIES, route, "reset")
        gone: list[tuple[str, ...]] = [("route", route), ("backend", backend)]
        if number > 1:
            gone += [("route", f"(retired-{number - 1})"), ("backend", f"(retired-{number - 1})")]
        if number % 2:
            totals.read()
        totals.retire(gone, f"retired-{number}")
        for start in range(len(gone)):  # as it comes over the channel
            counters.retire(gone[start : start + 1], f"retired-{number}")
            if number % 3 == 0:
                totals.read()
                shown = {labels[0] for labels in totals.of(REQUESTS)}
                assert number % 2 == 0 or shown == {"stays", f"(retired-{number})"}
        held.count(b"GET", 502, "upstream_broke")
        held.times.count(0.25, 0.2, 0.0001)
        if number == 20:
            used = counters.book.words[1]
    assert counters.book.words[1] == used
    many = "(retired-200)"
    broke = ("GET", "502", "upstream_broke")
    assert requests(totals) == {
        (many, many, "retired-200"): {OK: 200, broke: 200},
        ("stays", many, "retired-200"): {OK: 200},
        (many, "stays", "h:9"): {OK: 200},
    }
    assert {labels: t.buckets.total() for labels, t in totals.of(REQUEST).items()} == {
        (many, many): 400, ("stays", many): 200, (many, "stays"): 200,
    }  # fmt: skip
    assert totals.of(RETRIES)[many, "reset"].counts == {-2: 200}


def test_what_comes_back_after_it_was_counted_together_begins_anew(memory: int) -> None:
    counters, totals = Counters(Book(memory)), Totals(memory)
    gone = [("route", "r"), ("instance", "b", "h:1")]
    for _ in range(2):
        took(counters, "r", "b", "h:1")
    totals.read()
    totals.retire(gone, "retired-1")
    counters.retire(gone, "retired-1")
    took(counters, "r", "b", "h:1")
    assert requests(totals) == {
        ("(retired-1)", "b", "retired-1"): {OK: 2}, ("r", "b", "h:1"): {OK: 1},
    }  # fmt: skip
    assert totals.of(REQUEST)["r", "b"].buckets.total() == 1


def test_r70_a_process_killed_while_it_folds_counts_nothing_twice(memory: int) -> None:
    """Killed at each of its stores in turn, by a look at what is there after each."""

    class Dying(Book):
        def release(self, blocks: Sequence[int]) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

    def work() -> None:
        counters = Counters(Dying(memory))
        for number in range(4):
            cell = counters.cell("r", "b", f"h:{number}")
            for code in range(200, 240):
                cell.count(b"GET", code, "")
        counters.retire([("instance", "b", "h:1"), ("instance", "b", "h:2")], "retired")

    assert forked(work) == -signal.SIGKILL

    def total() -> int:
        return sum(sum(counts.values()) for counts in requests(Totals(memory)).values())

    assert total() == 160
    assert ask(memory, 1) == 0
    assert total() == 161
    assert set(requests(Totals(memory))) == {
        ("r", "b", "h:0"), ("r", "b", "h:1"), ("r", "b", "h:3"), ("r", "b", "retired"),
    }  # fmt: skip


def test_a_counter_needs_nothing_but_its_name(memory: int) -> None:
    counters, totals = Counters(Book(memory)), Totals(memory)
    counters.add(RETRIES, "r", "reset")
    counters.add(RETRIES, "r", "reset", count=2)
    totals.read()
    assert totals.of(RETRIES)["r", "reset"].counts == {-2: 3}
    assert counters.value(RETRIES, "r", "reset") == 3


def test_each_of_the_three_histograms_has_what_was_timed_whoever_counted_it(memory: int) -> None:
    chance = random.Random(1)
    took = [
        (t, t * chance.choice((1.0, 0.999, 0.5)), t / 100)
        for t in map(chance.expovariate, [1] * 600)
    ]

    def work(part: list[Any]) -> None:
        counters = Counters(Book(memory))
        for number, (request_s, first_s, overhead_s) in enumerate(part):
            route = f"r{number % 3}"
            counters.cell(route, "b", "h:1").times.count(request_s, first_s, overhead_s)
        counters.retire([("route", "r2")], "retired-1")

    for start in range(0, 600, 200):
        forked(lambda start=start: work(took[start : start + 200]))
    totals = Totals(memory)
    totals.read()
    for at, metric in enumerate((REQUEST, FIRST_BYTE, OVERHEAD)):
        series = totals.of(metric)
        assert set(series) == {("r0", "b"), ("r1", "b"), ("(retired-1)", "b")}
        counted = sum((tally.buckets for tally in series.values()), Counter())
        assert counted == Counter(bisect_left(BOUNDS, each[at]) for each in took)
        seconds = sum(tally.counts[TOTAL] for tally in series.values())
        assert seconds == pytest.approx(sum(each[at] for each in took))


def test_a_request_whose_first_byte_came_with_its_last_is_counted_in_one_place(
    memory: int,
) -> None:
    counters = Counters(Book(memory))
    for number in range(100):
        counters.cell("r", "b", "h:1").times.count(0.1 + number / 100, 0.1 + number / 100, 0.0001)
    places = list(counters.book.series(TIMES, ("r", "b")).places.items())
    assert len(places) - len(SUMS) - 1 == len(
        {bisect_left(BOUNDS, 0.1 + number / 100) for number in range(100)}
    )


def test_a_book_takes_only_the_memory_that_it_needs(memory: int) -> None:
    counters = Counters(Book(memory))
    for number in range(1000):
        cell = counters.cell(f"r{number}", "b", "h:1")
        cell.count(b"GET", 200, "")
        cell.times.count(0.1, 0.1, 0.001)
    assert os.fstat(memory).st_blocks * 512 < 1000 * 10 * BLOCK
