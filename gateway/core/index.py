"""The index of the route table: a match is a look-up in it, and an edit costs what it changes.

A tree of dictionaries: path, host, header names and their values, JSON field names and their
values. An index is never changed: `Building` copies what it touches, once, and shares the
rest, so that the next index costs the width of what an edit touches and not the table. How a
request finds its way through it is `matching`.
"""

from bisect import insort
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeVar

from gateway.core.entries import Match, Route
from gateway.core.targets import normalise_host

Json = Any
T = TypeVar("T")


class Entry(NamedTuple):
    """What of one route matters here, and where it stands in the declaration; no methods: all."""

    order: int
    route: str
    methods: frozenset[str]
    match: Match
    rewrite: str | None
    max_body: int


@dataclass(slots=True)
class Fields:
    """Routes with the same JSON field names, by the values they ask for."""

    names: tuple[str, ...]
    entries: dict[tuple[Any, ...], list[Entry]] = field(default_factory=dict)

    def copy(self) -> "Fields":
        return Fields(self.names, self.entries)


@dataclass(slots=True)
class Headers:
    """Routes with the same header names, by values, then by JSON fields (most first)."""

    names: tuple[str, ...]
    fields: dict[tuple[str | None, ...], list[Fields]] = field(default_factory=dict)

    def copy(self) -> "Headers":
        return Headers(self.names, self.fields)


@dataclass(slots=True)
class Node:
    """Everything declared for one path: by exact host, by wildcard, for any host. Where there is
    one route only, and without conditions, it is `sole` and nothing else is there."""

    hosts: dict[str, list[Headers]]
    wildcards: dict[str, list[Headers]]
    anywhere: list[Headers]
    sole: Entry | None = None

    def copy(self) -> "Node":
        return Node(self.hosts, self.wildcards, self.anywhere, self.sole)


class Index(NamedTuple):
    """Nodes by exact path and by prefix, the length of the longest prefix, entries by route."""

    exact: dict[str, Node]
    prefixes: dict[str, Node]
    longest: int
    entries: Mapping[str, Entry]
    next_order: int


EMPTY_INDEX: Final = Index({}, {}, 0, {}, 0)


_NO_HOSTS: dict[str, list[Headers]] = {}  # never changed: what is not ours is copied first
_NO_GROUPS: list[Headers] = []


