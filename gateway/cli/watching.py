"""`headgate status` and `top`: what is live, once or again and again."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gateway.cli import finding, screen, weighing
from gateway.cli.screen import Cell, Grid
from gateway.client import AdminClient, Json, Unreachable

WORDS = {"up": "good", "starting": "warn", "failing": "warn", "down": "bad"}
Part = Grid | Cell | str


def status(options: argparse.Namespace) -> int:
    """What is live now."""
    found = finding.client(options).status()
    if options.json:
        screen.print_json(found)
    else:
        screen.show(*drawn(found))
    return 0


def top(options: argparse.Namespace) -> int:
    """What is live, drawn again every interval until Ctrl-C."""
    client, interval = finding.client(options), max(0.1, options.interval or 1.0)
    looks = range(options.count) if options.count else iter(int, 1)
    client.status()  # a wrong URL or token is said once, as a line, before the screen is taken
    if options.json or not screen.is_terminal(sys.stdout):
        for look in looks:
            _wait(look, interval)
            found = client.status()
            screen.print_json(found) if options.json else screen.show(*drawn(found), "")
        return 0
    from gateway.cli import rich_screen

    try:
        with rich_screen.refreshing(sys.stdout) as screenful:
            for look in looks:
                _wait(look, interval)
                screenful.draw(_look(client))
    except KeyboardInterrupt:
        pass
    return 0


def _wait(look: int, interval: float, sleep: Callable[[float], None] = time.sleep) -> None:
    if look:
        sleep(interval)


def _look(client: AdminClient) -> list[Part]:
    """The status, or why there is none: `top` outlives a restart of the control process."""
    try:
        return drawn(client.status())
    except Unreachable as error:
        return [Cell(str(error), "bad")]


def drawn(found: Json) -> list[Part]:
    """Routes, instances and workers as three grids."""
    return [_routes(found), "", _instances(found), "", Cell(_foot(found), "dim")]


def _routes(found: Json) -> Grid:
    backends = found.get("backends") or {}
    rows = []
    for name, route in (found.get("routes") or {}).items():
        weights, effective = route.get("weights") or {}, route.get("effective") or {}
        live = weighing.shares(effective)
        share = weighing.shares(weights)
        for index, (backend, weight) in enumerate(weights.items()):
            state = backends.get(backend) or {}
            shown = live.get(backend, "–")
            rows.append((
                Cell(name if index == 0 else "", "strong"),
                backend,
                str(weight),
                Cell(shown, "" if shown == share.get(backend) else "warn"),
                number(state.get("requests_per_s")),
                _errors(state.get("errors_per_s")),
                *_latencies(state.get("latency_ms") or {}),
                number(state.get("queue_depth"), 0),
            ))  # fmt: skip
    measured = (">req/s", ">err/s", ">p50 ms", ">p95 ms", ">p99 ms", ">queued")
    columns = ("route", "backend", ">weight", ">effective", *measured)
    spare = (">p95 ms", ">queued", ">p50 ms", ">err/s", ">p99 ms", ">effective", ">req/s")
    return Grid(columns, rows, spare=spare)


def _instances(found: Json) -> Grid:
    rows = []
    for backend, state in (found.get("backends") or {}).items():
        for index, (address, one) in enumerate((state.get("instances") or {}).items()):
            report = one.get("report") or {}
            rows.append((
                Cell(backend if index == 0 else "", "strong"),
                address,
                health(one),
                number(one.get("in_flight"), 0),
                number(report.get("queue"), 0),
                number(report.get("running"), 0),
                number(report.get("wait_ms")),
            ))  # fmt: skip
    columns = ("backend", "instance", "health", ">in flight", ">queue", ">running", ">wait ms")
    return Grid(columns, rows, spare=(">running", ">wait ms", ">queue", ">in flight"))


def health(instance: Mapping[str, Any]) -> Cell:
    """One word for an instance: what was decided about it before what was observed."""
    if instance.get("state"):
        return Cell(str(instance["state"]), "warn")
    if instance.get("ejected_s"):
        return Cell(f"ejected {instance['ejected_s']:.0f} s", "bad")
    word = str(instance.get("health", "starting"))
    return Cell(word, WORDS.get(word, ""))


def number(value: Any, digits: int = 1) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _errors(value: float | None) -> Cell:
    return Cell(number(value, 2 if value else 1), "bad" if value else "dim")


def _latencies(latency: Mapping[str, Any]) -> Iterator[str]:
    return (number(latency.get(point)) for point in ("p50", "p95", "p99"))


def _foot(found: Json) -> str:
    workers = found.get("workers") or []
    behind = [str(w["slot"]) for w in workers if w.get("revision") != found.get("revision")]
    late = f"; not there yet: {', '.join(behind)}" if behind else ""
    plural = "" if len(workers) == 1 else "s"
    return f"revision {found.get('revision')} on {len(workers)} worker{plural}{late}"
