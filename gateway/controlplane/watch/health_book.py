"""What is known of every instance, and who has to hear of a change?

The control process's own replay of what its probes and all workers saw. It asks nobody: the
prober does, and tells it. What is known is keyed by backend and address, and survives every edit
that keeps the instance.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from gateway.core.evidence import Evidence, States, by_backend
from gateway.core.health import UNKNOWN, HealthState, Word
from gateway.core.table import Table
from gateway.wire.messages import HealthMessage, Signals

PART = 100  # instances in one message

Words = dict[str, dict[str, Word]]


class Key(NamedTuple):
    backend: str
    address: str


class HealthBook:
    """The state of every instance. `on_change(words, changes)` gets all words and which
    changed; `on_ejections` who was ejected, as [backend, address, seconds, times], or is no more
    (0 seconds).

    `remembered` are states, as `HealthState.told`, by backend and address.
    """

    def __init__(
        self,
        on_change: Callable[[Words, Sequence[tuple[Key, Word, Word]]], None],
        on_ejections: Callable[[Sequence[Sequence[Any]]], None],
        remembered: Mapping[str, Mapping[str, Sequence[Any]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_change, self._on_ejections = on_change, on_ejections
        self._clock = clock
        self._remembered = {name: dict(told) for name, told in remembered.items()}
        self._evidence: dict[str, Evidence] = {}
        self._since: dict[Key, float] = {}
        self._out: dict[tuple[str, str], float] = {}  # until when, of those ejected of late
        self._words: Words | None = None
        self._states: dict[str, dict[str, list[Any]]] | None = None

    # -- what is asked

    @property
    def words(self) -> Words:
        """Backend → address → word, of every instance that has an address."""
        if self._words is None:
            self._words = {
                name: {address: state.word for address, state in each.states.items()}
                for name, each in self._evidence.items()
                if each.states
            }
        return self._words

    @property
    def states(self) -> dict[str, dict[str, list[Any]]]:
        """Backend → address → state as it is told, for `remembered`."""
        if self._states is None:
            self._states = {name: _told(each.states) for name, each in self._evidence.items()}
        return self._states

    def messages(self, backends: Collection[str] | None = None) -> list[HealthMessage]:
        """What a worker has to know of the instances of `backends`, or of all. Small ones: it
        serves requests between two of them."""
        now, room = self._clock(), 0
        found: list[HealthMessage] = []
        for name in self._evidence if backends is None else backends:
            evidence = self._evidence.get(name)
            if evidence is None:
                continue
            settled, unsettled = evidence.as_of(now)
            if room <= 0:
                found.append({"type": "health", "states": {}, "signals": []})
                room = PART
            room -= 1 + len(settled)
            found[-1]["states"][name] = _told(settled)
            found[-1]["signals"] += [(name, *signal) for signal in unsettled]
        return found

    def ejected(self) -> dict[tuple[str, str], float]:
        """Seconds left per ejected (backend, address)."""
        now = self._clock()
        return {key: until - now for key, until in self._out.items() if until > now}

    def state(self, key: Key) -> HealthState:
        return self._evidence[key.backend].states[key.address]

    def since_s(self) -> dict[Key, float]:
        """For how many seconds the word of each instance has been what it is."""
        now = self._clock()
        return {key: now - since for key, since in self._since.items()}

    # -- which instances there are

    def add(self, key: Key) -> None:
        """Begins with what is remembered of it, once: who is added again starts clean."""
        told = self._remembered.get(key.backend, {}).pop(key.address, None)
        evidence = self._evidence.setdefault(key.backend, Evidence())
        state = HealthState(*told) if told else UNKNOWN
        evidence.set(key.address, state)
        if state.ejected_until:
            self._out[key] = state.ejected_until
        self._since[key] = self._clock()
        self._words = self._states = None

    def expect(self, key: Key) -> None:
        """Whoever is added as `key` next is known to be ready: somebody asked before us."""
        self._remembered.setdefault(key.backend, {})[key.address] = HealthState("up").told()

    def drop(self, key: Key) -> None:
        """The instance is no more."""
        del self._since[key]
        self._out.pop(key, None)
        self._evidence[key.backend].forget(key.address)
        self._words = self._states = None

    def judge_by(self, table: Table, serving: Mapping[str, set[str]]) -> None:
        """Judges as `table` says from now on; `serving` are the addresses per backend that get
        requests unless they are unwell."""
        for name in self._evidence.keys() - table.backends.keys():
            del self._evidence[name]
            self._words = self._states = None
        now = self._clock()
        for name, evidence in self._evidence.items():
            before, instances = evidence.states, frozenset(serving.get(name, ()))
            if changed := evidence.judge_by(table.backends[name], instances, now):
                self._tell(name, before, changed)

    # -- what was seen

    def note(self, key: Key, name: str) -> Signals:
        """Takes in what a probe saw just now; what of it is news to the workers."""
        evidence = self._evidence[key.backend]
        before = dict(evidence.states)
        signal = evidence.note(key.address, name, self._clock())
        if signal is None:
            return []
        self._tell(key.backend, before, {key.address: evidence.states[key.address]})
        return [(key.backend, *signal)]

    def merge(self, told: Iterable[Sequence[Any]]) -> list[tuple[Key, str]]:
        """Takes in what requests met at the workers; which signals, of instances that are there."""
        found: list[tuple[Key, str]] = []
        for name, signals in by_backend(told).items():
            evidence = self._evidence.get(name)
            if evidence is None:
                continue
            before = dict(evidence.states)
            known = [signal for signal in signals if signal.address in before]
            self._tell(name, before, evidence.merge(known))
            found += [(Key(name, signal.address), signal.name) for signal in known]
        return found

    def _tell(self, name: str, before: States, changed: States) -> None:
        """Says whose word changed, and who was ejected or is no more."""
        self._states = None
        words: list[tuple[Key, Word, Word]] = []
        ejections: list[Sequence[Any]] = []
        now = self._clock()
        for address, state in changed.items():
            key, old = Key(name, address), before[address]
            if state.word != old.word:
                self._since[key] = now
                words.append((key, old.word, state.word))
            if state.ejected_until > now:
                self._out[key] = state.ejected_until
            else:
                self._out.pop(key, None)
            if state.ejected_until > max(old.ejected_until, now):
                ejections.append([name, address, state.ejected_until - now, state.ejections])
            elif old.ejected_until > now and not state.ejections:
                ejections.append([name, address, 0.0, 0])
        if words:
            # Of one backend: a thousand change at a start, and each is told with the words of all.
            states = self._evidence[name].states
            theirs: dict[str, Word] = {address: state.word for address, state in states.items()}
            self._words = {**self.words, name: theirs}
            self._on_change(self._words, words)
        if ejections:
            self._on_ejections(ejections)


def _told(states: States) -> dict[str, list[Any]]:
    return {address: state.told() for address, state in states.items()}
