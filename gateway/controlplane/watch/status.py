"""What does the status say of workers, routes and backends?

Pure: what is known of them in, the JSON that `/admin/v1/status` shows out. Who knows it, and when
they are asked, is said in `status_view`; what of it is wrong, in `alerts`.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.controlplane.watch.alerts import WORDS
from gateway.controlplane.watch.effective import Shares
from gateway.controlplane.watch.health_book import Key, Words
from gateway.controlplane.watch.rates import Window, part
from gateway.controlplane.watch.standing import BackendStanding
from gateway.core.table import Instance, Route
from gateway.wire.messages import LoadReport

Json = dict[str, Any]
_TOLD = 3


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of instances: the word of each, why it is not well, for how many seconds it
    has been so; and the seconds left of those that are ejected."""

    words: Words
    causes: Mapping[Key, str]
    since_s: Mapping[Key, float]
    ejected_s: Mapping[tuple[str, str], float]


@dataclass(frozen=True, slots=True)
class Load:
    """What is live: requests and learned limits by backend and address, what instances said last
    of their load; how many requests wait for each backend, and for how long any has."""

    in_flight: Mapping[str, Mapping[str, int]]
    limits: Mapping[str, Mapping[str, int]]
    reports: Mapping[Key, LoadReport | None]
    queue_depth: Mapping[str, int]
    queued_s: Mapping[str, float]


def workers_of(slots: Sequence[int | None], revisions: Mapping[int, int]) -> list[Json]:
    """The worker of each slot, by its process id; `revisions` are what those serve that are
    connected."""
    return [
        {
            "slot": slot,
            "pid": pid,
            "revision": None if pid is None else revisions.get(pid),
            "connected": pid in revisions,
        }
        for slot, pid in enumerate(slots)
    ]


def routes_of(
    configured: Mapping[str, Route], effective: Mapping[str, Shares], window: Window
) -> dict[str, Json]:
    """Every route by its name: its weights, the shares that come of them, and its rates. Those of
    a backend that other routes have as well are told apart: `backends`."""
    used = Counter(backend for route in configured.values() for backend in route.weights)
    return {
        name: {
            "weights": route.weights,
            "effective": effective[name],
            **_rates(window, "route", name),
            "backends": {
                backend: _rates(window, "part", part(name, backend))
                for backend in route.weights
                if used[backend] > 1
            },
        }
        for name, route in configured.items()
    }


def backends_of(
    standing: Mapping[str, BackendStanding],
    asleep: Collection[str],
    health: Health,
    load: Load,
    window: Window,
) -> dict[str, Json]:
    """Every backend by its name, with its instances by their addresses; those that are `asleep`
    start once a request asks for them."""
    found: dict[str, Json] = {}
    for name, seen in standing.items():
        instances = {
            address: _instance(instance, Key(name, address), health, load)
            for instance, address in seen.instances
        }
        found[name] = {
            "queue_depth": load.queue_depth.get(name, 0),
            "queued_s": round(load.queued_s.get(name, 0.0), 3),
            "in_flight": sum(one["in_flight"] for one in instances.values()),
            "available": bool(seen.serving) or name in asleep,
            **_rates(window, "backend", name),
            "instances": instances,
        }
    return found


def why_unwell(name: str, seen: BackendStanding, causes: Mapping[Key, str]) -> str:
    """Why no instance of backend `name` can serve, of three of them at most; "" if it has none."""
    told = [
        f"{address} {_why_not(instance, address, seen, causes.get(Key(name, address)))}"
        for instance, address in seen.instances[:_TOLD]
    ]
    more = len(seen.instances) - _TOLD
    return ", ".join([*told, *([f"and {more} more"] if more > 0 else [])])


def _why_not(instance: Instance, address: str, seen: BackendStanding, cause: str | None) -> str:
    if instance.state:
        return f"is {instance.state}"
    if address in seen.ejected:
        return "is ejected"
    return cause or WORDS.get(seen.words.get(address, ""), "is not ready yet")


def _instance(instance: Instance, key: Key, health: Health, load: Load) -> Json:
    word = health.words.get(key.backend, {}).get(key.address)
    return {
        "url": instance.url,
        "state": instance.state,
        "health": word or "starting",
        "cause": health.causes.get(key),
        "since_s": round(health.since_s[key], 3) if word else None,
        "ejected_s": round(max(0.0, health.ejected_s.get(key, 0.0)), 3),
        "report": load.reports[key],
        "in_flight": load.in_flight.get(key.backend, {}).get(key.address, 0),
        "learned_limit": load.limits.get(key.backend, {}).get(key.address),
    }


def _rates(window: Window, kind: str, name: str) -> Json:
    return {**window.of(kind, name), "reasons_per_s": window.reasons(kind, name)}
