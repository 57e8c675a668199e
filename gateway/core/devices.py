"""Which device does a model get, and who would have to go for it?

A device table is a value: names, how much memory each has, and what others than the processes of
`headgate up` use of it. Who wants to be loaded is looked at in the order of asking: it gets the
device with most room, or those that nobody uses are asked to go, the least recently used first.
Two that do not fit are never put on one device, nobody in use is asked to go before it had its
turn, and everybody's turn comes: who waits longest is not overtaken on the device that it waits
for. Sizes are bytes, times monotonic seconds.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

CPU = "cpu"
WAIT_S = 1.0
"""How long one waits for somebody to be idle before whoever had its turn is asked to go."""

TURN_S = 10.0
LOADS = 2.0
"""A turn is this long, or so many times as long as loading takes: at most a third of the time goes
into loading."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device with its memory; `used`: by others than our own."""

    name: str
    total: int
    used: int = 0


@dataclass(frozen=True, slots=True)
class Seat:
    """What one process of `owner` has of `device`; its size is None until it was measured, and
    all that is left is its own."""

    owner: str
    device: str
    size: int | None


@dataclass(frozen=True, slots=True)
class Guest:
    """A loaded model that may be asked to go: `busy` while requests are there, else since
    `used_at` nobody asked; loaded at `since`, for a turn of `turn_s`."""

    name: str
    used_at: float
    since: float
    busy: bool = False
    turn_s: float = TURN_S


@dataclass(frozen=True, slots=True)
class Wish:
    """One process of `name` shall be loaded, asked for at `since`; its size is None if it was
    never measured. `on` are the devices that it needs, each of them; none: any one will do."""

    name: str
    size: int | None
    on: tuple[str, ...] = ()
    since: float = -math.inf


