"""The messages in which a table and the documents cross to a worker.

In small ones: a worker serves requests between two of them, so that none may take it long.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from gateway.core.deltas import SECTIONS, Delta
from gateway.core.table import EMPTY, Table
from gateway.wire.messages import Documents, Endpoints, HealthMessage, TableMessage

PART = 50  # entries and instances in one message: about two milliseconds of a worker
PIECE = 64 << 10  # characters of a document in one message


def whole_table(table: Table, endpoints: Endpoints) -> list[TableMessage]:
    """The messages of all of `table`."""
    messages = _parts(Delta.between(EMPTY.document, table.document), table.revision, None)
    messages[-1]["endpoints"] = endpoints
    return messages


def difference(before: Table, table: Table) -> list[TableMessage] | None:
    """The messages of what leads from `before` to `table`; None where the order of routes is
    another one, which takes the whole table."""
    delta = Delta.between(before.document, table.document)
    if delta.order.get("routes"):
        return None
    return _parts(delta, table.revision, before.revision)


def with_health(
    messages: Sequence[TableMessage],
    changed: Collection[str],
    health: Callable[[Collection[str]], Sequence[HealthMessage]],
) -> list[TableMessage]:
    """`messages`, each with what is known of the instances of those of its backends that
    `changed`."""
    told = list(messages)
    for part, message in enumerate(told):
        if names := [name for name in message["put"].get("backends", ()) if name in changed]:
            told[part] = {**message, "health": health(names)}
    return told


def _parts(delta: Delta, revision: int, base: int | None) -> list[TableMessage]:
    removed = {section: list(names) for section, names in delta.removed.items()}
    messages: list[TableMessage] = []
    for put in _groups(delta) or [{}]:
        messages.append(
            {
                "type": "table",
                "revision": revision,
                "base": base,
                "part": len(messages),
                "more": True,
                "put": put,
                "removed": removed,
            }
        )
        removed = {}
    messages[-1]["more"] = False
    return messages


def _groups(delta: Delta) -> list[dict[str, dict[str, Any]]]:
    groups: list[dict[str, dict[str, Any]]] = []
    room = 0
    for section in SECTIONS:
        for name, spec in delta.put.get(section, {}).items():
            if room <= 0:
                groups.append({})
                room = PART
            groups[-1].setdefault(section, {})[name] = spec
            room -= 1
            if section == "backends":
                room -= len(spec.get("placed") or spec.get("instances") or ())
    return groups


def document_pieces(path: str, content_type: str, text: str) -> Iterator[Documents]:
    """The messages of one document."""
    for start in range(0, len(text) or 1, PIECE):
        yield {
            "type": "documents",
            "path": path,
            "content_type": content_type,
            "text": text[start : start + PIECE],
            "more": start + PIECE < len(text),
        }
