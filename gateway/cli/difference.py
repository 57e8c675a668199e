"""How is the difference between two tables told?"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gateway.cli.grids import Cell
from gateway.core.faults import readable

SHORT = 32  # characters of a value, where it is one of several in a line
MARKS = {"add": ("+", "good"), "remove": ("-", "bad"), "replace": ("~", "warn")}


def told(answer: Mapping[str, Any]) -> list[Cell]:
    """All that an edit changes, or would: what it wins over, and what waits for a restart too."""
    lost = [overridden(change) for change in answer.get("overridden") or ()]
    late = [
        Cell(
            f"! gateway/{key}: differs from what runs; settings are read at the next start", "warn"
        )
        for key in answer.get("restart") or ()
    ]
    return [*lines(answer.get("diff") or []), *lost, *late]


def lines(diff: Sequence[Mapping[str, Any]], width: int = 160) -> list[Cell]:
    """One line per change: `~ routes/digits/split/digits-cnn: 10 → 50`; values cut at `width`."""
    return [_line(change, width) for change in diff] or [Cell("nothing would change", "dim")]


def summary(diff: Sequence[Mapping[str, Any]]) -> str:
    """All of it in a few words: `~ digits/digits-cnn: 10 → 50 and 2 more`."""
    if not diff:
        return ""
    parts = str(diff[0].get("pointer", "")).split("/")[2:]
    short = "/" + "/".join(part for part in parts if part != "split")
    told = _line({**diff[0], "pointer": short}, SHORT).text
    if told.endswith("…"):
        told = told.partition(": ")[0]
    return told + (f" and {len(diff) - 1} more" if len(diff) > 1 else "")


def _line(change: Mapping[str, Any], width: int) -> Cell:
    mark, meaning = MARKS.get(str(change.get("op")), ("~", "warn"))
    where = readable(str(change.get("pointer", ""))).lstrip("/")
    sides = [value(change[side], width) for side in ("before", "after") if side in change]
    what = " → ".join(sides)
    note = f" ({change['note']})" if change.get("note") else ""
    return Cell(f"{mark} {where}: {what}{note}", "warn" if note else meaning)


def value(found: Any, width: int = 160) -> str:
    """`found` as people read it: text as it is, the rest as short JSON."""
    text = found if isinstance(found, str) else orjson.dumps(found).decode()
    return text if len(text) <= width else text[: width - 1] + "…"


def overridden(lost: Mapping[str, Any]) -> Cell:
    """A live edit that a file wins over, in words."""
    where = readable(str(lost.get("pointer", ""))).lstrip("/")
    live = value(lost["before"]) if "before" in lost else "nothing"
    file = value(lost["after"]) if "after" in lost else "nothing"
    return Cell(f"! {where}: edited live to {live}, the file says {file} and wins", "warn")
