"""Twenty models share devices that have room for five, for a random hour of a clock that is not."""

import random
from dataclasses import dataclass, field

import pytest

from gateway.core.devices import (
    Device,
    Guest,
    Leave,
    Seat,
    Seated,
    Wish,
    decide,
    rooms,
    turn_s,
)

GIB = 1 << 30
DEVICES = (Device("cuda:0", 24 * GIB), Device("cuda:1", 16 * GIB))
LOAD_S = 4.0


@dataclass
class Model:
    """One model: how large it is, what it has to do, and where it is."""

    size: int
    state: str = "asleep"
    device: str = ""
    at: float = 0.0  # since when it has this state
    asked_at: float = 0.0
    used_at: float = 0.0
    in_flight: list[float] = field(default_factory=list)  # when each of them ends
    waiting: list[float] = field(default_factory=list)  # since when each waits
    answered: int = 0


@dataclass
class Machine:
    """The models and a clock; `longest` is how long anybody waited for a start."""

    chance: random.Random
    models: dict[str, Model]
    now: float = 0.0
    longest: float = 0.0
    starts: int = 0

    def seats(self) -> list[Seat]:
        return [
            Seat(f"{name} (going)" if it.state == "leaving" else name, it.device, it.size)
            for name, it in self.models.items()
            if it.device
        ]

    def ask(self, name: str) -> None:
        it = self.models[name]
        if it.state == "awake":
            it.in_flight.append(self.now + self.chance.expovariate(1.0))
            it.used_at, it.answered = self.now, it.answered + 1
            return
        it.waiting.append(self.now)
        if it.state == "asleep":
            it.state, it.asked_at = "asked", self.now

    def step(self, s: float) -> None:
        self.now += s
        for name, it in self.models.items():
            it.in_flight = [end for end in it.in_flight if end > self.now]
            if it.state == "loading" and self.now - it.at >= LOAD_S:
                it.state, it.at = "awake", self.now
                waited, it.waiting = it.waiting, []
                self.longest = max([self.longest, *(self.now - since for since in waited)])
                for _ in waited:
                    self.ask(name)
            elif it.state == "leaving" and not it.in_flight:
                it.state, it.device = "asleep", ""
                if it.waiting:
                    it.state, it.asked_at = "asked", min(it.waiting)
        self.seat()

    def seat(self) -> None:
        wishes = [
            Wish(name, it.size, since=it.asked_at)
            for name, it in self.models.items()
            if it.state == "asked"
        ]
        guests = [
            Guest(name, it.used_at, it.at, bool(it.in_flight), turn_s(LOAD_S))
            for name, it in self.models.items()
            if it.state == "awake"
        ]
        leaving = [f"{name} (going)" for name, it in self.models.items() if it.state == "leaving"]
        for wish, outcome in decide(wishes, self.seats(), guests, leaving, DEVICES, self.now):
            match outcome:
                case Seated((device,)):
                    it = self.models[wish.name]
                    it.state, it.device, it.at = "loading", device, self.now
                    self.starts += 1
                case Leave(names):
                    for name in names:
                        self.models[name].state = "leaving"
        held = {device.name: 0 for device in DEVICES}
        for seat in self.seats():
            held[seat.device] += seat.size or 0
        assert all(held[device.name] <= device.total for device in DEVICES)
        assert set(rooms(DEVICES, self.seats())) == set(held)


def test_twenty_models_with_room_for_five_are_all_served() -> None:
    an_hour(1)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(2, 42))
def test_and_so_they_are_in_many_other_hours(seed: int) -> None:
    an_hour(seed)


def an_hour(seed: int) -> None:
    """Nobody starves, and no two are on a device that do not fit."""
    chance = random.Random(seed)
    sizes = [chance.randint(5, 10) * GIB for _ in range(20)]
    machine = Machine(chance, {f"m{n}": Model(size) for n, size in enumerate(sizes)})
    # Some are asked for all the time, others now and then, and one in between by a crowd.
    weights = [2.0 ** -(n % 7) for n in range(20)]
    names = list(machine.models)
    asked: dict[str, int] = dict.fromkeys(names, 0)
    while machine.now < 3600.0:
        for _ in range(chance.choice([0, 1, 1, 2, 3])):
            (name,) = chance.choices(names, weights)
            asked[name] += 1
            machine.ask(name)
        machine.step(1.0)
    for _ in range(400):  # nobody asks any more: all that wait are served
        machine.step(1.0)
    assert {name: it.answered for name, it in machine.models.items()} == asked
    assert all(count for count in asked.values())
    assert not any(it.waiting for it in machine.models.values())
    # Nineteen others have their turn before, some of them at once.
    assert machine.longest < 20 * (turn_s(LOAD_S) + 2 * LOAD_S), machine.longest
    assert machine.starts > 20
