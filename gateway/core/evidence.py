"""What do all instances of a backend look like, given what everybody saw?

Control process and workers each see a part: probes here, requests there. Every signal that is
news goes to all of them with the time at which it was seen, and each replays them in the order of
these times. So all come to the same states, and no conclusion is ever sent: a signal that comes
late is put in its place and what followed is replayed. After SETTLED_S nothing is expected to
come late any more.
"""

from bisect import insort
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from gateway.core.health import ILL, UNKNOWN, HealthState, may_eject
from gateway.core.table import Backend, Eject, Health

SETTLED_S: Final = 2.0
TICK_S: Final = 1e-6
MAX_UNSETTLED: Final = 64  # in a storm of signals the older ones are as good as settled

States = dict[str, HealthState]


class Signal(NamedTuple):
    """`name` is a signal of `gateway.core.health`, seen `at` the instance `address`."""

    at: float
    address: str
    name: str


def by_backend(told: Iterable[Sequence[Any]]) -> dict[str, list[Signal]]:
    """Signals as they cross a channel, [backend, at, address, name], by backend."""
    found: dict[str, list[Signal]] = {}
    for backend, at, address, name in told:
        found.setdefault(backend, []).append(Signal(at, address, name))
    return found


class Evidence:
    """The states of one backend's instances, by address, and the last signals behind them.

    `instances` are those that may get requests by command: only they count for how many may be
    ejected.
    """

    __slots__ = (
        "_eject", "_health", "_noted_at", "_own", "_settled", "_signals", "instances", "states",
    )  # fmt: skip

    def __init__(self) -> None:
        self._health, self._eject = Health(), Eject()
        self._settled: States = {}
        self._signals: list[Signal] = []
        self._noted_at = 0.0
        self._own: deque[Signal] = deque(maxlen=MAX_UNSETTLED)
        self.states: States = {}
        self.instances: frozenset[str] = frozenset()

    def judge_by(self, config: Backend, instances: frozenset[str], now: float) -> States:
        """The states that change because from `now` on health is judged as `config` says, and
        `instances` are those that may get requests.

        What is settled stays. The last signals are judged anew: some hear of the edit before them
        and some after, and all have to come to the same.
        """
        judged = config.health, config.eject, instances
        if judged == (self._health, self._eject, self.instances):
            return {}
        self._settle(now)
        self._health, self._eject, self.instances = judged
        return self._replay()

    def set(self, address: str, state: HealthState = UNKNOWN) -> None:
        """What was known of `address` before any signal."""
        self._settled[address] = self.states[address] = state

    def forget(self, address: str) -> None:
        """The instance is no more; one that is added again at its address starts clean."""
        self.states.pop(address, None)
        self._settled.pop(address, None)
        self._signals = [each for each in self._signals if each.address != address]

    def note(self, address: str, name: str, now: float) -> Signal | None:
        """The signal to tell the others, if what was seen just now at an instance is news."""
        before = self.states.get(address)
        if before is None:
            return None
        # Two that come in one moment are two: what is told twice counts once.
        at = self._noted_at = max(now, self._noted_at + TICK_S)
        signal = Signal(at, address, name)
        if self._step(self.states, signal) is before:
            return None
        self._own.append(signal)
        if self._signals and at < self._signals[-1].at:
            self.merge([signal])
        else:
            self._signals.append(signal)
            self._settle(at)
        return signal

    def has_ejected(self, address: str) -> bool:
        """Whether it was a signal noted here that ejected the instance: one of all does it."""
        state = self.states[address]
        out_s = min(self._eject.base_s * state.ejections, self._eject.max_s)
        return any(
            own.address == address and abs(own.at + out_s - state.ejected_until) < TICK_S / 2
            for own in self._own
        )

    def merge(self, signals: Iterable[Signal]) -> States:
        """The states that changed because others saw `signals`, in any order, of whoever was
        `set` or loaded."""
        for signal in signals:
            if signal not in self._signals:
                insort(self._signals, signal)
        return self._replay()

    def load(
        self, states: Mapping[str, HealthState], signals: Iterable[Signal], now: float
    ) -> States:
        """The states that changed because somebody who knows better has `states`, and has seen
        `signals` since. Own signals that it may not have seen yet still count."""
        own = [each for each in self._signals if each.at >= now - SETTLED_S]
        self._settled = dict(states)
        self._signals = []
        return self.merge([*signals, *own])

    def as_of(self, now: float) -> tuple[States, list[Signal]]:
        """What `load` wants, for somebody who comes now."""
        self._settle(now)
        return dict(self._settled), list(self._signals)

    def _replay(self) -> States:
        before, states = self.states, dict(self._settled)
        for signal in self._signals:
            self._step(states, signal)
        self.states = states
        if self._signals:
            self._settle(self._signals[-1].at)
        return {key: each for key, each in states.items() if before.get(key, UNKNOWN) != each}

    def _step(self, states: States, signal: Signal) -> HealthState:
        """Moves `states` on by one signal; the state of its instance."""
        before = states.get(signal.address)
        if before is None:
            return UNKNOWN
        allowed = signal.name in ILL and self._may_eject(states, signal)
        after = before.after(signal.name, signal.at, self._health, self._eject, allowed)
        states[signal.address] = after
        return after

    def _may_eject(self, states: States, signal: Signal) -> bool:
        words = {key: each.word for key, each in states.items() if key in self.instances}
        out = frozenset(key for key in words if states[key].ejected_until > signal.at)
        return may_eject(signal.address, words, out)

    def _settle(self, now: float) -> None:
        """Nothing older comes any more: it need not be replayed again."""
        while self._signals and (
            self._signals[0].at < now - SETTLED_S or len(self._signals) > MAX_UNSETTLED
        ):
            signal = self._signals.pop(0)
            self._step(self._settled, signal)
