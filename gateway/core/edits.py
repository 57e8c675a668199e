"""Which document comes out of an edit, and what is the difference?

Pure: a document goes in, another comes out, and the first is left as it was. An edit here
checks what it needs to have a meaning (that its route exists, that no weight is missing);
whether the outcome as a whole can be served is the publisher's question.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from gateway.core.access import MAX_HASHES
from gateway.core.deltas import normalised
from gateway.core.faults import Conflict, Fault, Invalid, Missing, did_you_mean, pointer
from gateway.core.table import MAX_WEIGHT, Document, parse_instance
from gateway.core.units import parse_time

Json = Any
STATES = {"drain": "draining", "disable": "disabled", "resume": "", "enable": ""}


def weights_of(document: Document, route: str) -> dict[str, int]:
    """Backend → weight of `route`; Missing when there is no such route."""
    return dict(entry_of(document, "routes", route)["split"])


def set_weights(
    document: Document, route: str, weights: Mapping[str, Json], *, partial: bool
) -> Document:
    """`document` with new weights of `route`.

    Whole (PUT): every backend of the split must be named. Partial (PATCH): the others keep
    theirs and null takes a backend out. Either may name a further backend of the table.
    Invalid names every weight that is no whole number from 0 to MAX_WEIGHT.
    """
    spec = entry_of(document, "routes", route)
    split = dict(spec["split"])
    faults = list(_weight_faults(document, weights, split, partial=partial))
    if not partial:
        faults += [
            Fault(pointer(name), "missing", f"the weight of {name!r} is missing")
            for name in split
            if name not in weights
        ]
    changed = {**split, **weights}
    changed = {name: weight for name, weight in changed.items() if weight is not None}
    if not faults and not changed:
        faults.append(Fault("", "empty", "a route needs at least one backend"))
    if faults:
        raise Invalid(faults)
    return put(document, "routes", route, {**spec, "split": changed})


def _weight_faults(
    document: Document, weights: Mapping[str, Json], split: Mapping[str, int], *, partial: bool
) -> list[Fault]:
    faults = []
    backends = document.get("backends") or {}
    for name, weight in weights.items():
        if name not in backends:
            hint = did_you_mean(name, split or backends)
            faults.append(Fault(pointer(name), "unknown_backend", f"no backend {name!r}", hint))
        elif weight is None and partial:
            continue
        elif type(weight) is not int or not 0 <= weight <= MAX_WEIGHT:
            faults.append(
                Fault(pointer(name), "weight", f"must be a whole number from 0 to {MAX_WEIGHT:,}")
            )
    return faults


def put(document: Document, section: str, name: str, spec: Json) -> Document:
    """`document` with `spec` as entry `name` of `section`, which keeps its place or comes last."""
    return {**document, section: {**(document.get(section) or {}), name: spec}}


def delete_route(document: Document, name: str) -> Document:
    """`document` without route `name`; Missing when there is none, Conflict while a key names it:
    another route of that name would be opened by it."""
    entry_of(document, "routes", name)
    keys = (document.get("keys") or {}).items()
    if users := [key for key, spec in keys if name in (spec.get("routes") or ())]:
        raise Conflict(f"route {name!r} is still named by {_listed('key', users)}")
    return _without(document, "routes", name)


def delete_backend(document: Document, name: str) -> Document:
    """`document` without backend `name`; Conflict while a route still names it."""
    entry_of(document, "backends", name)
    users = [
        route for route, spec in (document.get("routes") or {}).items() if name in backends_of(spec)
    ]
    if users:
        raise Conflict(f"backend {name!r} is still used by {_listed('route', users)}")
    return _without(document, "backends", name)


def rotate_key(document: Document, name: str, hash: str) -> Document:
    """`document` with one more hash of key `name`, the newest last."""
    spec = entry_of(document, "keys", name)
    if len(spec["hashes"]) >= MAX_HASHES:
        raise Conflict(f"key {name!r} has {MAX_HASHES} secrets already; retire the old ones first")
    return put(document, "keys", name, {**spec, "hashes": [*spec["hashes"], hash]})


def retire_key(document: Document, name: str) -> Document:
    """`document` with the newest hash of key `name` alone; itself where there is no other one."""
    spec = entry_of(document, "keys", name)
    if len(spec["hashes"]) == 1:
        return document
    return put(document, "keys", name, {**spec, "hashes": spec["hashes"][-1:]})


def delete_key(document: Document, name: str) -> Document:
    """`document` without key `name`; Conflict where it is the last one and routes would be open to
    everybody without it."""
    entry_of(document, "keys", name)
    edited = _without(document, "keys", name)
    if not edited["keys"]:
        routes = (document.get("routes") or {}).items()
        if opened := [route for route, spec in routes if not spec.get("access")]:
            raise Conflict(
                f"{name!r} is the last key, and without one {_listed('route', opened)} would be"
                " open to everybody; say `access: keys` or `access: open` there first"
            )
    return normalised(edited)


def opened(before: Document, after: Document) -> Iterator[str]:
    """In words, which routes ask for a key by `before` and not by `after`."""
    now: Mapping[str, Json] = before.get("keys") or {}
    then: Mapping[str, Json] = after.get("keys") or {}
    routes: Mapping[str, Json] = before.get("routes") or {}
    for name, spec in (after.get("routes") or {}).items():
        # One that comes back would ask for a key if it were there now.
        if _asks(routes.get(name, spec), now) and not _asks(spec, then):
            yield f"route {name!r} is open to everybody"


def let_in(before: Document, after: Document) -> Iterator[str]:
    """In words, who may come in by `after`, which was before, and not by `before`."""
    yield from opened(before, after)
    now: Mapping[str, Json] = before.get("keys") or {}
    then: Mapping[str, Json] = after.get("keys") or {}
    routes: Mapping[str, Json] = before.get("routes") or {}
    if not any(_asks(spec, now) for spec in routes.values()):
        return  # nobody is kept out
    valid = {each for spec in now.values() for each in spec["hashes"]}
    for name, spec in then.items():
        if not valid.issuperset(spec["hashes"]):
            yield f"key {name!r} has a secret again that was taken back"
        elif name in now and _opens_more(now[name], spec):
            yield f"key {name!r} opens more, or for longer"


def _asks(spec: Mapping[str, Json], keys: Mapping[str, Json]) -> bool:
    """Whether a route asks for a key, beside these."""
    return bool(spec.get("access", "keys" if keys else "open") == "keys")


def _opens_more(before: Mapping[str, Json], after: Mapping[str, Json]) -> bool:
    had, has = before.get("routes"), after.get("routes")
    if had is not None and (has is None or not set(has) <= set(had)):
        return True
    return _ends(after) > _ends(before)


def _ends(spec: Mapping[str, Json]) -> float:
    return parse_time(spec["expires"]) if "expires" in spec else math.inf


def backends_of(spec: Mapping[str, Any]) -> set[str]:
    """Every backend that a route's `spec` names: split, fallback and mirror."""
    named = set(spec.get("split") or {})
    fallback = spec.get("on_unavailable")
    if isinstance(fallback, Mapping):
        named.add(fallback["fallback"])
    if spec.get("mirror"):
        named.add(spec["mirror"]["backend"])
    return named


