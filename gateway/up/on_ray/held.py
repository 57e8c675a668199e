"""What is known of each instance that was asked of a cluster?"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from gateway.core import cluster
from gateway.core.cluster import Needs
from gateway.core.placement import FLEET, Process, ProcessState
from gateway.core.table import Backend, parse_instance
from gateway.up.on_ray.words import Seen
from gateway.up.plan import PCI_ORDER, InstancePlan, Site
from gateway.wire.line import ForFleet

NOWHERE = "http://127.0.0.1:1"  # until its host has chosen


class Actors(Protocol):
    """The actors of one fleet. Each call may block."""

    def begun(self) -> list[str]: ...
    def ended(self) -> str: ...
    def ask(self, message: ForFleet, of: str) -> None: ...
    def asked(self) -> list[ForFleet]: ...
    def create(self, name: str, plan: InstancePlan, needs: Needs) -> None: ...
    def look(self, wanted: Iterable[str]) -> dict[str, Seen]: ...
    def stop(self, name: str, within_s: float) -> None: ...
    def forget(self, name: str) -> None: ...


@dataclass(slots=True)
class Held:
    """One instance that was asked of the cluster, or was there."""

    number: int
    seat: cluster.Seat
    version: str
    plan: InstancePlan
    since: float
    state: ProcessState = "starting"
    address: str | None = None
    served: bool = False
    is_gone: bool = False
    is_found: bool = False
    seen: Seen = field(default_factory=lambda: Seen("waiting"))

    @property
    def value(self) -> Process:
        at = self.address or f"nowhere-{self.number}"
        return Process(self.number, self.seat.backend, self.version, at, self.state, self.served)


def planned(
    site: Site, backend: Backend, serve: Mapping[str, Any], index: int, count: int
) -> InstancePlan:
    """How one of `backend` is started, on whichever host; ServeError names what is wrong."""
    asked = cluster.needs(serve)
    gpus = tuple(f"cuda:{n}" for n in range(asked.gpus))
    there = parse_instance(NOWHERE)
    plan = site.plan(backend, there, index, max(1, count), asked.cpus, gpus)
    # Ray says which GPUs an instance sees, and they are numbered by that.
    variables = tuple(each for each in plan.environment if each[0] != PCI_ORDER[0])
    return replace(plan, environment=variables)


def with_a_fleet(name: str, spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """`spec` before there is a table: it will be said there that the fleet has its addresses."""
    return {**spec, "placed": [f"{FLEET}{name}"]}


def unknown(seat: cluster.Seat) -> InstancePlan:
    """The plan of one that nobody asks for any more."""
    return InstancePlan(seat.backend, "", parse_instance(NOWHERE), (), (), (), "/")
