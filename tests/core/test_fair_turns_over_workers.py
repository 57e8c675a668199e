"""Who is next among names that wait, and what becomes of it in a gateway of two workers."""

import pytest

from benchmarks.simulate_turns import CASES, simulated
from gateway.core.fair_turns import SHORT_S, FairTurns, ahead
from gateway.core.instance_load import Load
from gateway.core.queueing import Placement, place, usual_ahead


def test_turns_go_round_between_names() -> None:
    turns = FairTurns()
    flood = [turns.turn("flood", False) for _ in range(3)]
    assert flood == [1, 2, 3]
    turns.gone("flood", flood[0], 0)
    turns.gone("flood", flood[1], 0)
    polite = [turns.turn("polite", False) for _ in range(2)]
    assert polite[0] < flood[2] <= polite[1]


def test_who_has_not_the_most_is_next_once_somebody_had_a_turn_since_its_own() -> None:
    turns = FairTurns()
    assert turns.is_next("polite", has_most=False, elsewhere=0)
    assert not turns.is_next("flood", has_most=True, elsewhere=0)
    turns.gone("polite", turns.turn("polite", True), 0)
    assert not turns.is_next("polite", has_most=False, elsewhere=0)
    assert turns.is_next("polite", has_most=False, elsewhere=1)
    turns.gone("flood", turns.turn("flood", False), 0)
    assert turns.is_next("polite", has_most=False, elsewhere=0)
    assert not turns.is_next("flood", has_most=True, elsewhere=5)


def test_who_was_passed_over_is_next_also_after_a_worker_was_replaced() -> None:
    turns = FairTurns()
    turns.gone("polite", turns.turn("polite", True), elsewhere=1000)
    assert turns.is_next("polite", has_most=False, elsewhere=3)


def test_turns_that_were_had_in_other_workers_count() -> None:
    turns = FairTurns()
    flood = [turns.turn("flood", False) for _ in range(3)]
    polite = turns.turn("polite", True)
    turns.gone("polite", polite, 0)
    assert turns.turn("polite", turns.is_next("polite", False, 0)) > flood[0], "one after its last"
    turns.gone("polite", polite + 1, 0)
    assert turns.turn("polite", turns.is_next("polite", False, 7)) < flood[1], "it was passed over"


def test_what_was_had_is_known_until_nobody_waits_anywhere() -> None:
    turns = FairTurns()
    turns.gone("polite", turns.turn("polite", True), 3)
    turns.emptied()
    assert not turns.is_next("polite", False, 3)
    turns.forget()
    assert turns.is_next("polite", False, 3)


def test_while_several_want_it_the_place_ahead_belongs_to_who_is_next() -> None:
    full = [Load(4, slots=4.0, service_s=0.1)]

    def goes(is_next: bool, is_contested: bool, service_s: float = 0.1) -> bool:
        more = ahead(is_next, is_contested, service_s)
        return place("least_loaded", full, 64, 0, 1.0, more) == Placement(0, 0)

    assert goes(is_next=False, is_contested=False), "who is alone keeps the instance busy"
    assert not goes(is_next=False, is_contested=True)
    assert goes(is_next=True, is_contested=True)
    assert goes(is_next=False, is_contested=True, service_s=SHORT_S / 2)


def test_several_names_fill_the_batches_of_an_instance_and_one_place_is_kept() -> None:
    """It begins its next batch with what is there: with one request, if only one was sent."""

    def sent(in_flight: int, is_next: bool, waiting: int = 64) -> bool:
        load = Load(in_flight, slots=8.0, service_s=0.1)
        load.together = 8.0
        more = ahead(is_next, True, 0.1, batch=8, usual=usual_ahead(waiting, 1))
        return place("least_loaded", [load], waiting, 0, 1.0, more) is not None

    assert sent(14, is_next=False)
    assert not sent(15, is_next=False)
    assert sent(15, is_next=True)
    assert not sent(16, is_next=True)
    assert not sent(8, is_next=False, waiting=1), "no more than without names"


@pytest.mark.parametrize(
    ("name", "clients"),
    [
        ("even", 64),
        ("flood on one worker, polite on the other", 64),
        ("a queue that is full, apart", 24),
    ],
)
def test_a_flood_neither_holds_up_nor_shuts_out_who_asks_politely(name: str, clients: int) -> None:
    (case,) = [each for each in CASES if each.name == name]
    ratio, refused = simulated(case, 4.0, clients)
    assert refused <= 2  # of eighty: one that comes while another one of its own waits may be
    assert ratio < 1.6
