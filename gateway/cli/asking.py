"""What do the commands ask of a gateway alike?

How an edit is made, what came of it, and which name was meant when there is none like it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, TypeVar

from gateway.cli import difference, finding, screen
from gateway.cli.grids import Cell
from gateway.cli.refusals import Refusal, suggestion
from gateway.clients.admin import AdminClient
from gateway.clients.admin_connection import Change
from gateway.clients.errors import Json, Refused

PRECONDITION_REQUIRED = 428

Answered = TypeVar("Answered")


def change(options: SimpleNamespace, etag: str | None = None) -> Change:
    """How the options want an edit made, bound to `etag` where there is one."""
    return Change(options.reason or "", options.dry_run, etag)


def bound(
    options: SimpleNamespace, revision: Callable[[], int], etag: Callable[[], str]
) -> str | None:
    """The tag that --if-revision binds an edit to; None without it.

    The tag is read first: what changes between the two looks is seen by one of them.
    """
    if options.if_revision is None:
        return None
    tag, now = etag(), revision()
    if now != options.if_revision:
        raise Refusal(f"the revision is no longer {options.if_revision}: it is {now} now")
    return tag


def edited(
    client: AdminClient,
    options: SimpleNamespace,
    edit: Callable[[Change], Answered],
    etag: Callable[[], str],
) -> Answered:
    """The answer to `edit`, made as the options want it; `etag` gives the tag of what it is of."""
    tag = bound(options, lambda: int(client.table()["revision"]), etag)
    return made(edit, change(options, tag), etag)


def made(edit: Callable[[Change], Answered], wanted: Change, etag: Callable[[], str]) -> Answered:
    """The answer to `edit`; bound to what is there now where the gateway requires a condition."""
    try:
        return edit(wanted)
    except Refused as refused:
        if refused.status != PRECONDITION_REQUIRED or wanted.etag:
            raise
        return edit(replace(wanted, etag=etag()))


def outcome(answer: Mapping[str, Any], options: SimpleNamespace) -> str:
    """The line below an edit: which revision it made, on how many workers."""
    if options.dry_run:
        return "a dry run: nothing was changed"
    applied = answer.get("applied") or {}
    workers, gateways = applied.get("workers"), applied.get("gateways")
    on = "" if workers is None else f", on {workers} worker{'' if workers == 1 else 's'}"
    if gateways is not None:
        on += f" of {gateways} gateway{'' if gateways == 1 else 's'}"
    if lost := applied.get("lost"):
        on += f"; without {', '.join(lost)}, lost"
    return f"revision {answer['revision']}{on}"


def tell(options: SimpleNamespace, answer: Json) -> None:
    """Shows what an edit changed, and the line below it."""
    if not screen.printed(answer, options.output):
        screen.show(*difference.told(answer), Cell(outcome(answer, options), "dim"))


def routes(client: AdminClient) -> dict[str, Json]:
    found: dict[str, Json] = client.table().get("routes") or {}
    return found


def backends(client: AdminClient) -> dict[str, Json]:
    found: dict[str, Json] = client.table().get("backends") or {}
    return found


@contextmanager
def about(client: AdminClient, *, route: str) -> Iterator[None]:
    """Turns the 404 of a route into a line that names the nearest one."""
    try:
        yield
    except Refused as refused:
        if refused.status != 404:
            raise
        known = routes(client)
        if route in known:
            raise
        raise unknown("route", route, known) from None


def backend_of(client: AdminClient, address: str, wanted: str | None) -> str:
    """The backend that the instance at `address` belongs to; Refusal when it is not clear."""
    live = client.status().get("backends") or {}
    owners: dict[str, list[str]] = {}
    for backend, state in live.items():
        for instance in state.get("instances") or {}:
            owners.setdefault(instance, []).append(backend)
    if wanted is not None:
        if wanted not in live:
            raise unknown("backend", wanted, live)
        if address in live[wanted].get("instances", {}):
            return wanted
        raise Refusal(f"{wanted!r} has no instance {address!r}{suggestion(address, owners)}")
    found = owners.get(address, [])
    if not found:
        raise unknown("instance", address, owners)
    if len(found) > 1:
        names = " and ".join(repr(name) for name in found)
        raise Refusal(f"{address} belongs to {names}: say which with --backend")
    return found[0]


def live_names(kind: str, options: SimpleNamespace) -> list[str]:
    """All names of a kind: route, backend, instance, key, or `weight` (each backend with a `=`);
    none where nobody answers: a completion that talks into the command line is worse than none."""
    try:
        client = finding.client(options, timeout_s=2.0)
        if kind == "route":
            return list(routes(client))
        if kind == "key":
            return list(client.keys().get("keys") or {})
        if kind == "instance":
            live = client.status().get("backends") or {}
            return [address for state in live.values() for address in state.get("instances") or {}]
        return [f"{name}=" if kind == "weight" else name for name in backends(client)]
    except Exception:
        return []


def unknown(kind: str, name: str, known: Iterable[str]) -> Refusal:
    """The line for a name that no `kind` has, with the nearest that is `known`, or with some."""
    names = list(known)
    some = f" (there is {', '.join(names[:8])})" if names else f" (there is no {kind} at all)"
    return Refusal(f"there is no {kind} {name!r}{suggestion(name, names) or some}")
