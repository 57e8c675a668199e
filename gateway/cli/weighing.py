"""`headgate weights`: what a split is, and what it is after an edit."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from types import SimpleNamespace

from click import UsageError

from gateway.cli import asking, finding, screen
from gateway.cli.grids import Cell, Grid, Row
from gateway.clients.admin import AdminClient, Weights, WeightsEdit
from gateway.clients.admin_connection import Change

MAX_WEIGHT = 1_000_000
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%")


def weights(options: SimpleNamespace) -> int:
    """Shows the split of a route, or edits it and shows before, after and effective."""
    weights, percents = parse_weights(options.weights)
    client = finding.client(options)
    with asking.about(client, route=options.route):
        before = client.weights(options.route)
    if not weights and not percents:
        return _show(options, before)
    _check_names(client, {**weights, **percents}, before["weights"])
    etag = asking.bound(options, lambda: before["revision"], lambda: before["etag"])
    if percents:  # of what was looked at, so nobody may edit in between
        weights, etag = divided(percents, before["weights"]), before["etag"]

    def edit(change: Change) -> WeightsEdit:
        return client.set_weights(options.route, weights, change, whole=bool(percents))

    answer = asking.made(edit, asking.change(options, etag), lambda: before["etag"])
    if screen.printed(answer, options.output):
        return 0
    shown = before if options.dry_run else client.weights(options.route)
    screen.show(
        _edited(answer["previous"], answer["weights"], shown["effective"], options),
        Cell(asking.outcome(answer, options), "dim"),
    )
    return 0


def parse_weights(words: Sequence[str]) -> tuple[dict[str, int], dict[str, Fraction]]:
    """Backend → weight, or backend → percent, from `BACKEND=WEIGHT` words; UsageError says which
    one is neither, and how it is written."""
    weights: dict[str, int] = {}
    percents: dict[str, Fraction] = {}
    for word in words:
        backend, equals, text = word.rpartition("=")
        if not equals or not backend:
            raise UsageError(f"{word!r} must be BACKEND=WEIGHT, such as digits-cnn=50")
        if backend in weights or backend in percents:
            raise UsageError(f"{backend!r} is given twice")
        if percent := _PERCENT.fullmatch(text):
            percents[backend] = Fraction(percent[1])
        elif text.isascii() and text.isdigit() and int(text) <= MAX_WEIGHT:
            weights[backend] = int(text)
        else:
            raise UsageError(
                f"{word!r}: a weight is a whole number from 0 to {MAX_WEIGHT:,}, or a percent of"
                " the route such as 10% or 0.5%"
            )
    if weights and percents:
        raise UsageError("write weights (digits-cnn=10) or percents (digits-cnn=10%), not both")
    if sum(percents.values()) > 100:
        raise UsageError(f"the percents sum to {float(sum(percents.values())):g}, not to 100")
    return weights, percents


def divided(percents: Mapping[str, Fraction], split: Mapping[str, int]) -> dict[str, int]:
    """Weights with which each of `percents` has that share of the route and the others of `split`
    keep their proportion in the rest; UsageError where that says no split, or more than one.

    They sum to 100 where whole numbers can say it so, else to a multiple of it; beyond
    MAX_WEIGHT they are rounded to millionths, and nothing that has a share loses it.
    """
    others = {name: weight for name, weight in split.items() if name not in percents}
    left, total = 100 - sum(percents.values(), Fraction()), sum(others.values())
    if left and not others:
        raise UsageError(f"the percents sum to {float(100 - left):g}, not to 100")
    if left and not total:
        if len(others) > 1:
            raise UsageError(
                f"the others have no weight to divide the remaining {float(left):g} % by: give"
                f" theirs too, such as {next(iter(others))}={float(left):g}%"
            )
        others = dict.fromkeys(others, 1)
        total = 1
    shares = {
        name: percents[name] if name in percents else left * others[name] / (total or 1)
        for name in {**split, **percents}
    }
    scale = math.lcm(*(share.denominator for share in shares.values()))
    if max(shares.values()) * scale > MAX_WEIGHT:
        return {
            name: max(round(share * MAX_WEIGHT / 100), 1 if share else 0)
            for name, share in shares.items()
        }
    return {name: int(share * scale) for name, share in shares.items()}


def shares(values: Mapping[str, float]) -> dict[str, str]:
    """Each value's part of their sum, as text."""
    total = sum(values.values())
    return {
        name: f"{100 * value / total:.1f} %" if total else "–" for name, value in values.items()
    }


def _check_names(client: AdminClient, wanted: Iterable[str], split: Mapping[str, int]) -> None:
    """Refuses a name that is no backend at all, before anything is sent."""
    if not set(wanted) - set(split):
        return
    known = asking.backends(client)
    for backend in wanted:
        if backend not in known:
            raise asking.unknown("backend", backend, {**split, **known})


def _show(options: SimpleNamespace, split: Weights) -> int:
    if screen.printed(split, options.output):
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
    options: SimpleNamespace,
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
