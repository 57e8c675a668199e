"""Rates of the last seconds: what was counted in them, whoever asks how often."""

import random

import pytest

from gateway.controlplane.watch.rates import GATEWAY, Of, Window, part
from gateway.controlplane.watch.tallies import Change
from gateway.telemetry.metrics import REQUEST, REQUESTS

OFS: list[Of] = [
    GATEWAY,
    *(("route", f"r{n}") for n in range(3)),
    *(("backend", f"b{n}") for n in range(2)),
    *(("part", part(f"r{n}", "b1")) for n in range(3)),
]


@pytest.mark.parametrize("seed", range(4))
def test_who_asks_seldom_hears_what_who_asks_each_second_hears(seed: int) -> None:
    chance = random.Random(seed)
    often, seldom, now = Window(), Window(), 0.0
    for beat in range(80):
        changes = [change(chance) for _ in range(chance.randrange(4))]
        for window in (often, seldom):
            window.note(changes)
            window.beat(now)
        asked = [(often.of(*of), often.reasons(*of), often.per_s(*of)) for of in OFS]
        if beat % 23 == 22:
            assert [(seldom.of(*of), seldom.reasons(*of), seldom.per_s(*of)) for of in OFS] == asked
        now += chance.choice((1.0, 1.0, 3.0, 12.0))


def change(chance: random.Random) -> Change:
    route, backend = f"r{chance.randrange(3)}", f"b{chance.randrange(2)}"
    if chance.random() < 0.5:
        return Change(REQUEST, (route, backend), chance.randrange(5), chance.randrange(1, 9))
    how = chance.choice((("GET", "200", ""), ("GET", "503", "queue_full"), ("GET", "499", "")))
    return Change(REQUESTS, (route, backend, "x:1"), how, chance.randrange(1, 9))


def test_a_second_is_told_once_and_forgotten_after_ten() -> None:
    window = Window()
    window.beat(0.0)
    for second in range(1, 41):
        window.note([Change(REQUESTS, ("r", "b", "x:1"), ("GET", "200", ""), second)])
        counted = window.beat(float(second))
        assert counted["route", "r"] == {"2xx": second}
    assert window.per_s("route", "r") == sum(range(31, 41)) / 10
