"""Routes, weights, backends and instances: how is each read and written?

Every write is a pure edit handed to the publisher together with the request's condition,
which is judged inside it. Nothing here decides what is valid or what becomes of a table.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from gateway.controlplane.admin.calls import LARGE, Call, answer, aside, etag, outcome
from gateway.controlplane.configuration.reading import entry
from gateway.core import edits
from gateway.core.faults import Fault, Invalid, pointer
from gateway.core.placement import not_to_scale
from gateway.core.table import Document, parse_instance

Json = Any
_WORDS = {"routes": "route", "backends": "backend", "keys": "name"}
_DELETES = {
    "routes": edits.delete_route,
    "backends": edits.delete_backend,
    "keys": edits.delete_key,
}


def current(document: Document, section: str, name: str) -> Json | None:
    """Entry `name` of `section` as it was written; None when there is none."""
    return (document.get(section) or {}).get(name)


def named(call: Call) -> tuple[str, str]:
    """The section and the name of the entry that the path leads to: a route, backend or key."""
    if "name" in call.request.match_info:
        return "keys", call.part("name")
    section = "routes" if "route" in call.request.match_info else "backends"
    return section, call.part(section.removesuffix("s"))


async def get_entry(call: Call) -> web.Response:
    """One route or backend as it was written."""
    table = call.publisher.table
    found = edits.entry_of(table.document, *named(call))
    return call.shown(found, etag(found), table.revision)


async def write_entry(
    call: Call, section: str, name: str, edit: Callable[[Document], Document]
) -> web.Response:
    """Publishes `edit` of one route or backend and answers with what was and what is."""
    published = await call.edited(edit, lambda document: current(document, section, name))
    before = current(published.previous.document, section, name)
    after = current(published.table.document, section, name)
    # In an answer a `key` is a secret.
    what = {_WORDS[section]: name, "previous": before, "current": after}
    created = before is None and not published.dry_run
    return answer(
        outcome(published, **what),
        status=201 if created else 200,
        tag=None if after is None else etag(after),
        revision=published.revision,
    )


def read(section: str, name: str, given: Json) -> tuple[Json, list[Fault]]:
    """The canonical form of an entry, or what was given and every fault that is in it alone."""
    try:
        return entry(section, name, given), []
    except Invalid as refused:
        return given, list(refused.faults)


def entered(
    call: Call, document: Document, section: str, name: str, spec: Json, faults: list[Fault]
) -> Document:
    """`document` with `spec` as entry `name`; Invalid names every fault by where it is in `spec`.

    `faults` are those of `spec` alone; what it clashes with in the table is added to them.
    """
    edited = edits.put(document, section, name, spec)
    if not isinstance(spec, Mapping):
        raise Invalid(faults)  # it clashes with nothing: it is no entry at all
    if section == "backends" and not faults:
        faults = _undone(current(document, section, name), spec)
    clashes = call.publisher.check(edited)
    known, place = {fault.pointer for fault in faults}, pointer(section, name)
    found = [each for each in (_within(place, clash) for clash in clashes) if each is not None]
    if faults := [*faults, *(each for each in found if each.pointer not in known)]:
        raise Invalid(faults)
    return edited


def _undone(before: Json | None, spec: Json) -> list[Fault]:
    """The fault of an edit that would not last."""
    why = not_to_scale(before, spec)
    return [Fault("/serve/replicas", "scale", why, "edit `serve.scale`")] if why else []


def _within(place: str, fault: Fault) -> Fault | None:
    """`fault` with its pointer below `place`; None when it is elsewhere."""
    if fault.pointer != place and not fault.pointer.startswith(f"{place}/"):
        return None
    return replace(fault, pointer=fault.pointer.removeprefix(place))


async def put_entry(call: Call) -> web.Response:
    """One route or backend set to the body; Invalid names every fault of it at once."""
    section, name = named(call)
    given = await call.json()
    size = call.request.content_length or LARGE
    spec, faults = await aside(size, lambda: read(section, name, given))
    return await write_entry(
        call, section, name, lambda d: entered(call, d, section, name, spec, faults)
    )


async def patch_entry(call: Call) -> web.Response:
    """One route or backend merged with the body (RFC 7396).

    Invalid when the outcome is at fault, Missing when there is no such entry.
    """
    section, name = named(call)
    patch = await call.mapping()

    def patched(document: Document) -> Document:
        merged = edits.merge_patch(edits.entry_of(document, section, name), patch)
        return entered(call, document, section, name, *read(section, name, merged))

    return await write_entry(call, section, name, patched)


async def delete_entry(call: Call) -> web.Response:
    """One entry taken out; Conflict where another one or what is open hangs on it."""
    section, name = named(call)
    return await write_entry(call, section, name, lambda d: _DELETES[section](d, name))


async def get_weights(call: Call) -> web.Response:
    """The configured weights of one route, and what health makes of them now."""
    route, table = call.part("route"), call.publisher.table
    weights = edits.weights_of(table.document, route)
    body = {
        "revision": table.revision,
        "route": route,
        "weights": weights,
        "effective": call.parts.view.effective(route),
    }
    return answer(body, tag=etag(weights), revision=table.revision)


async def put_weights(call: Call) -> web.Response:
    """The split of a route set to the body, which names every backend of it."""
    return await _write_weights(call, partial=False)


async def patch_weights(call: Call) -> web.Response:
    """The split of a route with the weights of the body; the others stay."""
    return await _write_weights(call, partial=True)


async def _write_weights(call: Call, *, partial: bool) -> web.Response:
    route, weights = call.part("route"), await call.mapping()
    published = await call.edited(
        lambda document: edits.set_weights(document, route, weights, partial=partial),
        lambda document: edits.weights_of(document, route),
    )
    after = edits.weights_of(published.table.document, route)
    body = outcome(
        published,
        route=route,
        previous=edits.weights_of(published.previous.document, route),
        weights=after,
    )
    if not published.dry_run:  # `previous` and `weights` say it, and the contract says no more
        del body["diff"]
    return answer(body, tag=etag(after), revision=published.revision)


async def add_instance(call: Call) -> web.Response:
    """Adds the instance of the body to one backend; 409 when it is there already."""
    backend, given = call.part("backend"), await call.mapping()
    url: Any = given.get("url")
    faults = [Fault(pointer(key), "unknown_key", "unknown key") for key in given if key != "url"]
    if "url" not in given:
        faults.append(Fault("/url", "missing", "is missing"))
    else:
        alone = read("backends", "x", {"instances": [url]})[1]
        faults += [replace(each, pointer="/url") for each in alone]
    if faults:
        raise Invalid(faults)

    def added(document: Document) -> Document:
        edited = edits.add_instance(document, backend, url)
        last = len(edited["backends"][backend]["instances"]) - 1
        place = pointer("backends", backend, "instances", last)
        clashes = call.publisher.check(edited)
        if found := [each for each in clashes if each.pointer == place]:
            raise Invalid(replace(each, pointer="/url") for each in found)
        return edited

    response = await write_entry(call, "backends", backend, added)
    if not call.dry_run:
        response.set_status(201)
        response.headers["Location"] = f"{call.request.path}/{parse_instance(url).address}"
    return response


async def remove_instance(call: Call) -> web.Response:
    """The backend without one instance; Missing when it has none there."""
    backend, address = call.part("backend"), unquote(call.part("address"))
    return await write_entry(
        call, "backends", backend, lambda d: edits.remove_instance(d, backend, address)
    )


async def set_instance_state(call: Call) -> web.Response:
    """The backend with one instance drained, resumed, disabled or enabled."""
    backend, address = call.part("backend"), unquote(call.part("address"))
    state = edits.STATES[call.part("verb")]
    return await write_entry(
        call, "backends", backend, lambda d: edits.set_state(d, backend, address, state)
    )
