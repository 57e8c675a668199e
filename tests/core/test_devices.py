"""Which device a model gets, and who goes for it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.devices import (
    CPU,
    Device,
    Full,
    Guest,
    Leave,
    Outcome,
    Seat,
    Seated,
    Wait,
    Wish,
    account,
    decide,
    rooms,
    shown,
    turn_s,
)

GIB = 1 << 30
TWO = (Device("cuda:0", 24 * GIB), Device("cuda:1", 16 * GIB), Device(CPU, 64 * GIB))


def one(
    wish: Wish,
    *seats: Seat,
    guests: tuple[Guest, ...] = (),
    leaving: tuple[str, ...] = (),
    devices: tuple[Device, ...] = TWO,
    now: float = 100.0,
) -> Outcome:
    ((_, outcome),) = decide([wish], seats, guests, leaving, devices, now)
    return outcome


def seat(owner: str, device: str, gib: float | None) -> Seat:
    return Seat(owner, device, None if gib is None else int(gib * GIB))


def test_a_model_gets_the_gpu_with_most_room() -> None:
    assert one(Wish("a", 8 * GIB)) == Seated(("cuda:0",))
    assert one(Wish("a", 8 * GIB), seat("b", "cuda:0", 12)) == Seated(("cuda:1",))
    used = (replace(TWO[0], used=20 * GIB), *TWO[1:])
    assert one(Wish("a", 8 * GIB), devices=used) == Seated(("cuda:1",))


def test_without_a_gpu_it_is_the_cpu_and_only_what_was_said_is_counted() -> None:
    cpu = (Device(CPU, 8 * GIB),)
    assert one(Wish("a", 0), seat("b", CPU, 8), devices=cpu) == Seated((CPU,))
    assert isinstance(one(Wish("a", GIB), seat("b", CPU, 8), devices=cpu), Full)
    assert [account(each) for each in ("cuda", "cuda:1", "mps", "auto")] == [
        "cuda:0", "cuda:1", CPU, CPU,
    ]  # fmt: skip


def test_who_needs_several_devices_needs_room_on_each() -> None:
    wish = Wish("a", 8 * GIB, on=("cuda:0", "cuda:1"))
    assert one(wish) == Seated(("cuda:0", "cuda:1"))
    assert isinstance(one(wish, seat("b", "cuda:1", 12)), Full)
    assert one(replace(wish, on=("cuda:7",))) == Full("there is no cuda:7 here")


def test_what_was_never_measured_has_its_device_to_itself_until_it_is() -> None:
    loading = (seat("b", "cuda:0", None), seat("c", "cuda:1", None))
    assert one(Wish("a", None), loading[0]) == Seated(("cuda:1",))
    assert one(Wish("a", 1), *loading) == Wait(
        "what loads there has not been measured yet", soon=True
    )
    assert one(Wish("a", 1), seat("b", "cuda:0", 9), loading[1]) == Seated(("cuda:0",))
    # It may be as large as the largest that was measured.
    measured = (seat("b", "cuda:0", 20), seat("c", "cuda:1", 14))
    assert isinstance(one(Wish("a", None), *measured), Full)


def test_idle_ones_go_the_least_recently_used_first_and_no_more_than_it_takes() -> None:
    seats = (seat("b", "cuda:0", 10), seat("c", "cuda:0", 10), seat("d", "cuda:1", 16))
    guests = (Guest("b", 50.0, 0.0), Guest("c", 40.0, 0.0), Guest("d", 60.0, 0.0))
    assert one(Wish("a", 8 * GIB), *seats, guests=guests) == Leave(("c",))
    assert one(Wish("a", 20 * GIB), *seats, guests=guests) == Leave(("c", "b"))
    # The small one alone is not enough, and the large one is.
    seats = (seat("b", "cuda:0", 4), seat("c", "cuda:0", 20), seat("d", "cuda:1", 16))
    guests = (Guest("b", 10.0, 0.0), Guest("c", 40.0, 0.0))
    assert one(Wish("a", 18 * GIB), *seats, guests=guests) == Leave(("c",))


def test_whoever_goes_is_waited_for_and_nobody_else_is_asked() -> None:
    seats = (seat("b", "cuda:0", 20), seat("c", "cuda:1", 14))
    guests = (Guest("c", 1.0, 0.0),)
    assert one(Wish("a", 8 * GIB), *seats, guests=guests, leaving=("b",)) == Wait(
        "those that have it go", soon=True
    )


def test_one_in_use_has_its_turn_and_goes_then() -> None:
    seats = (seat("b", "cuda:0", 20), seat("c", "cuda:1", 14))
    busy = (Guest("b", 100.0, 95.0, busy=True), Guest("c", 100.0, 80.0, busy=True))
    wish = Wish("a", 8 * GIB, since=90.0)
    assert one(wish, *seats, guests=busy) == Leave(("c",))
    assert one(replace(wish, since=99.9), *seats, guests=busy) == Wait(
        "all that are there are in use"
    )
    assert one(wish, *seats, guests=(busy[0], replace(busy[1], turn_s=turn_s(15.0)))) == Wait(
        "all that are there are in use"
    )


def test_who_asked_first_is_not_overtaken_on_the_device_it_waits_for() -> None:
    seats = (seat("b", "cuda:0", 20), seat("c", "cuda:1", 14))
    busy = (Guest("b", 100.0, 95.0, busy=True),)
    small, large = Wish("small", GIB, since=99.0), Wish("large", 18 * GIB, since=98.0)
    outcomes = decide([small, large], seats, busy, (), TWO, 100.0)
    found = {wish.name: outcome for wish, outcome in outcomes}
    assert found == {
        "large": Wait("all that are there are in use"),
        "small": Seated(("cuda:1",)),
    }


def test_what_does_not_fit_is_said_with_who_holds_what_and_what_would_have_to_go() -> None:
    devices = (Device("cuda:0", 24 * GIB, used=GIB), Device("cuda:1", 8 * GIB))
    seats = (seat("b", "cuda:0", 12), seat("c", "cuda:0", 8.5))
    outcome = one(Wish("a", 12 * GIB), *seats, devices=devices)
    assert outcome == Full(
        "it does not fit: it needs 12GiB, and cuda:0 has 2.5GiB of 24GiB left (b holds 12GiB, c"
        " holds 8.5GiB, other programs 1GiB); cuda:1 has 8GiB of 8GiB left; b would have to go"
    )
    assert isinstance(outcome := one(Wish("a", 40 * GIB), *seats, devices=devices), Full)
    assert outcome.why.endswith("; no device is that large")
    assert [shown(each) for each in (512, 3 << 20, 3 * GIB // 2)] == ["512B", "3MiB", "1.5GiB"]


SIZES = st.one_of(st.none(), st.integers(0, 12))
NAMES = st.sampled_from(["a", "b", "c", "d", "e"])


@given(
    devices=st.lists(st.tuples(st.integers(1, 24), st.integers(0, 8)), min_size=1, max_size=3),
    seats=st.lists(st.tuples(NAMES, st.integers(0, 2), SIZES), max_size=5),
    wishes=st.lists(st.tuples(NAMES, SIZES, st.floats(0, 10)), max_size=5),
    guests=st.dictionaries(NAMES, st.tuples(st.floats(0, 10), st.floats(0, 10), st.booleans())),
    leaving=st.sets(NAMES),
)
def test_never_two_that_do_not_fit_nor_anybody_out_of_turn(
    devices: list[tuple[int, int]],
    seats: list[tuple[str, int, int | None]],
    wishes: list[tuple[str, int | None, float]],
    guests: dict[str, tuple[float, float, bool]],
    leaving: set[str],
) -> None:
    table = [Device(f"cuda:{n}", total, used) for n, (total, used) in enumerate(devices)]
    held = [Seat(owner, f"cuda:{n % len(table)}", size) for owner, n, size in seats]
    known = {n: Guest(n, used, since, busy) for n, (used, since, busy) in guests.items()}
    asked = [Wish(f"w{n}", size, since=since) for n, (_, size, since) in enumerate(wishes)]
    found = decide(asked, held, known.values(), leaving, table, 10.0)
    assert [wish for wish, _ in found] == sorted(asked, key=lambda wish: wish.since)
    gone: set[str] = set()
    for wish, outcome in found:
        match outcome:
            case Seated(places):
                for place in places:
                    assert rooms(table, held)[place] >= (wish.size or 0)
                    if wish.size is None:
                        assert rooms(table, held)[place] > 0
                    held.append(Seat(wish.name, place, wish.size))
            case Leave(names):
                for name in names:
                    assert name in known
                    assert name not in leaving | gone, "it was asked already"
                    if known[name].busy:
                        assert 10.0 - known[name].since >= known[name].turn_s
                gone |= set(names)


@pytest.mark.parametrize("seed", range(3))
def test_idle_guests_are_never_kept_while_somebody_waits_who_would_fit(seed: int) -> None:
    seats = [seat(name, f"cuda:{n % 2}", 5 + seed) for n, name in enumerate("abcd")]
    guests = tuple(Guest(name, float(n), 0.0) for n, name in enumerate("abcd"))
    assert isinstance(one(Wish("w", 12 * GIB), *seats, guests=guests), Seated | Leave)
