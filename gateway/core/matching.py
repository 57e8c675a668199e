"""Which route does a request ask for, and which path is forwarded?

Order of the contract: an exact path before prefixes, the longest prefix of whole segments
first, then the more specific host, then more headers, then more JSON fields, then routes
that name methods, then the order of declaration. Routes are looked up in an index (`index`), so
that a match costs a look-up per path segment and 1,000 routes cost what one does.

Paths are compared as they will be forwarded: nothing is decoded, folded or normalised here.
Whether a target is fit to be forwarded at all is asked in `targets`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, Final, NamedTuple

from gateway.core.entries import Match
from gateway.core.index import (
    EMPTY_INDEX,
    Building,
    Entry,
    Fields,
    Headers,
    Index,
    Node,
    json_key,
    prefix,
)
from gateway.core.table import Route

Json = Any
Header = Callable[[str], str | None]


class Unread(Enum):
    """The body was not read yet; `UNREAD` is its only value."""

    UNREAD = "unread"


UNREAD: Final = Unread.UNREAD


class Found:
    """The name of the route, and the target (path and query) to ask its instances for."""

    __slots__ = ("forwarded_path", "route")

    def __init__(self, route: str, forwarded_path: str) -> None:
        self.route = route
        self.forwarded_path = forwarded_path

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Found)
            and self.route == other.route
            and self.forwarded_path == other.forwarded_path
        )

    def __hash__(self) -> int:
        return hash((self.route, self.forwarded_path))


class NeedsBody(NamedTuple):
    """Ask again with the top-level `fields` of the JSON body, read up to `max_body` bytes."""

    max_body: int
    fields: frozenset[str]


class WrongMethod(NamedTuple):
    """Routes match but for the method; `allow` names theirs, sorted."""

    allow: tuple[str, ...]


class NotFound(NamedTuple):
    """No route matches."""


NOT_FOUND: Final = NotFound()
Matched = Found | NeedsBody | WrongMethod | NotFound


class _Walk:
    """One request on its way through the nodes, and what it learned for a refusal."""

    __slots__ = ("allow", "body", "header", "max_body", "method")

    def __init__(self, method: str, header: Header, body: Json | Unread) -> None:
        self.method = method
        self.header = header
        self.body = body
        self.allow: set[str] = set()
        self.max_body = -1


class Matcher:
    """Finds the route of a request in an index that is never changed."""

    __slots__ = ("_exact", "_longest", "_prefixes", "index")

    def __init__(self, index: Index) -> None:
        self.index = index
        # Of its own, for each request looks here: what a named tuple has is found by name.
        self._exact, self._prefixes, self._longest = index.exact, index.prefixes, index.longest

    @classmethod
    def of(cls, routes: Iterable[Route]) -> "Matcher":
        """The matcher of `routes`, in their order of declaration."""
        building = Building(EMPTY_INDEX)
        for route in routes:
            building.put(route)
        return cls(building.done())

    def edited(self, names: Iterable[str], routes: Mapping[str, Route]) -> "Matcher":
        """The matcher of `routes`, which differ from this one's in `names` only, and new ones come
        last; this one if nothing that it looks at is different."""
        building = Building(self.index)
        for name in names:
            if name in routes:
                building.put(routes[name])
            else:
                building.remove(name)
        return Matcher(building.done()) if building.is_different else self

    def match(
        self, method: str, host: str, path: str, header: Header, body: Json | Unread = UNREAD
    ) -> Matched:
        """The route for a request, or why there is none.

        `host` is normalised (`normalise_host`; "" when there is none). `path` is the target
        in origin form; its query takes no part and is kept. `header` is asked with lower-case
        names. `body` is a mapping with the fields of the JSON that a route asked for, UNREAD
        until one did, and anything that is no mapping (such as None) when it was no JSON object.
        """
        bare, mark, query = path.partition("?")
        walk: _Walk | None = None
        node, end = self._exact.get(bare), self._end(bare)
        while node is not None or end >= 0:
            if node is None:
                node, end = self._prefixes.get(bare[:end]), bare.rfind("/", 0, end)
                continue
            entry = node.sole
            if entry is None:
                walk = walk or _Walk(method, header, body)
                entry = _search(node, host, walk)
                if walk.max_body >= 0:
                    return NeedsBody(walk.max_body, self._fields(bare, host, header))
            elif entry.methods and method not in entry.methods:
                walk = walk or _Walk(method, header, body)
                walk.allow |= entry.methods
                entry = None
            if entry is not None:
                if entry.rewrite is None:
                    return Found(entry.route, path)
                return Found(
                    entry.route, rewritten(entry.match, entry.rewrite, bare) + mark + query
                )
            node = None
        if walk is not None and walk.allow:
            return WrongMethod(tuple(sorted(walk.allow)))
        return NOT_FOUND

    def _fields(self, path: str, host: str, header: Header) -> frozenset[str]:
        """The JSON fields that any route which may still match asks for."""
        return frozenset(
            name
            for node in self._nodes(path)
            for groups in _hosts(node, host)
            for group in groups
            for fields in group.fields.get(tuple(map(header, group.names)), ())
            for name in fields.names
        )

    def candidates(self, host: str, path: str, header: Header) -> Iterator[str]:
        """The routes that a request may mean whatever its method and body are, the most specific
        first; arguments as in `match`."""
        for node in self._nodes(path.partition("?")[0]):
            if node.sole is not None:
                yield node.sole.route
            for groups in _hosts(node, host):
                for group in groups:
                    for fields in group.fields.get(tuple(map(header, group.names)), ()):
                        for entries in fields.entries.values():
                            yield from (entry.route for entry in entries)

    def whatever_else(self, method: str, host: str, path: str) -> Iterator[str]:
        """The routes that a request may mean by method, host and path, whatever headers and body
        it has, the most specific first; for a preflight, which has not those of its request."""
        for node in self._nodes(path.partition("?")[0]):
            for entry in _entries(node, host):
                if not entry.methods or method in entry.methods:
                    yield entry.route
                    if not entry.match.headers and not entry.match.json:
                        return  # takes all that none before it does

    def _end(self, path: str) -> int:
        """Where the longest prefix of `path` ends that a route may have, -1 for nowhere: a target
        of thousands of slashes costs no more than the table's own depth."""
        if not path.startswith("/"):
            return -1
        longest = self._longest
        return len(path) if len(path) <= longest else path.rfind("/", 0, longest + 1)

    def _nodes(self, path: str) -> Iterator[Node]:
        """The nodes that `path` may match: its own, then its prefixes from the longest."""
        node = self._exact.get(path)
        if node is not None:
            yield node
        end = self._end(path)
        while end >= 0:
            node = self._prefixes.get(path[:end])
            if node is not None:
                yield node
            end = path.rfind("/", 0, end)


