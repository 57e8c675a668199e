"""`headgate weights`: what a split is, and what it is after an edit."""

import argparse
from collections.abc import Mapping

from gateway.cli import asking, finding, screen
from gateway.cli.parsing import Usage, suggestion
from gateway.cli.refusals import Refusal
from gateway.cli.screen import Cell, Grid, Row
from gateway.client import AdminClient, Weights

MAX_WEIGHT = 1_000_000


def weights(options: argparse.Namespace) -> int:
    """Shows the split of a route, or edits it and shows before, after and effective."""
    wanted = parse_weights(options.weights)
    client = finding.client(options)
    with asking.about(client, route=options.route):
        before = client.weights(options.route)
    if not wanted:
        return _show(options, before)
    _check_names(client, options.route, wanted, before["weights"])
    etag = asking.bound(options, lambda: before["revision"], lambda: before["etag"])
    answer = asking.made(
        lambda change: client.set_weights(options.route, wanted, change),
        asking.change(options, etag),
        lambda: before["etag"],
    )
    if options.json:
        screen.print_json(answer)
        return 0
    shown = before if options.dry_run else client.weights(options.route)
    screen.show(
        _edited(answer["previous"], answer["weights"], shown["effective"], options),
        Cell(asking.outcome(answer, options), "dim"),
    )
    return 0


def parse_weights(words: list[str]) -> dict[str, int]:
    """Backend → weight from `BACKEND=WEIGHT` words; Usage says which one is not."""
    wanted: dict[str, int] = {}
    for word in words:
        backend, equals, text = word.rpartition("=")
        if not equals or not backend:
            raise Usage(f"{word!r} must be BACKEND=WEIGHT, such as digits-cnn=50")
        if backend in wanted:
            raise Usage(f"{backend!r} is given twice")
        if not (text.isascii() and text.isdigit()) or int(text) > MAX_WEIGHT:
            raise Usage(f"{word!r}: a weight is a whole number from 0 to {MAX_WEIGHT:,}")
        wanted[backend] = int(text)
    return wanted


def shares(values: Mapping[str, float]) -> dict[str, str]:
    """Each value's part of their sum, as text."""
    total = sum(values.values())
    return {
        name: f"{100 * value / total:.1f} %" if total else "–" for name, value in values.items()
    }


def _check_names(
    client: AdminClient, route: str, wanted: Mapping[str, int], split: Mapping[str, int]
) -> None:
    """Refuses a name that is no backend at all, before anything is sent."""
    if not set(wanted) - set(split):
        return
    known = asking.backends(client)
    for backend in wanted:
        if backend not in known:
            raise Refusal(f"there is no backend {backend!r}{suggestion(backend, [*split, *known])}")


def _show(options: argparse.Namespace, split: Weights) -> int:
    if options.json:
        screen.print_json(split)
        return 0
    weights, effective = split["weights"], split["effective"]
    configured, live = shares(weights), shares(effective)
    rows = [
        (Cell(name, "strong"), str(weight), configured[name], _live(name, configured, live))
        for name, weight in weights.items()
    ]
    grid = Grid(("backend", ">weight", ">share", ">effective"), rows)
    screen.show(grid, Cell(f"revision {split['revision']}", "dim"))
    return 0


def _edited(
    before: Mapping[str, int],
    after: Mapping[str, int],
    effective: Mapping[str, float],
    options: argparse.Namespace,
) -> Grid:
    share, live = shares(after), shares(effective)
    rows: list[Row] = []
    for name in {**before, **after}:
        old, new = before.get(name), after.get(name)
        changed = Cell(_weight(new), "strong" if old != new else "")
        arrow = "→" if old != new else ""
        row = (Cell(name, "strong"), _weight(old), arrow, changed, share.get(name, "–"))
        rows.append(row if options.dry_run else (*row, _live(name, share, live)))
    columns = ["backend", ">before", "", ">after", ">share"]
    return Grid(columns if options.dry_run else [*columns, ">effective"], rows)


def _weight(weight: int | None) -> str:
    return "–" if weight is None else str(weight)


def _live(name: str, configured: Mapping[str, str], live: Mapping[str, str]) -> Cell:
    text = live.get(name, "–")
    return Cell(text, "" if text == configured.get(name) else "warn")
