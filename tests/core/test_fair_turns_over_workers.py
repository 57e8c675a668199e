"""Whom a worker lets go first, and what becomes of it in a gateway of two workers."""

import pytest

from benchmarks.simulate_turns import CASES, simulated
from gateway.core.fair_turns import YIELD_S, Courtesy, FairTurns


def test_who_had_nothing_waiting_is_next() -> None:
    turns = FairTurns()
    flood = [turns.turn("flood") for _ in range(3)]
    assert [turns.is_next(turn) for turn in flood] == [True, False, False]
    turns.gone(flood[0])
    turns.gone(flood[1])
    assert turns.is_next(turns.turn("polite"))
    assert not turns.is_next(turns.turn("polite"))
    assert not turns.is_next(turns.turn("flood"))


def test_a_worker_waits_for_who_is_next_elsewhere_and_not_for_ever() -> None:
    courtesy = Courtesy()
    assert not courtesy.yields(0.0, False, 0)
    assert not courtesy.yields(0.0, True, 1)  # its own first one is next too
    assert courtesy.yields(1.0, False, 1)
    assert courtesy.yields(1.0 + YIELD_S / 2, False, 1)
    assert not courtesy.yields(1.0 + YIELD_S, False, 1)
    assert not courtesy.yields(2.0, False, 1)  # whoever that is finds no room
    assert courtesy.yields(2.0, False, 2)
    assert not courtesy.yields(2.1, False, 0)
    assert courtesy.yields(3.0, False, 1)


@pytest.mark.parametrize(
    ("name", "clients"),
    [("flood on one worker, polite on the other", 64), ("a queue that is full, apart", 24)],
)
def test_a_flood_in_one_worker_neither_holds_up_nor_shuts_out_who_asks_another(
    name: str, clients: int
) -> None:
    (case,) = [each for each in CASES if each.name == name]
    ratio, refused = simulated(case, 4.0, clients)
    assert refused <= 2  # of eighty: one that comes while another one of its own waits may be
    assert ratio < 2.5
