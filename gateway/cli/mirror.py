"""`headgate mirror`: how often does a mirror agree with what clients get, and where does it not?"""

import json
from types import SimpleNamespace
from typing import Any

from gateway.cli import asking, finding, screen
from gateway.cli.grids import Cell, Grid, Part
from gateway.cli.showing import when
from gateway.clients.errors import Json

EXAMPLES = 10
WIDEST = 60


def mirror(options: SimpleNamespace) -> int:
    """Shows what is known of the mirror of one route."""
    client = finding.client(options)
    with asking.about(client, route=options.route):
        found = client.mirror(options.route)
    if not screen.printed(found, options.output):
        screen.show(*drawn(found, options.lines))
    return 0


def drawn(found: Json, examples: int | None = None) -> list[Part]:
    """The agreement, the noise floor, the fields, and the last pairs that differ."""
    head = f"{found['route']}: {found['backend']} {agreement(found)}"
    parts: list[Part] = [Cell(head, "strong")]
    noise = found["noise_floor"]
    if noise is not None:
        parts.append(f"the stable version with itself {agreement(noise)}")
    verdicts = found["verdicts"]
    lost = [f"{verdicts[word]:,} {word}" for word in ("unanswered", "dropped") if verdicts[word]]
    if found["learning"]:
        lost.append(f"{found['learning']:,} wait until it is known how much is noise")
    if lost:
        parts.append(Cell(", ".join(lost), "dim"))
    if found["fields"]:
        parts += ["", _fields(found)]
    samples = found["samples"][: EXAMPLES if examples is None else examples]
    if samples:
        parts += ["", _samples(samples)]
    return parts


def agreement(found: Json) -> str:
    """`agrees in 97.1 % of 1,204 pairs (96.0 to 98.0 %)`."""
    if not found["pairs"]:
        return "has no pairs yet"
    low, high = (100 * each for each in found["interval"])
    return (
        f"agrees in {100 * found['agreement']:.4g} % of {found['pairs']:,} pairs"
        f" ({low:.1f} to {high:.1f} %)"
    )


def _fields(found: Json) -> Grid:
    noise = (found["noise_floor"] or {}).get("fields", {})
    rows = []
    for name, each in found["fields"].items():
        by = each["by"]
        rows.append(
            (
                Cell(name or '""', "strong"),
                f"{each['differ']:,}",
                "" if each["agreement"] is None else f"{100 * each['agreement']:.4g} %",
                "" if by is None else f"{by['mean']:g}, at most {by['max']:g}",
                f"{noise[name]['differ']:,}" if name in noise else "",
            )
        )
    return Grid(("field", ">differ", ">agree", "by", ">with itself"), rows, spare=("by",))


def _samples(samples: list[Json]) -> Grid:
    rows = []
    for sample in samples:
        for number, (pointer, sides) in enumerate(sample["differs"].items()):
            first = number == 0
            rows.append(
                (
                    when(sample["time"]) if first else "",
                    pointer or '""',
                    _value(sides, "stable"),
                    _value(sides, "mirror"),
                    sample["request_id"] if first else "",
                )
            )
    return Grid(("when", "where", "stable", "mirror", "request"), rows, spare=("request",))


def _value(sides: Json, side: str) -> str:
    value: Any = sides.get(side, ...)
    text = "–" if value is ... else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"
