"""Which instances exist here, and which are leaving?

`sync` makes the live side agree with a table: what stays is kept as it is, new instances
come into being, removed ones get nothing new and finish what they have. Health words and
resolved names arrive here; what they mean for one backend is `LiveBackend.refresh`.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gateway.core.table import Backend, Instance, Table
from gateway.dataplane.backend import LiveBackend
from gateway.dataplane.instance import LiveInstance

if TYPE_CHECKING:
    from gateway.dataplane.context import Plane

Endpoints = dict[str, dict[str, list[str]]]


class Instances:
    """Everything that is alive, by backend. Removed instances stay until they are idle."""

    def __init__(self, plane: "Plane") -> None:
        self._plane = plane
        self.backends: dict[str, LiveBackend] = {}
        self.leaving: set[LiveInstance] = set()
        self._words: dict[str, dict[str, str]] = {}
        self._endpoints: Endpoints = {}
        self._table: Table | None = None

    def sync(self, table: Table, endpoints: Endpoints | None = None) -> None:
        """Makes what `table` names exist and lets the rest leave. Keeps what stays."""
        self._table = table
        if endpoints is not None:
            self._endpoints = endpoints
        for name, config in table.backends.items():
            backend = self.backends.get(name)
            if backend is None:
                backend = self.backends[name] = LiveBackend(self._plane, config)
            else:
                backend.configure(config)
            self._sync_backend(backend)
        for name in [name for name in self.backends if name not in table.backends]:
            backend = self.backends.pop(name)
            for instance in list(backend.instances.values()):
                self._leave(backend, instance)
            backend.refresh()

    def resolve(self, endpoints: Endpoints) -> None:
        """Takes newly resolved names."""
        if self._table is not None:
            self.sync(self._table, endpoints)

    def hear(self, words: dict[str, dict[str, Any]]) -> None:
        """Takes the probes' words, whole: what they do not name is starting."""
        self._words = words
        now = self._plane.now()
        for name, backend in self.backends.items():
            known = words.get(name, {})
            news = [
                each.hear(known.get(address, "starting"), now)
                for address, each in backend.instances.items()
            ]
            if any(news):
                backend.refresh()

    def _sync_backend(self, backend: LiveBackend) -> None:
        wanted = dict(self._addresses(backend.config))
        for address in [key for key in backend.instances if key not in wanted]:
            self._leave(backend, backend.instances[address])
        words = self._words.get(backend.name, {})
        now = self._plane.now()
        for address, (configured, host) in wanted.items():
            instance = backend.instances.get(address)
            if instance is None:
                instance = LiveInstance(self._plane, backend, address)
                backend.instances[address] = instance
                instance.hear(words.get(address, "starting"), now)
            if instance.host != host:
                instance.close_idle()  # the name moved: all traffic follows
            instance.host, instance.port = host, configured.port
            instance.state = configured.state
            if configured.state == "disabled":
                instance.close_idle()
        backend.instances = {address: backend.instances[address] for address in wanted}
        backend.refresh()

    def _addresses(self, config: Backend) -> Iterator[tuple[str, tuple[Instance, str | None]]]:
        """Address → its configured instance and the IP address to connect to, if known."""
        resolved = self._endpoints.get(config.name, {})
        for configured in config.instances:
            hosts = resolved.get(configured.url, [])
            if configured.dns:
                for host in hosts:
                    shown = f"[{host}]" if ":" in host else host
                    yield f"{shown}:{configured.port}", (configured, host)
            else:
                literal = configured.host if _is_literal(configured.host) else None
                yield configured.address, (configured, literal or (hosts[0] if hosts else None))

    def _leave(self, backend: LiveBackend, instance: LiveInstance) -> None:
        del backend.instances[instance.address]
        instance.gone = True
        if instance.turns is not None:
            instance.turns.resign()
        instance.close_idle()
        if instance.load.in_flight:
            self.leaving.add(instance)

    def left(self, instance: LiveInstance) -> None:
        """The last request of an instance that was removed has ended."""
        self.leaving.discard(instance)


def _is_literal(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()
