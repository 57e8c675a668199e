"""`headgate key` and `headgate keys`: who may ask, and by which secret.

A secret is printed once, alone on standard output; what else is to be said goes beside it.
"""

import re
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from click import UsageError

from gateway.cli import asking, finding, screen, showing
from gateway.cli.grids import Cell, Grid
from gateway.clients.admin import AdminClient
from gateway.clients.admin_connection import Change
from gateway.clients.errors import Json
from gateway.core.units import parse_time
from gateway.processes.console import write

_LASTS = re.compile(r"([1-9][0-9]{0,5})([smhdw])")
_MEANT = re.compile(r"[+-]?[0-9.]+ ?[a-zA-Z]*")  # to last so long, and written otherwise
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def key(options: SimpleNamespace) -> int:
    """Makes a key, renews it, or takes it back."""
    wanted: dict[str, Any] = {}
    if options.route:
        wanted["routes"] = list(options.route)
    if options.expires is not None:  # "" is a variable that was not set, and no key for ever
        wanted["expires"] = expiry(options.expires, datetime.now(UTC))
    if wanted and options.action != "add":
        raise UsageError("--route and --expires go with add")
    client = finding.client(options)
    answer = _made(client, options, wanted)
    if "expires" in wanted and _is_over(wanted["expires"]):
        write(sys.stderr, f"headgate: {options.expires} is over already: the key opens nothing")
    if options.dry_run or options.output != "table":
        asking.tell(options, answer)
        return 0
    if secret := answer.get("key"):
        print(secret, flush=True)
    told = {
        "add": "keep it now: it is not shown again",
        "rotate": f"the one before is valid until `headgate key retire {options.name}`",
        "retire": f"{options.name}: only its newest secret is valid",
        "revoke": f"{options.name}: revoked",
    }[options.action]
    if options.action == "retire" and not answer.get("diff"):
        write(sys.stderr, f"{options.name} has one secret: there is none to retire")
        return 0
    write(sys.stderr, f"{told} ({asking.outcome(answer, options)})")
    return 0


def _made(client: AdminClient, options: SimpleNamespace, wanted: dict[str, Any]) -> Json:
    name, action = options.name, options.action

    def edit(change: Change) -> Json:
        if action == "add":
            # What is not there has no tag; that it is not there, the gateway sees to.
            return client.create_key(name, wanted, replace(change, etag=None))
        if action == "revoke":
            return client.delete_key(name, change)
        return client.key_action(name, action, change)

    return asking.edited(
        client, options, edit, lambda: "" if action == "add" else client.key_tag(name)
    )


def expiry(text: str, now: datetime) -> str:
    """The moment that `text` means: so long from `now` (`90d`, `12h`), or that time itself."""
    lasts = _LASTS.fullmatch(text)
    if _MEANT.fullmatch(text) and lasts is None:
        raise UsageError(f"--expires: {text} is no span; write it like 90d, 12h or 30m")
    if lasts is None:
        return text  # the gateway says what is wrong with it, if anything is
    try:
        moment = now + timedelta(seconds=int(lasts[1]) * _SECONDS[lasts[2]])
    except OverflowError:
        raise UsageError(
            f"--expires: {text} from now is beyond the calendar; leave it out for never"
        ) from None
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def keys(options: SimpleNamespace) -> int:
    """The keys that are configured, what each opens, and how it is used."""
    answer = finding.client(options).keys()
    found, used = answer.get("keys") or {}, answer.get("used") or {}
    if screen.printed(
        {name: {**spec, "used": used.get(name)} for name, spec in found.items()}, options.output
    ):
        return 0
    rows = [
        (
            Cell(name, "strong"),
            (", ".join(spec["routes"]) or "none") if "routes" in spec else "all",
            _ends(spec.get("expires")),
            str(len(spec.get("hashes") or ())),
            *_used(used.get(name) or {}),
        )
        for name, spec in found.items()
    ]
    revision = Cell(f"revision {answer.get('revision')}", "dim")
    columns = ("key", "routes", "expires", ">secrets", "last used", ">req/s", ">refused")
    screen.show(Grid(columns, rows), revision)
    return 0


def _ends(expires: str | None) -> str | Cell:
    """When a key opens nothing any more that says when it `expires`, or that it opens nothing."""
    if not expires:
        return "never"
    shown = showing.when(expires)
    return Cell(f"{shown} (expired)", "warn") if _is_over(expires) else shown


def _is_over(expires: str) -> bool:
    try:
        return parse_time(expires) <= time.time()
    except ValueError:  # of a gateway that takes other times than this command
        return False


def _used(used: Json) -> tuple[str | Cell, ...]:
    refused = int(used.get("refused") or 0)
    return (
        showing.when(used["last_used"]) if used.get("last_used") else "never",
        f"{used.get('requests_per_s', 0.0):g}",
        Cell(str(refused), "warn" if refused else ""),
    )