def add_instance(document: Document, backend: str, url: str) -> Document:
    """`document` with one more instance; Conflict when the backend has its address already."""
    spec = entry_of(document, "backends", backend)
    address = _address(url)
    urls = list(spec.get("instances") or ())
    if address in map(_address, urls):
        raise Conflict(f"backend {backend!r} has an instance {address} already")
    return put(document, "backends", backend, {**spec, "instances": [*urls, url]})


def remove_instance(document: Document, backend: str, address: str) -> Document:
    """`document` without the instance at `address`, and without its state."""
    spec = _backend_with(document, backend, address)
    urls = spec.get("instances") or ()
    left = [url for url in urls if _address(url) != address]
    if len(left) == len(urls):
        raise Conflict(f"{address} was chosen by `headgate up` for backend {backend!r}")
    return put(document, "backends", backend, _stated({**spec, "instances": left}, address, ""))


def set_state(document: Document, backend: str, address: str, state: str) -> Document:
    """`document` with the instance "draining", "disabled" or, with "", in service."""
    spec = _backend_with(document, backend, address)
    return put(document, "backends", backend, _stated(spec, address, state))


def merge_patch(target: Json, patch: Json) -> Json:
    """`target` after the JSON merge patch `patch` (RFC 7396): null removes, objects merge."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def entry_of(document: Document, section: str, name: str) -> Mapping[str, Any]:
    """Entry `name` of `section` as it was written; Missing names the nearest one there is."""
    entries: Mapping[str, Any] = document.get(section) or {}
    if name not in entries:
        kind = section.removesuffix("s")
        hint = did_you_mean(name, entries)
        raise Missing(f"no {kind} {name!r}{f'; {hint}' if hint else ''}")
    spec: Mapping[str, Any] = entries[name]
    return spec


def _without(document: Document, section: str, name: str) -> Document:
    kept = {key: spec for key, spec in document[section].items() if key != name}
    return {**document, section: kept}


def _backend_with(document: Document, backend: str, address: str) -> Mapping[str, Any]:
    spec = entry_of(document, "backends", backend)
    urls = (*(spec.get("instances") or ()), *(spec.get("placed") or ()))
    addresses = [_address(url) for url in urls]
    if address not in addresses:
        hint = did_you_mean(address, addresses)
        raise Missing(f"backend {backend!r} has no instance {address}{f'; {hint}' if hint else ''}")
    return spec


def _stated(spec: Mapping[str, Any], address: str, state: str) -> dict[str, Any]:
    states = {key: word for key, word in (spec.get("states") or {}).items() if key != address}
    if state:
        states[address] = state
    bare = {key: value for key, value in spec.items() if key != "states"}
    return {**bare, "states": states} if states else bare


def _address(url: str) -> str:
    return parse_instance(url).address


def _listed(kind: str, names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{kind}{'s' if len(names) > 1 else ''} {shown}{more}"
