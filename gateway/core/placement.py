"""Which instance processes shall run, where, and which of them get requests?

`headgate up` holds processes to the table. What a backend with `serve` asks for and what runs go
in, the next steps come out: start, place (let the table name other addresses), stop. New ones are
ready before old ones lose their place, and nothing that has a place is stopped. Nothing is done
here: who does it asks again whenever something changed, and rests when there are no steps left.

In a document `instances` are the addresses that somebody wrote and `placed` those where the
processes are, while they are elsewhere; only who starts them writes that.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from gateway.core.deltas import Delta, Document
from gateway.core.edits import entry_of, put
from gateway.core.faults import Conflict
from gateway.core.reading import parse_instance

Spec = Mapping[str, Any]
ProcessState = Literal["starting", "ready", "failed", "stopping"]
FLEET = "fleet://"
LIVE = frozenset({"replicas", "scale", "memory", "start", "idle"})
"""What `serve` says that no process has to be replaced for."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one backend asks for: `count` processes of `version`. `pins` are the addresses written
    for them, `in_force` those that get requests, both as `host:port`; `out` are those among them
    that answer none now, and go first where some go. With `spare` one more than asked for may run
    while versions change; else one goes first, and what it had goes to others."""

    version: str
    count: int
    pins: tuple[str, ...] = ()
    in_force: tuple[str, ...] = ()
    out: frozenset[str] = frozenset()
    spare: bool = True


@dataclass(frozen=True, slots=True)
class Process:
    """One process that runs, or that `failed` before it ever was ready. `served`: it was ready
    once, and is started again when it dies. `number` tells it from all others."""

    number: int
    backend: str
    version: str
    address: str
    state: ProcessState
    served: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    """Start a process of the current version, at one of `addresses` that is free, or else
    anywhere: a `pinned` one must be at the first of them."""

    backend: str
    addresses: tuple[str, ...] = ()
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Let the table name `addresses` as those of the backend."""

    backend: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stop:
    """End the process of that number, which gets no requests, or forget that it failed."""

    number: int


Step: TypeAlias = Start | Place | Stop


def steps(wanted: Mapping[str, Wanted], running: Iterable[Process]) -> list[Step]:
    """What to do next; nothing once all runs as it is wanted, or nothing more can be done."""
    by_backend: dict[str, list[Process]] = {}
    used: set[str] = set()
    for each in running:
        by_backend.setdefault(each.backend, []).append(each)
        if each.state != "failed":
            used.add(each.address)
    found: list[Step] = []
    for name, own in by_backend.items():
        if name not in wanted:
            found += [Stop(each.number) for each in own if each.state != "stopping"]
    for name, asked in wanted.items():
        found += _of_one(name, asked, by_backend.get(name, ()), used)
    return found


def _of_one(name: str, asked: Wanted, own: Sequence[Process], used: set[str]) -> Iterator[Step]:
    """The next steps of backend `name`, of which `own` are the processes."""
    fresh = [each for each in own if each.version == asked.version and each.state != "stopping"]
    stale = [each for each in own if each.version != asked.version and each.state != "stopping"]
    able, left, coming = _seated(asked, fresh, stale)
    missing = asked.count - len(able)
    is_held = any(each.state == "failed" for each in fresh)
    alive = sum(each.state != "failed" for each in (own if not asked.spare else (*fresh, *stale)))
    # Each of them holds a model in memory.
    room = min(missing - len(coming), asked.count + asked.spare - alive)
    are_placed = all(each.address in asked.in_force for each in (*able, *left))
    is_full = alive == len(able) + len(left) == asked.count
    if left and not asked.spare and not is_held and is_full and are_placed:
        if asked.count == 1:
            yield Stop(left[0].number)
        else:
            left.pop()
    places = [each.address for each in (*able, *left)]
    here = [each.address for each in coming if each.address in asked.in_force]
    places += here[: missing - len(left)]
    # One that is asked for no more, and may be again, loses its place first as well.
    if (able or left or not asked.count) and set(places) != set(asked.in_force):
        yield Place(name, tuple(places))
    kept = {each.number for each in (*able, *left, *coming)}
    yield from _stops(asked, [each for each in (*fresh, *stale) if each.number not in kept])
    if not is_held:
        yield from _starts(name, asked, room, used)


