"""What is configured: routes, backends and their instances, at one revision.

A `Table` is an immutable value made from a *document*, the JSON form that the file, the
store, the admin API and the channel to the workers share. Construction validates and fills
in defaults, so that nothing which reads a table has an error path. This module refuses to
know whether anything is alive: health, load and connections belong to the data plane.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.core.access import Key, read_key
from gateway.core.deltas import Delta, Document
from gateway.core.entries import (
    BALANCES,
    INSTANCE_STATES,
    MAX_WEIGHT,
    RETRY_REASONS,
    Backend,
    Eject,
    Health,
    Instance,
    Match,
    Mirror,
    OnUnavailable,
    Queue,
    Retries,
    Route,
    Sticky,
    Timeouts,
)
from gateway.core.rate_limit import read_limits
from gateway.core.reading import WeightError, parse_instance, read_backend, read_route

__all__ = [
    "BALANCES", "EMPTY", "INSTANCE_STATES", "MAX_WEIGHT", "RETRY_REASONS", "Backend", "Delta",
    "Document", "Eject", "Health", "Instance", "Key", "Match", "Mirror", "OnUnavailable", "Queue",
    "Retries", "Route", "Sticky", "Table", "TableError", "Timeouts", "make_backend", "make_key",
    "make_route", "parse_instance",
]  # fmt: skip


class TableError(ValueError):
    """A document that no table can be made of; `pointer` is the JSON pointer of the fault."""

    def __init__(self, pointer: str, detail: str) -> None:
        super().__init__(f"{pointer}: {detail}")
        self.pointer = pointer
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Table:
    """The immutable set of routes and backends, with its revision and its document."""

    revision: int
    routes: Mapping[str, Route]
    backends: Mapping[str, Backend]
    document: Document = field(repr=False, default_factory=dict)
    keys: Mapping[str, Key] = field(repr=False, default_factory=dict)
    default_limits: Mapping[str, Any] = field(repr=False, default_factory=dict)

    @classmethod
    def from_document(cls, document: Document, revision: int) -> "Table":
        """The table of `document` with defaults filled in.

        Raises TableError at the first fault that would leave a request without a meaning.
        Friendly, complete validation of what people write is the control plane's; this is
        the last line, so that whatever came through the store or the channel is sound.
        """
        return EMPTY.edited(Delta.between(EMPTY.document, document), revision, document)

    def edited(self, delta: Delta, revision: int, document: Document | None = None) -> "Table":
        """The table that `delta` makes of this one; what it does not name is shared, not made
        again. `document` is the whole outcome, for those who keep it. Raises TableError."""
        backends = delta.on("backends", self.backends, make_backend)
        routes = delta.on(
            "routes", self.routes, lambda name, spec: make_route(name, spec, backends)
        )
        keys = delta.on("keys", self.keys, make_key)
        gone = self.backends.keys() - backends.keys()
        if gone:
            for route in routes.values():
                _require_backends(route, backends)
        limits = make_default_limits(delta, self.default_limits)
        whole = {} if document is None else document
        return Table(revision, routes, backends, whole, keys, limits)


EMPTY = Table(0, {}, {}, {"backends": {}, "routes": {}})


def make_backend(name: str, spec: Mapping[str, Any]) -> Backend:
    """The backend `name`, as `spec` says; TableError if that cannot be."""
    try:
        return read_backend(name, spec)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TableError(f"/backends/{name}", str(error)) from None


def make_route(name: str, spec: Mapping[str, Any], backends: Mapping[str, Backend]) -> Route:
    """The route `name`, as `spec` says, among `backends`; TableError if that cannot be."""
    try:
        route = read_route(name, spec)
    except WeightError as error:
        raise TableError(f"/routes/{name}/split/{error.backend}", str(error)) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TableError(f"/routes/{name}", str(error)) from None
    _require_backends(route, backends)
    return route


def make_key(name: str, spec: Mapping[str, Any]) -> Key:
    """The key `name`, as `spec` says; TableError if that cannot be."""
    try:
        return read_key(name, spec)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TableError(f"/keys/{name}", str(error)) from None


def make_default_limits(delta: Delta, before: Mapping[str, Any]) -> Mapping[str, Any]:
    """What keys without limits of their own may, after `delta`; TableError if that cannot be."""
    limits = delta.on("default_limits", before, lambda _, value: value)
    try:
        read_limits(limits)
    except (TypeError, ValueError) as error:
        raise TableError("/default_limits", str(error)) from None
    return limits


def _require_backends(route: Route, backends: Mapping[str, Backend]) -> None:
    for name in route.names:
        if name not in backends:
            raise TableError(f"/routes/{route.name}", f"no such backend {name!r}")
