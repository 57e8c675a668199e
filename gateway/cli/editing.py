"""The commands that change a running gateway: apply, restore and one instance's state."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

from gateway.cli import asking, difference, finding, screen, serves
from gateway.cli.grids import Cell
from gateway.cli.parameters import STDIN
from gateway.cli.refusals import Refusal, of_file
from gateway.clients.admin import AdminClient, revision_tag
from gateway.clients.admin_connection import Change
from gateway.clients.errors import Json
from gateway.processes import console

LOOK_S = 0.25


def apply(options: SimpleNamespace) -> int:
    """Prints what the file would change, then changes it unless it is a dry run.

    The edit is bound to the revision that the difference was shown against: what is applied
    is what was printed, or nothing.
    """
    content = Path(STDIN if options.file == "-" else options.file).read_bytes()
    client = finding.client(options)
    given = _bound(client, options)
    with of_file(options.file):
        tried = asking.made(
            lambda change: client.apply(content, change),
            Change(options.reason or "", True, given),
            lambda: revision_tag(client.table()["revision"]),
        )
    if options.strict and tried.get("unserved"):
        screen.show(*difference.told(tried))
        raise Refusal("nothing was applied (--strict): the file changes what `headgate up` serves")
    _warn(tried)
    if options.dry_run:
        asking.tell(options, tried)
        return 0
    if options.output == "table":
        screen.show(*difference.told(tried))
        if not tried.get("diff"):
            return 0
    done = client.apply(content, asking.change(options, revision_tag(tried["previous"])))
    if not screen.printed(done, options.output):
        screen.show(Cell(asking.outcome(done, options), "dim"))
    serves.wait(client, options, done)
    return 0


def restore(options: SimpleNamespace) -> int:
    """Goes back to a revision and shows what that changed, and who it let in."""
    client = finding.client(options)
    given = _bound(client, options)
    answer = asking.made(
        lambda change: client.restore(options.revision, change),
        asking.change(options, given),
        lambda: revision_tag(client.table()["revision"]),
    )
    asking.tell(options, answer)
    _warn(answer)
    serves.wait(client, options, answer)
    return 0


def _warn(answer: Json) -> None:
    """Says who is let in by an edit that was kept out."""
    for each in answer.get("opened", ()):
        console.write(sys.stderr, f"headgate: by that, {each}")


def drain(options: SimpleNamespace) -> int:
    """Sends an instance nothing new; with --wait, until it has finished what it had."""
    client = finding.client(options)
    backend, answer = _act(client, options, "drain")
    if not options.wait or options.dry_run:
        return _acted(options, answer, "draining")
    left = wait_until_empty(
        lambda: in_flight(client.status(), backend, options.instance),
        progress=sys.stderr if options.output == "table" else None,
        timeout_s=options.timeout,
    )
    if left:
        raise Refusal(f"{options.instance} is not drained after {options.timeout} s: {left}")
    return _acted(options, answer, "drained")


def resume(options: SimpleNamespace) -> int:
    _, answer = _act(finding.client(options), options, "resume")
    return _acted(options, answer, "takes requests again")


def disable(options: SimpleNamespace) -> int:
    return _acted(options, _act(finding.client(options), options, "disable")[1], "disabled")


def enable(options: SimpleNamespace) -> int:
    return _acted(options, _act(finding.client(options), options, "enable")[1], "enabled")


def in_flight(status: Json, backend: str, address: str) -> str:
    """What the instance has in flight by a gateway's `status`, in words: over all workers, those
    that do not answer included, and other gateways; "" for nothing, or once it is gone."""
    live = (status.get("backends") or {}).get(backend) or {}
    count = int(((live.get("instances") or {}).get(address) or {}).get("in_flight") or 0)
    said = [f"{count} in flight"] if count else []
    if (waiting := int(live.get("queue_depth") or 0)) and not live.get("available"):
        said.append(f"{waiting} waiting")  # nobody else is there: they are of what it finishes
    said += [f"worker {pid} does not answer" for pid in status.get("silent_workers") or ()]
    others = [
        name
        for name, each in (status.get("gateways") or {}).items()
        if not each.get("self") and f"{backend}/{address}" in each.get("finishing", ())
    ]
    if others:
        said.append(f"some may be in flight at {', '.join(others)}")
    return ", ".join(said)


def wait_until_empty(
    left: Callable[[], str],
    *,
    progress: TextIO | None,
    timeout_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """What is `left()` when `timeout_s` have passed, empty once nothing is; tells what is new."""
    started, told = clock(), ""
    while said := left():
        if progress is not None and said != told:
            console.write(progress, said)
            told = said
        if timeout_s is not None and clock() - started >= timeout_s:
            return said
        sleep(LOOK_S)
    return ""


def _bound(client: AdminClient, options: SimpleNamespace) -> str | None:
    """The tag of the whole table that --if-revision binds an edit to; None without it."""
    wanted = options.if_revision
    return asking.bound(
        options, lambda: int(client.table()["revision"]), lambda: revision_tag(wanted)
    )


def _act(client: AdminClient, options: SimpleNamespace, action: str) -> tuple[str, Json]:
    """The backend of the instance that was named, and the answer to the action."""
    backend = asking.backend_of(client, options.instance, options.backend)
    answer = asking.edited(
        client,
        options,
        lambda change: client.instance_action(backend, options.instance, action, change),
        lambda: client.backend(backend).etag,
    )
    return backend, answer


def _acted(options: SimpleNamespace, answer: Json, word: str) -> int:
    if screen.printed(answer, options.output):
        return 0
    if options.dry_run:
        asking.tell(options, answer)
    else:
        screen.show(f"{options.instance}: {word} ({asking.outcome(answer, options)})")
    return 0
