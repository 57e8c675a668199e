"""What do backends ask the fleet for, as of now?

Brings together what the table says, which of the models that start on demand are awake, who is to
be started anew, and where those are whose addresses are in no document. `wanted` is what
`gateway.core.placement` makes steps of.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gateway.core import placement
from gateway.core.placement import Wanted, is_fleets
from gateway.core.table import Backend, make_backend
from gateway.up.demand import Demand

Spec = Mapping[str, Any]
ASKS = ("serve", "instances")
"""What of a backend says which processes there are to be."""


class Desired:
    """What is asked for at the times of `clock`; `running()` are the backends of which a process
    was ready once."""

    def __init__(self, clock: Callable[[], float], running: Callable[[], Collection[str]]) -> None:
        self._running = running
        self._restarts: dict[str, int] = {}
        self._without_spare: set[str] = set()
        self._at: dict[str, tuple[str, ...]] = {}
        self._out: Mapping[str, Sequence[str]] = {}
        self.demand = Demand(clock)
        self.specs: Mapping[str, Spec] = {}
        self.backends: dict[str, Backend] = {}
        self.wanted: dict[str, Wanted] = {}
        self.beside: set[str] = set()
        """Those whose addresses are told beside the document."""

    def want(
        self, specs: Mapping[str, Spec], out: Mapping[str, Sequence[str]] = {}
    ) -> frozenset[str]:
        """Takes over what the table says from now on; `out` are the addresses that answer nothing.
        Gives the backends that ask for something else: what could not be started of them is
        tried again."""
        edited = frozenset(
            name for name in specs.keys() & self.specs.keys()
            if any(specs[name].get(key) != self.specs[name].get(key) for key in ASKS)
        )  # fmt: skip
        self.specs, self._out = specs, out
        self.demand.want(specs, self._running())
        self.backends = {
            name: make_backend(name, spec) for name, spec in specs.items() if spec.get("serve")
        }
        before = {name: asked.in_force for name, asked in self.wanted.items()}
        self.beside = {name for name, spec in specs.items() if _is_beside(spec)}
        self._at = {name: self._at.get(name, before.get(name, ())) for name in self.beside}
        self.look()
        return edited

    def look(self) -> None:
        """Works out anew what is wanted: somebody woke, sleeps, is started anew or elsewhere."""
        found = {name: placement.wanted(spec) for name, spec in self.specs.items()}
        self.wanted = {
            name: replace(
                asked,
                version=f"{asked.version}#{self._restarts.get(name, 0)}",
                spare=name not in self._without_spare,
                count=0 if self.demand.is_asleep(name) else asked.count,
                in_force=self._at.get(name, asked.in_force),
                out=asked.out.union(self._out.get(name, ())),
            )
            for name, asked in found.items()
            if asked is not None
        }

    def version(self, name: str) -> str:
        """The version that the table says, for a place that is written into it."""
        return placement.version_of(self.specs[name]["serve"])

    def anew(self, names: Iterable[str], *, spare: bool = True) -> None:
        """The processes of each of these are to be other ones; without a `spare` one none more than
        asked for is started meanwhile."""
        for name in names:
            self._restarts[name] = self._restarts.get(name, 0) + 1
            if not spare:
                self._without_spare.add(name)
        self.look()

    def turned(self, name: str, turn: int) -> None:
        """The processes of `name` have been other ones `turn` times, or more often."""
        if turn > self._restarts.get(name, 0):
            self._restarts[name] = turn
            self.look()

    def renewed(self, is_fresh: Callable[[str], bool]) -> None:
        """Of those that are fresh a spare one may be started again."""
        if done := {name for name in self._without_spare if is_fresh(name)}:
            self._without_spare -= done
            self.look()

    def placed(self, name: str, addresses: tuple[str, ...]) -> None:
        """Requests of `name`, which is told of beside the document, go to these."""
        if name in self.beside:
            self._at[name] = addresses
            self.look()

    def sleep(self, names: Iterable[str]) -> None:
        """Has these models unloaded."""
        for name in names:
            self.demand.sleep(name)
        self.look()


def _is_beside(spec: Spec) -> bool:
    return placement.on_demand(spec) or (bool(spec.get("serve")) and is_fleets(spec))
