"""`headgate rollout`: begin one, follow it, tell it what to do."""

import sys
import time
from collections.abc import Callable, Mapping
from math import log
from types import SimpleNamespace
from typing import Any

from click import UsageError

from gateway.cli import asking, elsewhere, finding, screen
from gateway.cli.grids import Cell, Grid, Part
from gateway.cli.refusals import Refusal
from gateway.cli.traffic_commands import ROLLOUT_WORDS as WORDS
from gateway.clients.admin import AdminClient
from gateway.clients.errors import Json, Unreachable
from gateway.processes import console

LIVE = ("running", "paused", "waiting")
WENT_BACK = 3
LOOK_S = 0.5
AWAY_S = 60.0  # of following a gateway that does not answer: its control process may be new
MEANING = {
    "done": "good", "rolled_back": "bad", "aborted": "bad", "paused": "warn", "waiting": "warn",
    "failed": "bad", "failing": "warn", "well": "good", "no_data": "dim",
}  # fmt: skip
BAR = 20


def rollout(options: SimpleNamespace) -> int:
    """Begins a rollout, follows one, or tells it something."""
    words = options.words
    client = finding.client(options)
    if len(words) == 2 and words[0] in WORDS:
        return _tell(client, options, words[1], words[0])
    if len(words) == 1:
        if given := [name for name in PLAN if getattr(options, name) is not None]:
            option = given[0].replace("_", "-")
            raise UsageError(f"--{option} is for a rollout that begins: name its backend")
        return _follow(client, options, words[0])
    if len(words) != 2:
        raise UsageError(f"write ROUTE, ROUTE BACKEND, or one of {', '.join(WORDS)} and ROUTE")
    if (here := elsewhere.of_rollout(words[0])) and words[0] not in asking.routes(client):
        raise UsageError(f"{words[0]!r} is no route: {here}")
    return _begin(client, options, *words)


PLAN = (
    "steps",
    "hold",
    "min_requests",
    "warmup",
    "on_done",
    "slower_than",
    "predictions",
    "agreement",
)


def plan_of(options: SimpleNamespace, backend: str) -> Json:
    """The plan that the options say."""
    plan: Json = {"to": backend}
    for name in PLAN:
        value = getattr(options, name)
        if value is not None:
            plan[name] = value
    slower_than, field = plan.pop("slower_than", None), plan.pop("predictions", None)
    at_least = plan.pop("agreement", None)
    if slower_than is not None or field is not None or at_least is not None:
        latency = {} if slower_than is None else {"slower_than": slower_than}
        plan["guards"] = {"errors": {}, "latency": latency}
    if field is not None:
        plan["guards"]["predictions"] = {"field": field}
    if at_least is not None:
        plan["guards"]["agreement"] = {"at_least": at_least}
    if options.reason:
        plan["why"] = options.reason
    return plan


def _begin(client: AdminClient, options: SimpleNamespace, route: str, backend: str) -> int:
    plan = plan_of(options, backend)
    with asking.about(client, route=route):
        found = asking.made(
            lambda change: client.begin_rollout(route, plan, change),
            asking.change(options),
            lambda: client.rollout(route)["etag"],
        )
    if options.dry_run or options.detach:
        if not screen.printed(found, options.output):
            screen.show(*drawn(found if options.dry_run else client.rollout(route)))
            if options.dry_run:
                screen.show(Cell("a dry run: nothing was changed", "dim"))
        return 0
    return _follow(client, options, route)


def _tell(client: AdminClient, options: SimpleNamespace, route: str, word: str) -> int:
    with asking.about(client, route=route):
        found = asking.made(
            lambda change: client.command_rollout(route, word, change),
            asking.change(options),
            lambda: client.rollout(route)["etag"],
        )
    if not screen.printed(found, options.output):
        now = client.rollout(route)
        screen.show(*drawn({**now, **found} if options.dry_run else now))
        if options.dry_run:
            screen.show(Cell("a dry run: nothing was changed", "dim"))
    return 0


def _follow(client: AdminClient, options: SimpleNamespace, route: str) -> int:
    """Shows a rollout until it ends; 0 when it is done, WENT_BACK when it went back. Refusal where
    nobody reads it before that: how it ends is not known then."""
    with asking.about(client, route=route):
        found = client.rollout(route)
    try:
        if options.output == "table" and console.can_draw(sys.stdout):
            found = _live(client, route, found)
            screen.show(*drawn(found))
        else:
            found = _lines(client, route, found, options.output)
    except BrokenPipeError:
        raise Refusal(f"nobody reads this any more; the rollout of {route} goes on") from None
    return 0 if found["state"] == "done" else WENT_BACK


