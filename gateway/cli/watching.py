"""`headgate status` and `top`: what is live, once or again and again."""

import itertools
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from gateway.cli import finding, screen, weighing
from gateway.cli.grids import Cell, Grid, Part, once
from gateway.clients.admin import AdminClient
from gateway.clients.errors import Json, Unreachable
from gateway.processes import console

WORDS = {"up": "good", "starting": "warn", "failing": "warn", "down": "bad"}
ANSWERS = {"2xx": "", "4xx": "warn", "499": "bad", "5xx": "bad", "refused": "bad"}


def status(options: SimpleNamespace) -> int:
    """What is live now; with --watch then what changes."""
    client = finding.client(options)
    found = client.status()  # a wrong URL or token is said once, as a line
    if not screen.printed(found, options.output, again=options.watch):
        # Rows that follow are to stand below what is above them.
        (screen.write if options.watch else screen.show)(*drawn(found))
    if options.watch:
        _watch(client, options, found)
    return 0


def top(options: SimpleNamespace) -> int:
    """What is live, drawn again every interval until Ctrl-C."""
    client = finding.client(options)
    client.status()  # a wrong URL or token is said once, as a line, before the screen is taken
    if options.output != "table" or not console.can_draw(sys.stdout):
        for _ in _looks(options):
            found = client.status()
            if not screen.printed(found, options.output, again=True):
                screen.show(*drawn(found), "")
        return 0
    from gateway.cli import rich_screen

    try:
        with rich_screen.refreshing(sys.stdout) as screenful:
            for _ in _looks(options):
                screenful.draw(_look(client))
    except KeyboardInterrupt:
        pass
    return 0


def _looks(options: SimpleNamespace) -> Iterator[int]:
    """Each look, when it is time for it."""
    for look in range(options.count) if options.count else itertools.count():
        if look:
            screen.pause(max(0.1, options.interval or 1.0))
        yield look


def _look(client: AdminClient) -> list[Part]:
    """The status, or why there is none: `top` outlives a restart of the control process."""
    try:
        return drawn(client.status())
    except Unreachable as error:
        return [Cell(str(error), "bad")]


def _watch(client: AdminClient, options: SimpleNamespace, found: Json) -> None:
    """Prints each row in which something was decided anew, look after look from `found` on."""
    rows, away = _rows(found), ""
    for _ in itertools.islice(_looks(options), 1, None):
        try:
            found, away = client.status(), ""
        except Unreachable as error:
            if str(error) != away:
                console.write(sys.stderr, f"headgate: {error}")
            away = str(error)
            continue
        before, rows = rows, _rows(found)
        new = [
            line
            for key, (what, line) in rows.items()
            if key not in before or what != before[key][0]
        ]
        gone = [f"gone: {'  '.join(key)}" for key in before if key not in rows]
        if (new or gone) and not screen.printed(found, options.output, again=True):
            screen.write(*new, *gone)


def _rows(found: Json) -> dict[Sequence[str], tuple[Sequence[str], str]]:
    """By its name each row: what of it is no measurement, which differs at every look; its line."""
    rows: dict[Sequence[str], tuple[Sequence[str], str]] = {}
    for grid, decided in ((_routes(found), 4), (_instances(found), 3)):
        for row, line in zip(grid.rows, screen.plain(grid)[1:], strict=True):
            cells = [screen.text(cell) for cell in row[:decided]]
            # Of `ejected 4 s` the time is a measurement as well.
            rows[tuple(cells[:2])] = [cell.partition(" ")[0] for cell in cells[2:]], line
    return {**rows, **{(alert.text,): ((), alert.text) for alert in _alerts(found)}}


def drawn(found: Json) -> list[Part]:
    """What is wrong, then routes and instances as grids, then the workers."""
    wrong = _alerts(found)
    grids = once(_routes(found)), "", once(_instances(found))
    others: list[Part] = ["", once(_gateways(found))] if found.get("gateways") else []
    return [*wrong, *([""] if wrong else []), *grids, *others, "", Cell(_foot(found), "dim")]


def _alerts(found: Json) -> list[Cell]:
    """A line for each thing that is wrong now, the worst first."""
    return [
        Cell(str(alert.get("text", "")), "bad" if alert.get("severity") == "critical" else "warn")
        for alert in found.get("alerts") or []
    ]