def _search(node: Node, host: str, walk: _Walk) -> Entry | None:
    """The best entry of `node`; `walk` is told of methods to allow and of a body to read."""
    if host and (groups := node.hosts.get(host)):
        entry = _among(groups, walk)
        if entry is not None or walk.max_body >= 0:
            return entry
    if not node.wildcards:
        return _among(node.anywhere, walk)
    for groups in _wider(node, host):
        entry = _among(groups, walk)
        if entry is not None or walk.max_body >= 0:
            return entry
    return None


def _hosts(node: Node, host: str) -> Iterator[list[Headers]]:
    """What is declared for `host` at `node`, the most specific first."""
    if host and (groups := node.hosts.get(host)):
        yield groups
    yield from _wider(node, host)


def _entries(node: Node, host: str) -> Iterator[Entry]:
    """All of `node` for `host`, those with the most conditions first."""
    if node.sole is not None:
        yield node.sole
    for groups in _hosts(node, host):
        for group in groups:
            fields = [each for found in group.fields.values() for each in found]
            for each in sorted(fields, key=lambda each: -len(each.names)):
                for entries in each.entries.values():
                    yield from entries


def _wider(node: Node, host: str) -> Iterator[list[Headers]]:
    """The same of wildcards, from the longest, and of any host."""
    if node.wildcards:
        dot = host.find(".")
        while dot >= 0:
            if groups := node.wildcards.get(host[dot + 1 :]):
                yield groups
            dot = host.find(".", dot + 1)
    yield node.anywhere


def _among(groups: list[Headers], walk: _Walk) -> Entry | None:
    """The best entry of one host: most headers, then most fields, then as declared."""
    if len(groups) == 1:  # as most are: there is nothing to rank
        (group,) = groups
        found = group.fields.get(tuple(map(walk.header, group.names)) if group.names else ())
        if found is None:
            return None
        if len(found) == 1:
            return _entry(found[0], walk)
    best: tuple[int, int, bool, int] | None = None
    winner: Entry | None = None
    for group in groups:
        if best is not None and -len(group.names) > best[0]:
            break
        values = tuple(map(walk.header, group.names))
        for fields in group.fields.get(values, ()):
            rank = (-len(group.names), -len(fields.names))
            if best is not None and rank > best[:2]:
                break
            entry = _entry(fields, walk)
            if walk.max_body >= 0:
                return None
            if entry is not None:
                whole = (*rank, not entry.methods, entry.order)
                if best is None or whole < best:
                    best, winner = whole, entry
    return winner


def _entry(fields: Fields, walk: _Walk) -> Entry | None:
    """The first entry that takes the body and the method."""
    if not fields.names:
        return _by_method(fields.entries[()], walk)
    body = walk.body
    if body is UNREAD:
        wanted = [
            entry.max_body
            for entries in fields.entries.values()
            if (entry := _by_method(entries, walk)) is not None
        ]
        if wanted:
            walk.max_body = max(wanted)
        return None
    if not isinstance(body, dict):
        return None
    key = tuple(json_key(body[name]) if name in body else None for name in fields.names)
    return _by_method(fields.entries.get(key, ()), walk)


def _by_method(entries: Iterable[Entry], walk: _Walk) -> Entry | None:
    for entry in entries:
        if not entry.methods or walk.method in entry.methods:
            return entry
        walk.allow |= entry.methods
    return None


def rewritten(match: Match, rewrite: str, path: str) -> str:
    """`path` with what `match` matched of it replaced by `rewrite`."""
    rewrite = rewrite or "/"
    if match.exact:
        return rewrite
    rest = path[len(prefix(match.path)) :]
    return (rewrite.removesuffix("/") + rest) if rest else rewrite
