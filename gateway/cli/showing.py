"""The commands that show what is kept: routes, backends, history, the token; and themselves."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gateway import cli
from gateway.cli import difference, finding, screen
from gateway.cli.grids import Cell, Grid
from gateway.cli.refusals import Refusal
from gateway.clients.admin import AdminClient
from gateway.clients.errors import Json

PAGE = 1000  # what the admin API gives at once, at most


def routes(options: SimpleNamespace) -> int:
    """The routes that are configured, and how each divides its requests."""
    table = finding.client(options).table()
    if screen.printed(table.get("routes") or {}, options.output):
        return 0
    rows = [
        (Cell(name, "strong"), matched(spec.get("match")), split(spec.get("split") or {}))
        for name, spec in (table.get("routes") or {}).items()
    ]
    screen.show(Grid(("route", "match", "split"), rows), _revision(table))
    return 0


def backends(options: SimpleNamespace) -> int:
    """The backends that are configured, with their instances."""
    table = finding.client(options).table()
    if screen.printed(table.get("backends") or {}, options.output):
        return 0
    rows = []
    for name, spec in (table.get("backends") or {}).items():
        states = spec.get("states") or {}
        for index, url in enumerate(spec.get("placed") or spec.get("instances") or ["–"]):
            state = states.get(url.partition("://")[2], "")
            first = Cell(name if index == 0 else "", "strong")
            balance = spec.get("balance", "least_loaded") if index == 0 else ""
            rows.append((first, url, Cell(state, "warn"), balance))
    screen.show(Grid(("backend", "instance", "state", "balance"), rows), _revision(table))
    return 0


def history(options: SimpleNamespace) -> int:
    """The edits so far, newest first, or one of them with its difference."""
    client = finding.client(options)
    if options.revision is not None:
        return _one(options, client.revision(options.revision))
    answer = _newest(client, options.limit)
    if screen.printed(answer, options.output):
        return 0
    rows = [
        (
            Cell(str(edit["revision"]), "strong"),
            when(edit.get("time")),
            str(edit.get("who", "")),
            str(edit.get("why") or ""),
            difference.summary(edit.get("diff") or []),
        )
        for edit in answer.get("revisions") or []
    ]
    screen.show(Grid((">revision", "when", "who", "why", "what"), rows))
    return 0


def token(options: SimpleNamespace) -> int:
    """Prints the token alone, so that it can be given to another command."""
    directory = finding.state_dir(options)
    if directory is None:
        raise Refusal("there is no state directory here: say which with --state-dir")
    print(finding.read_token(directory))
    return 0


def schema(_: SimpleNamespace) -> int:
    """Prints the JSON Schema of a configuration file."""
    print(Path(cli.__file__).parents[1].joinpath("headgate.schema.json").read_text(), end="")
    return 0


def version(options: SimpleNamespace) -> int:
    """Prints the version, and whether the request path is compiled."""
    version, is_compiled = cli.version_and_form()
    if not screen.printed({"version": version, "compiled": is_compiled}, options.output):
        cli.print_version()
    return 0


def explanation(options: SimpleNamespace) -> int:
    """Prints what the named command does, or which there are."""
    return cli.main([*([options.name] if options.name else []), "--help"])


def matched(match: str | Mapping[str, Any] | None) -> str:
    """What a route asks for, on one line."""
    if match is None or isinstance(match, str):
        return match or "/"
    parts = [f"={match['exact']}" if "exact" in match else str(match.get("path", "/"))]
    parts += [",".join(match["methods"])] if match.get("methods") else []
    parts += [",".join(match["hosts"])] if match.get("hosts") else []
    for key in ("headers", "json"):
        parts += [f"{name}={found}" for name, found in (match.get(key) or {}).items()]
    return " ".join(parts)


def split(weights: Mapping[str, int]) -> str:
    return "  ".join(f"{name} {weight}" for name, weight in weights.items())


def when(time: str | None) -> str:
    """A time of the admin API (UTC) on the clock of this machine, to the second; one that is on no
    clock there, such as the end of the year 9999, as it was written."""
    try:
        return f"{datetime.fromisoformat(time or '').astimezone():%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError):
        return time or ""


def _newest(client: AdminClient, limit: int | None) -> Json:
    """The newest `limit` edits as one answer, in however many pages the gateway gives them."""
    found = client.history(None if limit is None else min(limit, PAGE))
    while limit and found.get("next") and (left := limit - len(found["revisions"])) > 0:
        older = client.history(min(left, PAGE), before=found["next"])
        found = {**older, "revisions": [*found["revisions"], *older["revisions"]]}
    return found


def _one(options: SimpleNamespace, edit: Json) -> int:
    if screen.printed(edit, options.output):
        return 0
    why = f": {edit['why']}" if edit.get("why") else ""
    head = f"revision {edit['revision']}, {when(edit.get('time'))}, by {edit.get('who', '')}{why}"
    screen.show(Cell(head, "strong"), *difference.lines(edit.get("diff") or []))
    return 0


def _revision(table: Json) -> Cell:
    return Cell(f"revision {table.get('revision')}", "dim")
