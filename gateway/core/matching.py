"""Which route does a request ask for, and which path is forwarded?

Order of the contract: an exact path before prefixes, the longest prefix of whole segments
first, then the more specific host, then more headers, then more JSON fields, then routes
that name methods, then the order of declaration. The table is indexed at construction, so
that a match costs a look-up per path segment and 1,000 routes cost what one does.

Paths are compared as they will be forwarded: nothing is decoded, folded or normalised here.
Whether a target is fit to be forwarded at all is asked in `targets`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, NamedTuple

from gateway.core.table import Route
from gateway.core.targets import normalise_host

Json = Any
Header = Callable[[str], str | None]


class Unread(Enum):
    """The body was not read yet; `UNREAD` is its only value."""

    UNREAD = "unread"


UNREAD: Final = Unread.UNREAD


class Found(NamedTuple):
    """The route, and the target (path and query) to ask its instances for."""

    route: Route
    forwarded_path: str


class NeedsBody(NamedTuple):
    """Ask again with the parsed JSON body, read up to `max_body` bytes."""

    max_body: int


class WrongMethod(NamedTuple):
    """Routes match but for the method; `allow` names theirs, sorted."""

    allow: tuple[str, ...]


class NotFound(NamedTuple):
    """No route matches."""


NOT_FOUND: Final = NotFound()
Matched = Found | NeedsBody | WrongMethod | NotFound


class _Entry(NamedTuple):
    """One route, where it stands in the declaration, and its methods; none means all."""

    order: int
    route: Route
    methods: frozenset[str]


@dataclass(slots=True)
class _Fields:
    """Routes with the same JSON field names, by the values they ask for."""

    names: tuple[str, ...]
    entries: dict[tuple[Any, ...], list[_Entry]] = field(default_factory=dict)


@dataclass(slots=True)
class _Headers:
    """Routes with the same header names, by values, then by JSON fields (most first)."""

    names: tuple[str, ...]
    fields: dict[tuple[str | None, ...], list[_Fields]] = field(default_factory=dict)


@dataclass(slots=True)
class _Node:
    """Everything declared for one path: by exact host, by wildcard, for any host."""

    hosts: dict[str, list[_Headers]] = field(default_factory=dict)
    wildcards: dict[str, list[_Headers]] = field(default_factory=dict)
    anywhere: list[_Headers] = field(default_factory=list)
    sole: _Entry | None = None


class _Walk:
    """One request on its way through the nodes, and what it learned for a refusal."""

    __slots__ = ("allow", "body", "header", "max_body", "method")

    def __init__(self, method: str, header: Header, body: Json | Unread) -> None:
        self.method = method
        self.header = header
        self.body = body
        self.allow: set[str] = set()
        self.max_body = -1


@dataclass(frozen=True, slots=True)
class Matcher:
    """An immutable index over routes. `of` makes one."""

    _exact: Mapping[str, _Node]
    _prefixes: Mapping[str, _Node]
    _longest: int

    @classmethod
    def of(cls, routes: Iterable[Route]) -> "Matcher":
        """The index of `routes`, in their order of declaration."""
        exact: dict[str, _Node] = {}
        prefixes: dict[str, _Node] = {}
        for order, route in enumerate(routes):
            match = route.match
            if match.exact:
                node = exact.setdefault(match.path, _Node())
            else:
                node = prefixes.setdefault(_prefix(match.path), _Node())
            _declare(node, _Entry(order, route, frozenset(match.methods)))
        for node in (*exact.values(), *prefixes.values()):
            _seal(node)
        return cls(exact, prefixes, max(map(len, prefixes), default=0))

    def match(
        self, method: str, host: str, path: str, header: Header, body: Json | Unread = UNREAD
    ) -> Matched:
        """The route for a request, or why there is none.

        `host` is normalised (`normalise_host`; "" when there is none). `path` is the target
        in origin form; its query takes no part and is kept. `header` is asked with lower-case
        names. `body` is the parsed JSON, UNREAD until a route asked for it, and anything
        that is no object (such as None) when it was not JSON.
        """
        bare, mark, query = path.partition("?")
        walk: _Walk | None = None
        for node in self._nodes(bare):
            entry = node.sole
            if entry is None or (entry.methods and method not in entry.methods):
                walk = walk or _Walk(method, header, body)
                entry = _search(node, host, walk)
                if walk.max_body >= 0:
                    return NeedsBody(walk.max_body)
            if entry is not None:
                if entry.route.rewrite is None:
                    return Found(entry.route, path)
                return Found(entry.route, _rewritten(entry.route, bare) + mark + query)
        if walk is not None and walk.allow:
            return WrongMethod(tuple(sorted(walk.allow)))
        return NOT_FOUND

    def _nodes(self, path: str) -> Iterator[_Node]:
        """The nodes that `path` may match: its own, then its prefixes from the longest.

        Starts no further out than the longest prefix that any route has, so that a target
        of thousands of slashes costs no more than the table's own depth.
        """
        if not path.startswith("/"):
            return
        node = self._exact.get(path)
        if node is not None:
            yield node
        end = len(path)
        if end > self._longest:
            end = path.rfind("/", 0, self._longest + 1)
        while end >= 0:
            node = self._prefixes.get(path[:end])
            if node is not None:
                yield node
            end = path.rfind("/", 0, end)


def _prefix(path: str) -> str:
    return path[:-1] if path.endswith("/") else path


def _declare(node: _Node, entry: _Entry) -> None:
    match = entry.route.match
    headers = tuple(sorted((name.lower(), value) for name, value in match.headers))
    fields = tuple(sorted((name, _json_key(value)) for name, value in match.json))
    for groups in _host_groups(node, match.hosts):
        by_header = _group(groups, tuple(name for name, _ in headers), _Headers)
        values = tuple(value for _, value in headers)
        by_field = _group(
            by_header.fields.setdefault(values, []), tuple(name for name, _ in fields), _Fields
        )
        by_field.entries.setdefault(tuple(key for _, key in fields), []).append(entry)


def _host_groups(node: _Node, hosts: tuple[str, ...]) -> list[list[_Headers]]:
    if not hosts:
        return [node.anywhere]
    groups = []
    for host in dict.fromkeys(hosts):
        if host.startswith("*."):
            suffix = normalise_host(host[2:])
            groups.append(node.wildcards.setdefault(suffix, []))
        else:
            groups.append(node.hosts.setdefault(normalise_host(host), []))
    return groups


def _group(groups: list[Any], names: tuple[str, ...], kind: Any) -> Any:
    for group in groups:
        if group.names == names:
            return group
    group = kind(names)
    groups.append(group)
    return group


def _seal(node: _Node) -> None:
    """Puts every list into its final order, and finds the node that needs no search."""
    for groups in (*node.hosts.values(), *node.wildcards.values(), node.anywhere):
        groups.sort(key=lambda group: -len(group.names))
        for group in groups:
            for fields in group.fields.values():
                fields.sort(key=lambda each: -len(each.names))
                for each in fields:
                    for entries in each.entries.values():
                        entries.sort(key=lambda entry: (not entry.methods, entry.order))
    if not node.hosts and not node.wildcards and len(node.anywhere) == 1:
        sole = _unconditional(node.anywhere[0])
        if sole is not None and len(sole) == 1:
            node.sole = sole[0]


def _unconditional(group: _Headers) -> list[_Entry] | None:
    if group.names or len(group.fields[()]) != 1 or group.fields[()][0].names:
        return None
    return group.fields[()][0].entries[()]


def _search(node: _Node, host: str, walk: _Walk) -> _Entry | None:
    """The best entry of `node`; `walk` is told of methods to allow and of a body to read."""
    if host:
        groups = node.hosts.get(host)
        if groups:
            entry = _among(groups, walk)
            if entry is not None or walk.max_body >= 0:
                return entry
        if node.wildcards:
            dot = host.find(".")
            while dot >= 0:
                groups = node.wildcards.get(host[dot + 1 :])
                if groups:
                    entry = _among(groups, walk)
                    if entry is not None or walk.max_body >= 0:
                        return entry
                dot = host.find(".", dot + 1)
    return _among(node.anywhere, walk)


def _among(groups: list[_Headers], walk: _Walk) -> _Entry | None:
    """The best entry of one host: most headers, then most fields, then as declared."""
    best: tuple[int, int, bool, int] | None = None
    winner: _Entry | None = None
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


def _entry(fields: _Fields, walk: _Walk) -> _Entry | None:
    """The first entry that takes the body and the method."""
    if not fields.names:
        return _by_method(fields.entries[()], walk)
    body = walk.body
    if body is UNREAD:
        wanted = [
            entry.route.max_body
            for entries in fields.entries.values()
            if (entry := _by_method(entries, walk)) is not None
        ]
        if wanted:
            walk.max_body = max(wanted)
        return None
    if not isinstance(body, dict):
        return None
    key = tuple(_json_key(body[name]) if name in body else None for name in fields.names)
    return _by_method(fields.entries.get(key, ()), walk)


def _by_method(entries: Iterable[_Entry], walk: _Walk) -> _Entry | None:
    for entry in entries:
        if not entry.methods or walk.method in entry.methods:
            return entry
        walk.allow |= entry.methods
    return None


def _json_key(value: Json) -> tuple[str, Any] | None:
    """Equal for equal JSON scalars and different across types (`true` is not `1`); None for
    arrays and objects, which no condition can ask for."""
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, int | float):
        return ("number", value)
    if isinstance(value, str):
        return ("string", value)
    return ("null", None) if value is None else None


def _rewritten(route: Route, path: str) -> str:
    """`path` with what the route matched replaced by its `rewrite`."""
    rewrite = route.rewrite or "/"
    if route.match.exact:
        return rewrite
    rest = path[len(_prefix(route.match.path)) :]
    return (rewrite.removesuffix("/") + rest) if rest else rewrite
