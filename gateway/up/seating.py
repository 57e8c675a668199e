"""Which of the processes that shall start get which devices, and who goes for them?

Brings together what models say of their memory or what was measured of them, and asks
`gateway.core.devices`. Counted is who said `memory`, or has its devices dealt out.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gateway.core.devices import (
    CPU,
    Full,
    Guest,
    Leave,
    Outcome,
    Seat,
    Seated,
    Wait,
    Wish,
    account,
    dealt,
    decide,
)
from gateway.core.placement import version_of
from gateway.core.units import parse_size
from gateway.up.device_table import DeviceTable
from gateway.up.process import InstanceProcess
from gateway.wire.line import DeviceMessage

AUTO = "auto"
Spec = Mapping[str, Any]


class Asked(NamedTuple):
    """A process of `backend` shall start that `serve` describes, meant for `devices`, and waited
    for since `since`."""

    backend: str
    serve: Spec
    devices: tuple[str, ...]
    since: float


class Seating:
    """Seats of processes on the devices of `table`."""

    def __init__(self, table: DeviceTable, clock: Callable[[], float]) -> None:
        self._table, self._clock = table, clock
        self._sizes: dict[tuple[str, str], int] = {}
        self._measuring = asyncio.Lock()
        self.waits: dict[str, str] = {}  # backend → for what it waits
        self.full: dict[str, str] = {}  # backend → why it does not fit

    async def look(self) -> None:
        """Looks which devices there are."""
        await self._table.measure(lambda: ())

    def is_counted(self, serve: Spec) -> bool:
        """Whether a device must have room for a model."""
        return "memory" in serve or list(serve.get("devices") or ()) == [AUTO]

    def decide(
        self,
        starts: Sequence[Asked],
        processes: Iterable[InstanceProcess],
        guests: Iterable[Guest],
        asleep: Iterable[str],
    ) -> tuple[dict[int, tuple[str, ...]], list[tuple[str, str]]]:
        """By its index, the devices of each of `starts` that may start now, none for what is not
        counted; and who is to go, for whom. Those that are
        `asleep` go already."""
        self.waits, self.full = {}, {}
        found: dict[int, tuple[str, ...]] = {}
        wishes: dict[int, Wish] = {}
        for index, start in enumerate(starts):
            if not self.is_counted(start.serve):
                found[index] = ()
                continue
            places = self._places(start.devices)
            size = self._size(start.backend, start.serve, places)
            wishes[index] = Wish(start.backend, size, places, start.since)
        if not wishes:
            return found, []
        going = [f"{p.plan.backend} (going)" for p in processes if p.state == "stopping"]
        seats, now = self.seats(processes), self._clock()
        indices = {id(wish): index for index, wish in wishes.items()}
        leave: list[tuple[str, str]] = []
        for wish, outcome in decide(
            wishes.values(), seats, guests, [*going, *asleep], self._table.devices, now
        ):
            index = indices[id(wish)]
            self._note(wish, outcome)
            if isinstance(outcome, Seated):
                found[index] = self._told(wish, outcome)
            elif isinstance(outcome, Leave):
                leave += [(name, wish.name) for name in outcome.names]
        return found, leave

    def _note(self, wish: Wish, outcome: Outcome) -> None:
        match outcome:
            case Full():
                self.full[wish.name] = outcome.why
            case Wait():
                self.waits[wish.name] = outcome.why
            case Leave():
                self.waits[wish.name] = f"{' and '.join(outcome.names)} make room"

    def _told(self, wish: Wish, outcome: Seated) -> tuple[str, ...]:
        """What its process is told: which of the CPU's devices it is, an instance knows."""
        if wish.on:
            return ()
        return tuple(AUTO if each == CPU else each for each in outcome.devices)

    def _places(self, devices: tuple[str, ...]) -> tuple[str, ...]:
        """The devices whose memory is needed; () for any one of those that are dealt out."""
        if devices == (AUTO,):
            return ()
        here = {each.name for each in self._table.devices}
        # One that is not here an instance refuses, in its own words.
        return tuple(dict.fromkeys(a for each in devices if (a := account(each)) in here)) or (CPU,)

    def _size(self, backend: str, serve: Spec, places: tuple[str, ...]) -> int | None:
        said = serve.get("memory", AUTO)
        if said != AUTO:
            return parse_size(said)
        on_cpu = set(places or dealt(self._table.devices)) == {CPU}
        return 0 if on_cpu else self._sizes.get((backend, version_of(serve)))

    def take(self, process: InstanceProcess, serve: Spec) -> None:
        """Notes what `process`, which is about to start, has of which devices."""
        if not self.is_counted(serve):
            return
        devices = tuple(each.partition(" ")[0] for each in process.plan.devices)
        gpus = dealt(self._table.devices)
        places = {CPU if each == AUTO and gpus == (CPU,) else account(each) for each in devices}
        size = self._size(process.plan.backend, serve, tuple(places))
        process.seats = dict.fromkeys(sorted(places), size)

    def seats(self, processes: Iterable[InstanceProcess]) -> list[Seat]:
        """What processes have, those that are going under a name of their own."""
        return [
            Seat(
                f"{p.plan.backend} (going)" if p.state == "stopping" else p.plan.backend,
                device,
                size,
            )
            for p in processes
            if p.state != "failed" and not p.is_gone
            for device, size in p.seats.items()
        ]

    async def measure(
        self, process: InstanceProcess, serve: Spec, processes: Callable[[], list[InstanceProcess]]
    ) -> None:
        """Measures what `process`, which is ready, has of its GPUs; nobody else has loaded there
        meanwhile."""
        async with self._measuring:
            await self._table.measure(lambda: self.seats(processes()))
            seats = self.seats(processes())
            for device in [name for name, size in process.seats.items() if size is None]:
                size = self._table.beyond(device, seats)
                process.seats[device] = size
                self._sizes[process.plan.backend, version_of(serve)] = size

    def messages(self, processes: Iterable[InstanceProcess]) -> list[DeviceMessage]:
        """The devices, for whoever looks."""
        seats = self.seats(processes)
        return [
            {
                "name": device.name,
                "total": device.total,
                "others": device.used,
                "held": [(seat.owner, seat.size) for seat in seats if seat.device == device.name],
            }
            for device in self._table.devices
        ]