@dataclass(frozen=True, slots=True)
class Seated:
    """The model may be loaded on `devices` now."""

    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Leave:
    """The models `names` are asked to go, and then there is room."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """Room is to come: `soon`, for somebody goes or is being measured; or once somebody had its
    turn."""

    why: str
    soon: bool = False


@dataclass(frozen=True, slots=True)
class Full:
    """No room for the model, and `why`, for people."""

    why: str


Outcome: TypeAlias = Seated | Leave | Wait | Full


def turn_s(load_s: float) -> float:
    """How long a model stays at least while others wait, that takes `load_s` to load."""
    return max(TURN_S, LOADS * load_s)


def account(device: str) -> str:
    """Whose memory is used by a process that is told to compute on `device`."""
    if device.startswith("cuda"):
        return device if ":" in device else "cuda:0"
    return CPU


def dealt(devices: Sequence[Device]) -> tuple[str, ...]:
    """The devices that models are dealt out to: the GPUs, or the CPU where there is none."""
    found = tuple(each.name for each in devices if each.name != CPU)
    return found or tuple(each.name for each in devices)


def rooms(devices: Iterable[Device], seats: Iterable[Seat]) -> dict[str, int]:
    """Device → the bytes that nobody has."""
    left = {each.name: max(0, each.total - each.used) for each in devices}
    for seat in seats:
        if seat.device in left:
            size = seat.size if seat.size is not None else left[seat.device]
            left[seat.device] = max(0, left[seat.device] - size)
    return left


def decide(
    wishes: Iterable[Wish],
    seats: Iterable[Seat],
    guests: Iterable[Guest],
    leaving: Iterable[str],
    devices: Sequence[Device],
    now: float,
) -> list[tuple[Wish, Outcome]]:
    """What becomes of each wish, who asked first coming first; `leaving` are owners of seats that
    have been asked to go already."""
    house = _House(devices, list(seats), {each.name: each for each in guests}, set(leaving), now)
    return [(wish, house.seat(wish)) for wish in sorted(wishes, key=lambda each: each.since)]


class _House:
    """The devices, and who has what of them, while one wish after the other is looked at."""

    def __init__(
        self,
        devices: Sequence[Device],
        seats: list[Seat],
        guests: Mapping[str, Guest],
        leaving: set[str],
        now: float,
    ) -> None:
        self._devices = {each.name: each for each in devices}
        self._dealt = dealt(devices)
        self._seats, self._guests, self._leaving, self._now = seats, guests, leaving, now
        self._reserved: set[str] = set()

    def seat(self, wish: Wish) -> Outcome:
        """What becomes of `wish`; what it gets or waits for is nobody else's."""
        if wish.on:
            options = [wish.on] if set(wish.on) <= self._devices.keys() else []
        else:
            options = [(name,) for name in self._dealt]
        if not options:
            return Full(f"there is no {' and no '.join(wish.on) or 'device'} here")
        found = [(self._outcome(wish, option), option) for option in options]
        best, option = min(found, key=self._order)
        match best:
            case Seated():
                self._seats += [Seat(wish.name, each, wish.size) for each in option]
            case Leave():
                self._leaving |= set(best.names)
                self._reserved |= set(option)
            case Wait():
                self._reserved |= set(option)
        return best

    def _order(self, found: tuple[Outcome, tuple[str, ...]]) -> tuple[int, float]:
        """Most room first; then who has to ask fewest to go, and those least recently used."""
        outcome, option = found
        match outcome:
            case Seated():
                return 0, -self._room(option, self._seats)
            case Leave():
                used = max(self._guests[name].used_at for name in outcome.names)
                is_idle = not any(self._guests[name].busy for name in outcome.names)
                return (2 if is_idle else 3), used
            case Wait():
                return (1 if outcome.soon else 4), 0.0
        return 5, 0.0

    def _room(self, option: Iterable[str], seats: Iterable[Seat]) -> int:
        left = rooms(self._devices.values(), seats)
        return min(left[each] for each in option)

    def _outcome(self, wish: Wish, option: tuple[str, ...]) -> Outcome:
        need = wish.size if wish.size is not None else self._guess()
        if not need:
            return Seated(option)
        if self._reserved & set(option):
            return Wait("another one waits for that device")
        if self._room(option, self._seats) >= need:
            return Seated(option)
        if any(seat.size is None and seat.device in option for seat in self._seats):
            return Wait("what loads there has not been measured yet", soon=True)
        staying = [seat for seat in self._seats if seat.owner not in self._leaving]
        if self._room(option, staying) >= need:
            return Wait("those that have it go", soon=True)
        return self._asked_to_go(wish, option, need, staying)

    def _asked_to_go(
        self, wish: Wish, option: tuple[str, ...], need: int, staying: list[Seat]
    ) -> Outcome:
        there = {seat.owner for seat in staying if seat.device in option and seat.size}
        guests = [self._guests[name] for name in there if name in self._guests]
        guests = [each for each in guests if each.name != wish.name]
        guests.sort(key=lambda each: (each.busy, each.since if each.busy else each.used_at))
        names: list[str] = []
        for guest in guests:
            names.append(guest.name)
            if self._room(option, [s for s in staying if s.owner not in names]) >= need:
                break
        else:
            return Full(self._why(wish, option, need, staying))
        # What turned out not to be needed stays: a small one before the one that is large enough.
        for name in names[:-1]:
            others = [each for each in names if each != name]
            if self._room(option, [s for s in staying if s.owner not in others]) >= need:
                names = others
        if all(self._may_go(self._guests[name], wish) for name in names):
            return Leave(tuple(names))
        return Wait("all that are there are in use")

    def _may_go(self, guest: Guest, wish: Wish) -> bool:
        if not guest.busy:
            return True
        has_waited = self._now - wish.since >= WAIT_S
        return has_waited and self._now - guest.since >= guest.turn_s

    def _guess(self) -> int:
        """How large one may be that was never measured: as the largest that was."""
        return max((seat.size or 0 for seat in self._seats), default=0) or 1

    def _why(self, wish: Wish, option: tuple[str, ...], need: int, staying: list[Seat]) -> str:
        """Which model holds which device, and what would have to go."""
        needs = shown(need) if wish.size is not None else "room"
        parts, goes = [], []
        for name in option if wish.on else self._dealt:
            device = self._devices[name]
            left = rooms([device], staying)[name]
            holders: dict[str, int] = {}
            for seat in staying:
                if seat.device == name and seat.size:
                    holders[seat.owner] = holders.get(seat.owner, 0) + seat.size
            held = [f"{owner} holds {shown(size)}" for owner, size in holders.items()]
            if device.used:
                held.append(f"other programs {shown(device.used)}")
            what = f" ({', '.join(held)})" if held else ""
            parts.append(f"{name} has {shown(left)} of {shown(device.total)} left{what}")
            goes += [_smallest(holders, need - left)]
        would = min((each for each in goes if each), key=len, default=())
        end = f"; {' and '.join(would)} would have to go" if would else "; no device is that large"
        return f"it does not fit: it needs {needs}, and {'; '.join(parts)}{end}"


def _smallest(holders: Mapping[str, int], missing: int) -> tuple[str, ...]:
    """The fewest of `holders` that have as much as is `missing`; () if all together have less."""
    found: list[str] = []
    for owner, size in sorted(holders.items(), key=lambda each: -each[1]):
        if missing <= 0:
            break
        found.append(owner)
        missing -= size
    return tuple(found) if missing <= 0 else ()


def shown(size: int) -> str:
    """`size` bytes for people."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.1f}".removesuffix(".0") + unit
    return f"{size}B"