def _routes(found: Json) -> Grid:
    backends = found.get("backends") or {}
    rows = []
    for name, route in (found.get("routes") or {}).items():
        weights, effective = route.get("weights") or {}, route.get("effective") or {}
        live = weighing.shares(effective)
        share = weighing.shares(weights)
        for backend, weight in weights.items():
            state = backends.get(backend) or {}
            rates = (route.get("backends") or {}).get(backend) or state  # apart if it has others
            shown = live.get(backend, "–")
            rows.append((
                Cell(name, "strong"),
                backend,
                str(weight),
                Cell(shown, "" if shown == share.get(backend) else "warn"),
                number(rates.get("requests_per_s")),
                *_answers(rates.get("answers_per_s") or {}),
                *_latencies(rates.get("latency_ms") or {}),
                number(state.get("queue_depth"), 0),
            ))  # fmt: skip
    answers = tuple(f">{kind}" for kind in ANSWERS)
    measured = (">req/s", *answers, ">p50 ms", ">p95 ms", ">p99 ms", ">queued")
    columns = ("route", "backend", ">weight", ">effective", *measured)
    spare = (
        *(">2xx", ">p95 ms", ">queued", ">p50 ms", ">4xx", ">499", ">refused", ">p99 ms", ">5xx"),
        *(">effective", ">req/s"),
    )
    return Grid(columns, rows, spare=spare)


def _instances(found: Json) -> Grid:
    rows = []
    for backend, state in (found.get("backends") or {}).items():
        for address, one in (state.get("instances") or {}).items():
            report = one.get("report") or {}
            rows.append((
                Cell(backend, "strong"),
                address,
                health(one),
                number(one.get("in_flight"), 0),
                number(report.get("queue"), 0),
                number(report.get("running"), 0),
                number(report.get("wait_ms")),
            ))  # fmt: skip
        rows += [
            (Cell(backend, "strong"), address, Cell(word, "warn"), "–", "–", "–", "–")
            for address, word in _processes(found, backend)
            if address not in (state.get("instances") or {})
        ]
    columns = ("backend", "instance", "health", ">in flight", ">queue", ">running", ">wait ms")
    return Grid(columns, rows, spare=(">running", ">wait ms", ">queue", ">in flight"))


def _gateways(found: Json) -> Grid:
    """The gateways that share the table: who is live, by which revision they decide, who lags."""
    rows = []
    for name, one in (found.get("gateways") or {}).items():
        behind = one.get("behind") or 0
        word = f"{behind} behind" if behind else "live"
        rows.append((
            Cell(f"{name} (this one)" if one.get("self") else name, "strong"),
            Cell(word, "warn" if behind else "good") if one.get("live") else Cell("lost", "bad"),
            number(one.get("revision"), 0),
            number(one.get("workers"), 0),
            str(one.get("admin") or "–"),
        ))  # fmt: skip
    return Grid(("gateway", "state", ">revision", ">workers", "admin"), rows, spare=("admin",))


def _processes(found: Json, backend: str) -> Iterator[tuple[str, str]]:
    """Where `headgate up` starts a process, failed to, or ends one; and the word for it."""
    served = ((found.get("fleet") or {}).get("backends") or {}).get(backend) or {}
    for process in served.get("processes") or ():
        yield str(process["address"]), str(process["state"])
    if not served.get("processes") and served.get("state") in ("asleep", "stopped"):
        yield "–", str(served["state"])


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


def known(value: float | None) -> str:
    """A measured time in the three digits that are known of it."""
    if not value:
        return "–" if value is None else "0"
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.{max(0, 2 - math.floor(math.log10(rounded)))}f}"


def _answers(answers: Mapping[str, float]) -> Iterator[Cell]:
    """Answers a second by their kind; how many went wrong stands out."""
    for kind, meaning in ANSWERS.items():
        value = answers.get(kind)
        yield Cell(number(value, 2 if value and value < 10 else 1), meaning if value else "dim")


def _latencies(latency: Mapping[str, Any]) -> Iterator[str]:
    return (known(latency.get(point)) for point in ("p50", "p95", "p99"))


def _foot(found: Json) -> str:
    workers = found.get("workers") or []
    behind = [str(w["slot"]) for w in workers if w.get("revision") != found.get("revision")]
    late = f"; not there yet: {', '.join(behind)}" if behind else ""
    plural = "" if len(workers) == 1 else "s"
    return f"revision {found.get('revision')} on {len(workers)} worker{plural}{late}"