def _live(client: AdminClient, route: str, found: Json) -> Json:
    from gateway.cli import rich_screen

    with rich_screen.refreshing(sys.stdout) as screenful:
        screenful.draw(drawn(found))
        return _until_its_end(client, route, found, lambda each: screenful.draw(drawn(each)))


def _lines(client: AdminClient, route: str, found: Json, form: str) -> Json:
    """One line, or document, each time that state or evidence changed."""
    form = "json" if form == "table" else form

    def printed(each: Json) -> None:
        shown = {key: value for key, value in each.items() if key not in ("plan", "etag")}
        if form == "json":
            screen.write_json_line(shown)
        else:
            screen.printed(shown, form, again=True)

    last: Json = {}

    def changed(each: Json) -> None:
        nonlocal last
        if (now := {**each, "held_s": 0.0}) != last:  # time that passes is no news
            last = now
            printed(each)

    changed(found)
    return _until_its_end(client, route, found, changed)


def _until_its_end(
    client: AdminClient, route: str, found: Json, changed: Callable[[Json], None]
) -> Json:
    """The rollout once it has ended. `changed` is called with each other look at it; a control
    process that is being replaced is waited for."""
    away_since = None
    while found["state"] in LIVE:
        screen.pause(LOOK_S)
        try:
            before, found = found, client.rollout(route)
        except Unreachable:
            away_since = away_since or time.monotonic()
            if time.monotonic() - away_since > AWAY_S:
                raise
            continue
        away_since = None
        if (found["to"], found["started"]) != (before["to"], before["started"]):
            raise Refusal(f"another rollout of {found['to']} has begun on route {route}")
        if found != before:
            changed(found)
    return found


def drawn(found: Json) -> list[Part]:
    """State and share, the steps, the guards with their evidence, and what happened last."""
    state = found["state"]
    head = f"{found['route']} → {found['to']}: {state.replace('_', ' ')}, {found['share']:g} %"
    parts: list[Part] = [Cell(head, MEANING.get(state, "strong"))]
    if driver := found.get("driver"):
        parts.append(Cell(f"driven by gateway {driver}", "dim"))
    if why := found.get("why"):
        parts.append(Cell(why, "dim"))
    parts += ["", _steps(found), "", _guards(found["guards"])]
    if history := found.get("history"):
        last = history[-1]
        parts += ["", Cell(f"{last['time']}  {last['state']}: {last['why']}", "dim")]
    if held := found.get("held"):
        parts.append(Cell(f"held: {held}", "bad" if found.get("pending") else "warn"))
    return parts


def _steps(found: Json) -> Grid:
    rows = []
    at, state = found["step"], found["state"]
    for number, step in enumerate(found["plan"]["steps"] if "plan" in found else [], 1):
        percent = step["percent"] if isinstance(step, Mapping) else step
        if number < at or state == "done":
            word = Cell("passed", "good")
        elif number == at and state in LIVE:
            word = Cell("now" if state == "running" else state, MEANING.get(state, "strong"))
        elif number == at:
            word = Cell(state.replace("_", " "), MEANING[state])
        else:
            word = Cell("", "dim")
        needs = ""
        if isinstance(step, Mapping):
            asks = ", then approval" if step.get("approval") else ""
            count = step["min_requests"]
            held = asked = ""
            if number == at and state in LIVE and "held_s" in found:
                held, asked = f"{found['held_s']:.0f}s of ", f"{found['requests']:,} of "
            plural = "" if count == 1 else "s"
            needs = f"{held}{step['hold']}, {asked}{count:,} request{plural}{asks}"
        rows.append((str(number), f"{percent:g} %", word, needs))
    return Grid((">step", ">share", "state", "needs"), rows)


def _guards(guards: Mapping[str, Any]) -> Grid:
    rows = [
        (
            Cell(name, "strong"),
            Cell(guard["verdict"].replace("_", " "), MEANING[guard["verdict"]]),
            bar(guard["evidence"], guard["threshold"]),
            guard["sentence"].partition(": ")[2],
        )
        for name, guard in guards.items()
    ]
    return Grid(("guard", "verdict", "evidence", "found"), rows, spare=("evidence",))


def bar(evidence: float, threshold: float) -> str:
    """How far evidence is from its threshold, as logarithms go: empty at 1, full where it fails."""
    part = log(max(evidence, 1.0)) / log(threshold)
    full = min(BAR, round(part * BAR))
    return "█" * full + "·" * (BAR - full)
