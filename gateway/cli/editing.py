"""The commands that change a running gateway: apply, restore and one instance's state."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

from gateway.cli import asking, difference, finding, screen, serves
from gateway.cli.grids import Cell
from gateway.cli.refusals import Refusal
from gateway.clients.admin import AdminClient, revision_tag
from gateway.clients.admin_connection import Change
from gateway.clients.errors import Json

LOOK_S = 0.25


def apply(options: SimpleNamespace) -> int:
    """Prints what the file would change, then changes it unless it is a dry run.

    The edit is bound to the revision that the difference was shown against: what is applied
    is what was printed, or nothing.
    """
    content = Path(options.file).read_bytes()
    client = finding.client(options)
    given = None if options.if_revision is None else revision_tag(options.if_revision)
    tried = asking.made(
        lambda change: client.apply(content, change),
        Change(options.reason or "", True, given),
        lambda: revision_tag(client.table()["revision"]),
    )
    if options.strict and tried.get("unserved"):
        screen.show(*difference.told(tried))
        raise Refusal("nothing was applied (--strict): the file changes what `headgate up` serves")
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
    given = None if options.if_revision is None else revision_tag(options.if_revision)
    answer = asking.made(
        lambda change: client.restore(options.revision, change),
        asking.change(options, given),
        lambda: revision_tag(client.table()["revision"]),
    )
    asking.tell(options, answer)
    for each in answer.get("opened", ()):
        print(f"headgate: by that, {each}", file=sys.stderr)
    serves.wait(client, options, answer)
    return 0


def drain(options: SimpleNamespace) -> int:
    """Sends an instance nothing new; with --wait, until it has finished what it had."""
    client = finding.client(options)
    backend, answer = _act(client, options, "drain")
    if not options.wait or options.dry_run:
        return _acted(options, answer, "draining")
    emptied = wait_until_empty(
        lambda: in_flight(client, backend, options.instance),
        progress=sys.stderr if options.output == "table" else None,
        timeout_s=options.timeout,
    )
    if not emptied:
        raise Refusal(f"{options.instance} still has requests in flight after {options.timeout} s")
    return _acted(options, answer, "drained")


def resume(options: SimpleNamespace) -> int:
    _, answer = _act(finding.client(options), options, "resume")
    return _acted(options, answer, "takes requests again")


def disable(options: SimpleNamespace) -> int:
    return _acted(options, _act(finding.client(options), options, "disable")[1], "disabled")


def enable(options: SimpleNamespace) -> int:
    return _acted(options, _act(finding.client(options), options, "enable")[1], "enabled")


def in_flight(client: AdminClient, backend: str, address: str) -> int:
    """Requests in flight at the instance, over all workers; 0 once it is gone."""
    live = (client.status().get("backends") or {}).get(backend) or {}
    instance = (live.get("instances") or {}).get(address) or {}
    return int(instance.get("in_flight") or 0)


def wait_until_empty(
    left: Callable[[], int],
    *,
    progress: TextIO | None,
    timeout_s: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """True once `left()` is 0, False when `timeout_s` passed first; tells each new count."""
    started, told = clock(), -1
    while (count := left()) > 0:
        if progress is not None and count != told:
            print(f"{count} in flight", file=progress, flush=True)
            told = count
        if timeout_s is not None and clock() - started >= timeout_s:
            return False
        sleep(LOOK_S)
    return True


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
    line = Cell(f"{options.instance}: {word} ({asking.outcome(answer, options)})")
    screen.show(*(difference.told(answer) if options.dry_run else [line]))
    return 0
