"""Which backends and instances are there, so that they agree with the table?

`swap` makes the live side agree with a table: what stays is kept as it is, new instances
come into being, removed ones get nothing new and finish what they have. Evidence about health and
resolved names arrive here; what they mean for one backend is `LiveBackend.refresh`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gateway.core.evidence import Evidence, Signal, States, by_backend
from gateway.core.health import UNKNOWN
from gateway.core.table import Backend, Instance, Table
from gateway.dataplane.backend import LiveBackend
from gateway.dataplane.instance import LiveInstance
from gateway.dataplane.shared import Shared
from gateway.wire.messages import Endpoints


class LiveTable:
    """Everything that is alive, by backend."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.backends: dict[str, LiveBackend] = {}
        self._endpoints: Endpoints = {}
        self._table: Table | None = None
        self._prepared: set[str] = set()

    def swap(self, table: Table, endpoints: Endpoints | None = None) -> None:
        """Makes what `table` names exist and lets the rest leave. Keeps what stays, and does not
        look at what is as it was."""
        self._table = table
        self._prepared.clear()
        self._sync(table, endpoints)

    def _sync(self, table: Table, endpoints: Endpoints | None) -> None:
        moved: set[str] = set()
        if endpoints is not None:
            before, self._endpoints = self._endpoints, endpoints
            names = endpoints.keys() | before.keys()
            moved = {name for name in names if endpoints.get(name) != before.get(name)}
        for name, config in table.backends.items():
            backend = self.backends.get(name)
            if backend is None:
                self.prepare(config)
            elif backend.config is not config or name in moved:
                backend.configure(config)
                self._sync_backend(backend)
        kept = self._prepared
        for name in moved & kept:
            self._sync_backend(self.backends[name])
        for name in [it for it in self.backends if it not in table.backends and it not in kept]:
            backend = self.backends.pop(name)
            for instance in list(backend.instances.values()):
                self._leave(backend, instance)
            backend.refresh()
            backend.leave()

    def prepare(self, config: Backend) -> None:
        """Makes a backend exist that a table is about to name; one that exists stays as it is."""
        if config.name not in self.backends:
            self._prepared.add(config.name)
            backend = self.backends[config.name] = LiveBackend(self._shared, config, Evidence())
            self._sync_backend(backend)

    def hear_of_demand(self) -> None:
        """What is known of those that start on demand is another thing now."""
        for backend in self.backends.values():
            if backend.config.on_demand or backend.asleep:
                backend.refresh()

    def ask_again(self) -> None:
        """Whoever starts what requests wait for may be another one now."""
        for backend in self.backends.values():
            if backend.asleep and backend.waiting:
                self._shared.ask_for(backend.name)

    def resolve(self, endpoints: Endpoints) -> None:
        """Takes newly resolved names."""
        if self._table is not None:
            self._sync(self._table, endpoints)

    def hear(self, states: Mapping[str, States], signals: Iterable[Sequence[Any]]) -> None:
        """Takes what the control process knows of some backends, and the last signals behind it:
        an instance of theirs that it does not name is starting.

        It is told after the table that names them. Whoever is not there has left, and leaves
        nothing behind for who comes at its address next.
        """
        seen = by_backend(signals)
        for name, told in states.items():
            backend = self.backends.get(name)
            if backend is None:
                continue
            known = {address: told.get(address, UNKNOWN) for address in backend.instances}
            theirs = _of(backend, seen.get(name, ()))
            self._become(backend, backend.evidence.load(known, theirs, self._shared.now()))

    def states(self, now: float) -> dict[str, States]:
        """What is known of all instances, by backend and address."""
        return {name: each.evidence.as_of(now)[0] for name, each in self.backends.items()}

    def learn(self, signals: Iterable[Sequence[Any]]) -> None:
        """Takes in what others saw: the prober, and other workers."""
        for name, told in by_backend(signals).items():
            backend = self.backends.get(name)
            if backend is None:
                continue
            seen = _of(backend, told)
            self._become(backend, backend.evidence.merge(seen))
            self._answer_for(backend, seen)

    def _become(self, backend: LiveBackend, changed: States) -> None:
        now = self._shared.now()
        for address, state in changed.items():
            instance = backend.instances[address]
            if state != instance.health:
                instance.become(state, now)

    def _answer_for(self, backend: LiveBackend, seen: Iterable[Signal]) -> None:
        """Says that somebody is there, where no probe got a connection and a stream goes on."""
        now = self._shared.now()
        for signal in seen:
            instance = backend.instances[signal.address]
            if signal.name == "probe_unreachable" and instance.pool.is_alive(now):
                instance.note("alive", now)

    def _sync_backend(self, backend: LiveBackend) -> None:
        wanted = dict(self._addresses(backend.config))
        for address in [key for key in backend.instances if key not in wanted]:
            self._leave(backend, backend.instances[address])
        now = self._shared.now()
        states = backend.evidence.states
        for address, (configured, hosts) in wanted.items():
            instance = backend.instances.get(address)
            if instance is None:
                instance = LiveInstance(self._shared, backend, address)
                backend.instances[address] = instance
                if address not in states:
                    backend.evidence.set(address)
                instance.become(states[address], now)
            instance.configure(configured, hosts)
        backend.instances = {address: backend.instances[address] for address in wanted}
        may_get = frozenset(backend.words())
        self._become(backend, backend.evidence.judge_by(backend.config, may_get, now))
        backend.refresh()

    def _addresses(self, config: Backend) -> Iterator[tuple[str, tuple[Instance, tuple[str, ...]]]]:
        """Address → its configured instance and the IP addresses that are known of it: connected to
        is the first that can be."""
        resolved = self._endpoints.get(config.name, {})
        for configured in config.instances:
            hosts = resolved.get(configured.url, [])
            if configured.fleet:
                for address in hosts:
                    host, _, port = address.rpartition(":")
                    host = host.strip("[]")
                    yield address, (replace(configured, host=host, port=int(port)), (host,))
            elif configured.dns:
                for host in hosts:
                    shown = f"[{host}]" if ":" in host else host
                    yield f"{shown}:{configured.port}", (configured, (host,))
            else:
                known = (configured.host,) if _is_literal(configured.host) else tuple(hosts)
                yield configured.address, (configured, known)

    def _leave(self, backend: LiveBackend, instance: LiveInstance) -> None:
        del backend.instances[instance.address]
        if instance.load.in_flight:
            backend.leaving.append(instance)
        backend.evidence.forget(instance.address)
        instance.leave()

    def give_up_copies(self) -> None:
        """Ends the mirrored requests that are under way: this worker does."""
        for backend in self.backends.values():
            while backend.copies:
                backend.copies.pop().give_up()

    def close_watched(self) -> None:
        """Ends the connections that are kept for what they teach alone: descriptors are short."""
        for backend in self.backends.values():
            for instance in backend.instances.values():
                while instance.pool.watched:
                    instance.pool.watched.pop().abort()


def _of(backend: LiveBackend, signals: Iterable[Signal]) -> list[Signal]:
    """The signals that are about an instance which is there."""
    return [each for each in signals if each.address in backend.instances]


def _is_literal(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()