class Building:
    """The way from one index to the next; `done` gives it. It may be left and gone on with."""

    def __init__(self, index: Index) -> None:
        self._exact, self._prefixes = dict(index.exact), dict(index.prefixes)
        self._entries = dict(index.entries)
        self._longest, self._next = index.longest, index.next_order
        self._mine: dict[int, Any] = {}  # what was made here and may be changed here
        self._touched: dict[tuple[bool, str], Node] = {}
        self.is_different = False

    def put(self, route: Route) -> None:
        """Takes in a route, new or in the place of one of the same name."""
        before = self._entries.get(route.name)
        order = self._next if before is None else before.order
        match = route.match
        methods = frozenset(match.methods)
        entry = Entry(order, route.name, methods, match, route.rewrite, route.max_body)
        if entry == before:
            return
        if before is not None:
            self.remove(route.name)
        self.is_different = True
        self._next = max(self._next, order + 1)
        self._entries[route.name] = entry
        nodes, path = self._place(match)
        if not match.exact and len(path) > self._longest:
            self._longest = len(path)
        if path not in nodes and not (match.hosts or match.headers or match.json):
            nodes[path] = Node(_NO_HOSTS, _NO_HOSTS, _NO_GROUPS, entry)
            return
        node = self._node(match)
        if node.sole is not None:
            sole, node.sole = node.sole, None
            for groups in self._groups(node, sole.match):
                self._insert(groups, sole)
        for groups in self._groups(node, match):
            self._insert(groups, entry)

    def remove(self, name: str) -> None:
        """Takes out the route of that name, if there is one."""
        entry = self._entries.pop(name, None)
        if entry is None:
            return
        self.is_different = True
        node = self._node(entry.match)
        if node.sole is not None:
            node.sole = None
            return
        for groups in self._groups(node, entry.match):
            self._take_out(groups, entry)
        for host in entry.match.hosts:  # what is empty goes
            named = node.wildcards if host.startswith("*.") else node.hosts
            key = normalise_host(host.removeprefix("*."))
            if key in named and not named[key]:
                del named[key]

    def done(self) -> Index:
        """The index, from now on never changed."""
        for (is_exact, path), node in self._touched.items():
            nodes = self._exact if is_exact else self._prefixes
            if nodes.get(path) is not node or node.sole is not None:
                continue
            if (sole := _sole(node)) is not None:
                nodes[path] = Node(_NO_HOSTS, _NO_HOSTS, _NO_GROUPS, sole)
            elif not (node.hosts or node.wildcards or node.anywhere):
                del nodes[path]
                if len(path) == self._longest and not is_exact:
                    self._longest = max(map(len, nodes), default=0)
        return Index(self._exact, self._prefixes, self._longest, self._entries, self._next)

    def _place(self, match: Match) -> tuple[dict[str, Node], str]:
        return (self._exact, match.path) if match.exact else (self._prefixes, prefix(match.path))

    def _own(self, value: Any) -> Any:
        """`value` if it was made here, else a copy that is."""
        if id(value) in self._mine:
            return value
        made = value.copy()
        self._mine[id(made)] = made
        return made

    def _node(self, match: Match) -> Node:
        """The node of the path that `match` names, to be changed here."""
        nodes, path = self._place(match)
        node: Node = self._own(nodes.get(path) or Node(_NO_HOSTS, _NO_HOSTS, _NO_GROUPS))
        nodes[path] = self._touched[match.exact, path] = node
        return node

    def _groups(self, node: Node, match: Match) -> Iterator[list[Headers]]:
        """The groups that a route with `match` belongs to: one per host, or those of any host."""
        if not match.hosts:
            node.anywhere = self._own(node.anywhere)
            yield node.anywhere
        for host in dict.fromkeys(match.hosts):
            key = normalise_host(host.removeprefix("*."))
            if host.startswith("*."):
                node.wildcards = self._own(node.wildcards)
                yield self._child(node.wildcards, key)
            else:
                node.hosts = self._own(node.hosts)
                yield self._child(node.hosts, key)

    def _child(self, parent: dict[Any, list[T]], key: Any) -> list[T]:
        child: list[T] = self._own(parent.get(key, []))
        parent[key] = child
        return child

    def _group(self, groups: list[Any], names: tuple[str, ...], kind: Callable[..., Any]) -> Any:
        for place, group in enumerate(groups):
            if group.names == names:
                groups[place] = mine = self._own(group)
                return mine
        made = self._own(kind(names))
        insort(groups, made, key=lambda each: -len(each.names))
        return made

    def _insert(self, groups: list[Headers], entry: Entry) -> None:
        (headers, values), (names, keys) = _conditions(entry.match)
        by_header = self._group(groups, headers, Headers)
        by_header.fields = self._own(by_header.fields)
        by_field = self._group(self._child(by_header.fields, values), names, Fields)
        by_field.entries = self._own(by_field.entries)
        insort(self._child(by_field.entries, keys), entry, key=lambda e: (not e.methods, e.order))

    def _take_out(self, groups: list[Headers], entry: Entry) -> None:
        (headers, values), (names, keys) = _conditions(entry.match)
        by_header = self._group(groups, headers, Headers)
        by_header.fields = self._own(by_header.fields)
        fields = self._child(by_header.fields, values)
        by_field = self._group(fields, names, Fields)
        by_field.entries = self._own(by_field.entries)
        left = [each for each in by_field.entries[keys] if each.route != entry.route]
        if left:
            by_field.entries[keys] = left
            return
        # What is empty goes, from the inside out.
        del by_field.entries[keys]
        if not by_field.entries:
            fields.remove(by_field)
        if not fields:
            del by_header.fields[values]
        if not by_header.fields:
            groups.remove(by_header)


def prefix(path: str) -> str:
    """How the prefix `path` is written in the index."""
    return path[:-1] if path.endswith("/") else path


def json_key(value: Json) -> tuple[str, Any] | None:
    """Equal for equal JSON scalars and different across types (`true` is not `1`); None for
    arrays and objects, which no condition can ask for."""
    if isinstance(value, bool):
        return ("boolean", value)
    if isinstance(value, int | float):
        return ("number", value)
    if isinstance(value, str):
        return ("string", value)
    return ("null", None) if value is None else None


_Condition = tuple[tuple[str, ...], tuple[Any, ...]]


def _conditions(match: Match) -> tuple[_Condition, _Condition]:
    """Names and values of the headers, and of the JSON fields, that `match` asks for."""
    if not match.headers and not match.json:
        return ((), ()), ((), ())
    headers = sorted((name.lower(), value) for name, value in match.headers)
    fields = sorted((name, json_key(value)) for name, value in match.json)
    return _split(headers), _split(fields)


def _split(pairs: list[tuple[str, Any]]) -> _Condition:
    return tuple(name for name, _ in pairs), tuple(value for _, value in pairs)


def _sole(node: Node) -> Entry | None:
    if node.hosts or node.wildcards or len(node.anywhere) != 1:
        return None
    group = node.anywhere[0]
    if group.names or len(group.fields[()]) != 1 or group.fields[()][0].names:
        return None
    entries = group.fields[()][0].entries[()]
    return entries[0] if len(entries) == 1 else None
