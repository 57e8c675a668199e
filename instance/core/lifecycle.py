"""In which states can a worker and an instance be, and what moves them?

`WORKER` owns every transition of a worker; a missing pair raises, because the engine that
sent the signal has lost track. Processes, pipes and clocks belong to the engine.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Of a worker: the process that holds the model on one device."""

    STARTING = "starting"  # the process runs; setup and warm-up are under way
    READY = "ready"  # takes batches
    DOWN = "down"  # no process; one is started after the back-off
    STOPPING = "stopping"  # told to tear down
    STOPPED = "stopped"  # for good


class Signal(StrEnum):
    """What happens to a worker."""

    WARM = "warm"
    EXIT = "exit"
    START = "start"
    STOP = "stop"


WORKER: dict[tuple[State, Signal], State] = {
    (State.STARTING, Signal.WARM): State.READY,
    (State.STARTING, Signal.EXIT): State.DOWN,
    (State.READY, Signal.EXIT): State.DOWN,
    (State.DOWN, Signal.START): State.STARTING,
    (State.STARTING, Signal.STOP): State.STOPPING,
    (State.READY, Signal.STOP): State.STOPPING,
    (State.STOPPING, Signal.STOP): State.STOPPING,
    (State.STOPPING, Signal.EXIT): State.STOPPED,
    (State.DOWN, Signal.STOP): State.STOPPED,
    (State.STOPPED, Signal.STOP): State.STOPPED,
}


def after(state: State, signal: Signal) -> State:
    """The state that follows; KeyError for a pair that cannot happen."""
    return WORKER[state, signal]


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before a worker is started again: at once, then twice as long each
    time up to `max_s`; a worker that lived `stable_s` starts the count anew. Those that were
    never ready are counted apart: only they say that the model cannot be started."""

    first_s: float = 0.5
    max_s: float = 30.0
    stable_s: float = 30.0
    failures: int = 0
    never_ready: int = 0  # of the latest, in a row

    def failed(self, lived_s: float) -> "Backoff":
        """After one more end of the worker, which had been ready for `lived_s`, 0 if never."""
        failures = 1 if lived_s >= self.stable_s else self.failures + 1
        never_ready = 0 if lived_s else self.never_ready + 1
        return Backoff(self.first_s, self.max_s, self.stable_s, failures, never_ready)

    @property
    def delay_s(self) -> float:
        if self.failures <= 1:
            return 0.0
        return min(self.max_s, self.first_s * 2.0 ** min(self.failures - 2, 30))


def is_ready(workers: Iterable[State], *, was_ready: bool, draining: bool, healthy: bool) -> bool:
    """Whether the instance wants requests.

    First when every worker is warm; from then on while at least one is, so that one crash
    among several workers does not take the others out. Never while draining, nor while the
    model's own `health()` says no.
    """
    if draining or not healthy:
        return False
    states = list(workers)
    ready = states.count(State.READY)
    return ready > 0 if was_ready else ready == len(states) > 0
