"""What becomes of the processes that an edit asks `headgate up` for?"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace

from gateway.cli.refusals import Refusal
from gateway.clients.admin import AdminClient
from gateway.clients.errors import Json
from gateway.processes.console import write

LOOK_S = 0.25
DONE = ("ready", "stopped", "asleep")


def wait(
    client: AdminClient, options: SimpleNamespace, answer: Json, *, done: Sequence[str] = DONE
) -> None:
    """Returns once all that `answer` said of processes is `done`; Refusal when one cannot be
    started, with what its model said last, or when it takes longer than --timeout."""
    if options.wait and not options.dry_run and (asked := answer.get("serves")):
        show = _progress if options.output == "table" else lambda name, state: None
        until_done(lambda: client.status().get("fleet") or {}, answer["revision"], asked,
                   timeout_s=options.timeout, show=show, done=done)  # fmt: skip


def until_done(
    fleet: Callable[[], Json],
    revision: int,
    backends: Mapping[str, str],
    *,
    timeout_s: float | None = None,
    done: Sequence[str] = DONE,
    show: Callable[[str, str], None] = lambda name, state: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Returns once each of `backends` is as `revision` asks for, and `done`; looks at `fleet()` for
    it, and shows what is new. Refusal as `wait` says."""
    began, shown = clock(), dict.fromkeys(backends, "")
    while True:
        found = fleet()
        states = {name: found.get("backends", {}).get(name, {}) for name in backends}
        words = {name: each.get("state", "stopped") for name, each in states.items()}
        if found.get("revision", 0) >= revision:
            for name, word in words.items():
                if word != shown[name]:
                    shown[name] = word
                    show(name, word)
            if failed := [
                f"{n}: {each['error']}" for n, each in states.items() if each.get("error")
            ]:
                raise Refusal("; ".join(failed))
            if all(word in done for word in words.values()):
                return
        if timeout_s is not None and clock() - began >= timeout_s:
            late = ", ".join(f"{n} is {w}" for n, w in words.items() if w not in done)
            raise Refusal(f"not done after {timeout_s:g} s: {late or 'nothing was begun'}")
        sleep(LOOK_S)


def _progress(name: str, state: str) -> None:
    write(sys.stderr, f"{name}: {state}")
