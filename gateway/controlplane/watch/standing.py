"""Which instances are there, which of them are well, and which may get requests?

Asked at every scrape, every second and at every change of somebody's health, for all backends:
what is as it was is not worked out again. Who may get requests is said by the same pure
`gateway.core.health.serving` that the workers ask, so that what is shown is what is done.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import is_
from typing import Any

from gateway.controlplane.watch.health_book import Words
from gateway.controlplane.watch.resolver import Endpoints, addresses_of
from gateway.core.health import serving
from gateway.core.table import Backend, Instance, Table

NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class BackendStanding:
    """One backend: its instances with their identities, a name that was never resolved standing
    for itself; which of them are well, that is ready, not ejected and not out by command; and
    which may get requests. Where none is well, some that are not may (fail open)."""

    backend: Backend
    known: Mapping[str, Any]
    words: Mapping[str, str]
    ejected: frozenset[str]
    instances: list[tuple[Instance, str]]
    up: dict[str, bool]
    serving: frozenset[str]


class Standing:
    """All backends of `table()`, by what is known of them."""

    def __init__(
        self,
        table: Callable[[], Table],
        words: Callable[[], Words],
        ejected: Callable[[], Mapping[tuple[str, str], float]],
        endpoints: Callable[[], Endpoints],
    ) -> None:
        self._table, self._words = table, words
        self._ejected, self._endpoints = ejected, endpoints
        self._known: tuple[Any, ...] = ()
        self._seen: dict[str, BackendStanding] = {}
        self._up: dict[str, dict[str, bool]] = {}
        self._available: frozenset[str] = frozenset()

    def backends(self) -> Mapping[str, BackendStanding]:
        """Every backend by its name."""
        self._look()
        return self._seen

    def up(self) -> Mapping[str, Mapping[str, bool]]:
        """Backend → address → whether it is well; the same object while nothing changed."""
        self._look()
        return self._up

    def available(self) -> frozenset[str]:
        """The backends that have an instance that may get requests."""
        self._look()
        return self._available

    def _look(self) -> None:
        ejected = frozenset(self._ejected())
        now = (self._table().backends, self._words(), self._endpoints(), ejected)
        if self._known and all(map(is_, now[:3], self._known)) and ejected == self._known[3]:
            return
        self._known = now
        backends, words, endpoints, _ = now
        out: dict[str, set[str]] = {}
        for name, address in ejected:
            out.setdefault(name, set()).add(address)
        before = self._seen
        self._seen = {
            name: _seen(
                before.get(name),
                backend,
                endpoints.get(name, NOTHING),
                words.get(name, NOTHING),
                frozenset(out.get(name, ())),
            )
            for name, backend in backends.items()
        }
        self._up = {name: each.up for name, each in self._seen.items()}
        self._available = frozenset(name for name, each in self._seen.items() if each.serving)


def _seen(
    before: BackendStanding | None,
    backend: Backend,
    known: Mapping[str, Any],
    words: Mapping[str, Any],
    ejected: frozenset[str],
) -> BackendStanding:
    is_same = before is not None and before.backend is backend and before.known == known
    if before is not None and is_same and before.words == words and before.ejected == ejected:
        return before
    instances = before.instances if before is not None and is_same else _named(backend, known)
    up = {
        address: words.get(address) == "up" and address not in ejected and not instance.state
        for instance, address in instances
    }
    asked = {address for instance, address in instances if not instance.state}
    may = serving({a: word for a, word in words.items() if a in asked}, ejected)
    return BackendStanding(backend, known, words, ejected, instances, up, may)


def _named(backend: Backend, known: Mapping[str, Any]) -> list[tuple[Instance, str]]:
    found: list[tuple[Instance, str]] = []
    for instance in backend.instances:
        addresses = addresses_of(instance, known.get(instance.url, ()))
        found += [(instance, address) for address, _, _ in addresses]
        if not addresses and not instance.fleet:
            found.append((instance, instance.address))
    return found
