"""Which headers does a route set, add and remove on the way, in either direction?

What frames a message, belongs to one connection, or is the gateway's own to say is no rule's: a
wrong length is another request, and a forged consumer somebody else.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.core.header_fields import is_header_value, is_token

_FRAMING: Final = frozenset({"content-length", "transfer-encoding", "trailer"})
_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "upgrade", "proxy-authenticate",
     "proxy-authorization", "proxy-authentication-info", "http2-settings", "expect"}
)  # fmt: skip
_OWN: Final = frozenset(
    {"host", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-request-id",
     "traceparent", "x-request-timeout", "endpoint-load-metrics"}
)  # fmt: skip


def name_fault(name: str) -> str | None:
    """Why no rule may speak of the header `name`; None if one may."""
    plain = name.lower().replace("_", "-")
    if plain in _FRAMING:
        return f"{name} frames the message, and is no rule's to change"
    if plain in _HOP:
        return f"{name} belongs to one connection (hop-by-hop), and is no rule's to change"
    if plain in _OWN or plain.startswith("x-headgate-"):
        return f"{name} is the gateway's own to say"
    return None


@dataclass(frozen=True, slots=True)
class Rules:
    """`set` replaces what there is of a name, `add` adds a line to it, `remove` takes it away."""

    set: tuple[tuple[str, str], ...] = ()
    add: tuple[tuple[str, str], ...] = ()
    remove: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        written = self.set + self.add
        names = self.remove + tuple(name for name, _ in written)
        for name in names:
            fault = name_fault(name) if is_token(name) else f"{name!r} is no header's name"
            if fault is not None:
                raise ValueError(f"headers: {fault}")
        for name, value in written:
            if not is_header_value(value):
                raise ValueError(f"headers: the value of {name} is no text of one line")
        twice = repeated((name for name, _ in self.set), self.remove)
        if twice is not None:
            raise ValueError(f"headers: {twice} stands there twice")


def repeated(set_names: Iterable[str], removed: Iterable[str]) -> str | None:
    """A name that is set or removed more than once, in whatever capitals; None if there is none."""
    seen: dict[str, None] = {}
    names = [*set_names, *removed]
    for name in names:
        if name.lower() in seen:
            return name
        seen[name.lower()] = None
    return None


NO_RULES: Final = Rules()


@dataclass(frozen=True, slots=True)
class HeaderRules:
    """What is done to the headers of requests to instances, and of answers to clients."""

    request: Rules = NO_RULES
    response: Rules = NO_RULES


def read_header_rules(spec: Mapping[str, Any]) -> HeaderRules:
    """What `spec` says; ValueError or TypeError if it cannot be."""
    return HeaderRules(**{side: _rules(said) for side, said in spec.items()})


def _rules(spec: Mapping[str, Any]) -> Rules:
    said: dict[str, Any] = {
        key: tuple(value.items()) if isinstance(value, Mapping) else tuple(value)
        for key, value in spec.items()
    }
    return Rules(**said)


class HeaderEdit:
    """Rules, prepared for header lines."""

    __slots__ = ("_gone", "_lines")

    def __init__(self, rules: Rules) -> None:
        names = {name.lower().encode() for name, _ in rules.set}
        self._gone = frozenset(names | {name.lower().encode() for name in rules.remove})
        said = rules.set + rules.add
        self._lines = [f"{name}: {value}".encode() for name, value in said]

    @classmethod
    def of(cls, rules: Rules) -> "HeaderEdit | None":
        """The edit that `rules` ask for; None if they ask for none."""
        return cls(rules) if rules != NO_RULES else None

    def apply(self, lines: list[bytes]) -> list[bytes]:
        """The header `lines` as the rules have them."""
        gone = self._gone
        if not gone:
            return [*lines, *self._lines]
        return [*self.less(lines), *self._lines]

    def less(self, lines: list[bytes]) -> list[bytes]:
        """`lines` without those that are removed or replaced."""
        gone = self._gone
        return [line for line in lines if line.partition(b":")[0].lower() not in gone]

    def beside(self, lines: list[bytes]) -> list[bytes]:
        """The lines that are added to `lines`, an answer of the gateway's own, which says nothing
        but what it has to."""
        own = {line.partition(b":")[0].lower() for line in lines}
        return [line for line in self._lines if line.partition(b":")[0].lower() not in own]