def _seated(
    asked: Wanted, fresh: Sequence[Process], stale: Sequence[Process]
) -> tuple[list[Process], list[Process], list[Process]]:
    """Who serves, of the version that is `asked` for; who of an older one, in as many places as
    the new one cannot fill yet; and who is starting to fill them."""
    by_place = {address: place for place, address in enumerate(asked.in_force)}

    def order(each: Process) -> tuple[bool, int]:
        is_out = each.state != "ready" or each.address in asked.out
        return is_out, by_place.get(each.address, len(by_place))

    able = sorted((each for each in fresh if each.served), key=order)[: asked.count]
    missing = asked.count - len(able)
    left = sorted((e for e in stale if e.served and e.address in by_place), key=order)
    coming = [each for each in fresh if not each.served and each.state == "starting"]
    coming.sort(key=lambda each: each.address not in by_place)
    return able, left[:missing], coming[:missing]


def _stops(asked: Wanted, others: Iterable[Process]) -> Iterator[Stop]:
    """Which of `others`, who have no place and get none, end now."""
    for each in others:
        # Of what is asked for no more nothing is remembered, and whoever asks next has it tried.
        is_record = each.state == "failed" and each.version == asked.version and asked.count > 0
        may_go = not each.served or each.address not in asked.in_force
        if may_go and not is_record:
            yield Stop(each.number)


def _starts(name: str, asked: Wanted, count: int, used: set[str]) -> Iterator[Start]:
    pins = [address for address in asked.pins if address not in used]
    known = [address for address in asked.in_force if address not in (*used, *pins)]
    for number in range(count):
        if number < len(pins):
            used.add(pins[number])
            yield Start(name, (pins[number],), pinned=True)
        else:
            yield Start(name, tuple(known[number - len(pins) :][:1]))


def version_of(serve: Spec) -> str:
    """Equal for processes that may stand for one another: whatever was asked for is the same."""
    return json.dumps({k: v for k, v in serve.items() if k not in LIVE}, sort_keys=True)


def wanted(spec: Spec) -> Wanted | None:
    """What the backend that `spec` describes asks for; None where nothing is started for it."""
    serve = spec.get("serve")
    if not serve:
        return None
    pins = addresses(spec.get("instances") or ())
    out = frozenset(spec.get("states") or ())
    return Wanted(version_of(serve), count_of(spec), pins, addresses(in_force(spec)), out)


def on_demand(spec: Spec) -> bool:
    """Whether the first request starts it."""
    return bool(spec.get("serve")) and spec["serve"].get("start") == "demand"


def is_fleets(spec: Spec) -> bool:
    """Whether its addresses are the fleet's, which tells them beside the document."""
    return any(parse_instance(url).fleet for url in in_force(spec))


def count_of(spec: Spec) -> int:
    """How many processes a backend with `serve` asks for."""
    serve = spec["serve"]
    replicas = serve.get("replicas", (serve.get("scale") or {}).get("min"))
    return int(replicas) if replicas is not None else max(1, len(spec.get("instances") or ()))


def not_to_scale(before: Spec | None, spec: Spec) -> str:
    """Why the count that an edit of `before` asks for would be undone at once, as `spec` is scaled
    by its load; "" where it would last, or is none of this edit: that of an entry whose `scale`
    is narrower now follows by itself."""
    serve = spec.get("serve") or {}
    scale, count = serve.get("scale"), serve.get("replicas")
    if (
        scale is None
        or count is None
        or count == ((before or {}).get("serve") or {}).get("replicas")
    ):
        return ""
    least, most = scale.get("min", 1), scale["max"]
    if least <= count <= most:
        return ""
    return f"is scaled by its load, from {least} to {most} replicas: {count} would not last"


def addresses(urls: Iterable[str]) -> tuple[str, ...]:
    """The addresses that `urls` name; those of a fleet are not in them."""
    instances = map(parse_instance, urls)
    return tuple(each.address for each in instances if not each.fleet)


def in_force(spec: Spec) -> Sequence[str]:
    """The URLs of those that get requests."""
    urls: Sequence[str] = spec.get("placed") or spec.get("instances") or ()
    return urls


def placed_at(spec: Spec, urls: Sequence[str]) -> dict[str, Any]:
    """`spec` with its requests going to `urls`; states of other addresses are gone."""
    bare = {key: value for key, value in spec.items() if key not in ("placed", "states")}
    if set(urls) != set(bare.get("instances") or ()):
        bare["placed"] = list(urls)
    here = addresses(in_force(bare))
    states = {at: state for at, state in (spec.get("states") or {}).items() if at in here}
    return {**bare, "states": states} if states else bare


def place(
    document: Document, backend: str, version: str, urls: Sequence[str], *, keep: bool = False
) -> Document:
    """`document` with `backend` at `urls`, and with `keep` where it is as well; Conflict where
    another version is asked for by now."""
    spec = entry_of(document, "backends", backend)
    if not spec.get("serve") or version_of(spec["serve"]) != version:
        raise Conflict(f"backend {backend!r} asks for another version by now")
    if keep:
        urls = list(dict.fromkeys([*in_force(spec), *urls]))
    moved = placed_at(spec, urls)
    return document if moved == spec else put(document, "backends", backend, moved)


def set_replicas(document: Document, backend: str, count: int) -> Document:
    """`document` with so many replicas of `backend`; Conflict where nothing is started for it."""
    spec = entry_of(document, "backends", backend)
    if not spec.get("serve"):
        raise Conflict(f"backend {backend!r} is not served any more")
    serve = {**spec["serve"], "replicas": count}
    return put(document, "backends", backend, {**spec, "serve": serve})


def with_places(document: Document, placed: Mapping[str, Sequence[str]]) -> Document:
    """`document` with each backend where `placed` says its processes were started, all anew."""
    for name, spec in (document.get("backends") or {}).items():
        urls = _places(name, spec, placed.get(name))
        new = placed_at(spec, urls) if urls else _bare(spec)
        if new != spec:
            document = put(document, "backends", name, new)
    return document


def _places(name: str, spec: Spec, urls: Sequence[str] | None) -> Sequence[str] | None:
    """Where `spec` gets its requests, with its processes at `urls`: those of a model that comes and
    goes, and of one that a fleet has, are told beside the document, for none of its moves is an
    edit."""
    told = (*(spec.get("instances") or ()), *(urls or ()))
    is_written = any(str(url).startswith(FLEET) for url in told)
    if on_demand(spec) or (is_written and spec.get("serve")):
        return [f"{FLEET}{name}"]
    return urls if spec.get("serve") else None


def held(before: Document, after: Document) -> Document:
    """`after` with each backend that is served before and after still where it is: whatever an edit
    says of versions, counts and addresses, processes come first and the table follows them."""
    return _with_backends(before, after, _held)


def _held(name: str, before: Spec | None, after: Spec) -> Spec:
    was = in_force(before) if before is not None and before.get("serve") else None
    urls = _places(name, after, was)
    return placed_at(after, urls) if urls else _bare(after)


def unplaced(before: Document, after: Document) -> Document:
    """`after` without a word of where processes are, for who starts none; a fleet that others share
    has what it has."""
    return _with_backends(before, after, lambda _name, _before, spec: _bare(spec))


def _bare(spec: Spec) -> Spec:
    is_others = not spec.get("instances") and is_fleets(spec)
    if "placed" not in spec or (is_others and spec.get("serve")):
        return spec
    return placed_at(spec, spec.get("instances") or ())


def _with_backends(before: Document, after: Document, made: Any) -> Document:
    old, document = before.get("backends") or {}, after
    for name, spec in Delta.between(before, after).put.get("backends", {}).items():
        new = made(name, old.get(name), spec)
        if new != spec:
            document = put(document, "backends", name, new)
    return document


def outlook(before: Document, after: Document) -> dict[str, str]:
    """Backend → what will be done about its processes, in words, for who asks for `after`."""
    old, new = before.get("backends") or {}, after.get("backends") or {}
    told = {}
    for name in Delta.between(before, after).touched("backends"):
        words = _outlook(_wanted(old.get(name)), _wanted(new.get(name)))
        if words and on_demand(new.get(name) or {}):
            words = f"{words}; while it is not loaded, the next request starts it"
        if words:
            told[name] = words
    return told


def _wanted(spec: Spec | None) -> Wanted | None:
    return wanted(spec) if spec else None


def _outlook(old: Wanted | None, new: Wanted | None) -> str:
    if new is None:
        return "its instances finish what they have and stop" if old is not None else ""
    if old is None:
        return f"{_instances(new.count)} of it will be started"
    if old.version != new.version:
        return (
            f"{_instances(new.count)} of the new version will be started; each takes over when it"
            " is ready, and the old ones answer until then"
        )
    if old.count != new.count:
        more = new.count - old.count
        return f"{_instances(abs(more))} will be {'started' if more > 0 else 'stopped'}"
    if old.pins != new.pins and not set(new.pins) <= set(new.in_force):
        return "each instance that runs keeps its address until `headgate up` starts again"
    return ""


def _instances(count: int) -> str:
    return f"{count} instance{'' if count == 1 else 's'}"
