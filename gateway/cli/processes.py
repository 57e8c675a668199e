"""The commands about the processes that `headgate up` runs: scale, reload, restart, start, stop and
logs."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Literal

from click import UsageError

from gateway.cli import asking, finding, screen, serves
from gateway.cli.grids import Cell
from gateway.cli.refusals import Refusal
from gateway.clients.admin import AdminClient
from gateway.clients.admin_connection import Change
from gateway.clients.errors import Json, Refused, Unreachable
from gateway.processes import console

FOLLOW_S = 0.5
FOLLOWED = 500
MAX_REPLICAS = 256
LOOKED_AT = 1000  # of the history, for how many there were


def scale(options: SimpleNamespace) -> int:
    """Sets how many instances each backend has that is named; waits for them with --wait."""
    client = finding.client(options)
    for backend, count in parse_counts(options.counts):
        spec = _served(client, backend)
        _check_scaled(backend, spec["serve"].get("scale"), count)
        if spec["serve"].get("replicas") == count:
            screen.show(Cell(f"{backend}: {count} already", "dim"))
            continue
        _edit(client, options, backend, {"serve": {"replicas": count}})
    return 0


def _check_scaled(backend: str, scale: Json | None, count: int) -> None:
    """Refusal of a count that the load would not let be, as the backend is scaled by it."""
    if scale is None:
        return
    least, most = scale.get("min", 1), scale["max"]
    if not least <= count <= most:
        raise Refusal(
            f"{backend} is scaled by its load, from {least} to {most} replicas: {count} would not"
            " last; edit `serve.scale`"
        )


def reload(options: SimpleNamespace) -> int:
    """Replaces every instance by a new one of the same version, once that is ready."""
    client = finding.client(options)
    spec = _served(client, options.backend)
    generation = int(spec["serve"].get("generation", 0)) + 1
    _edit(client, options, options.backend, {"serve": {"generation": generation}})
    return 0


def restart(options: SimpleNamespace) -> int:
    """Ends each instance and starts it again where it is, one after the other."""
    client = finding.client(options)
    _tell(client, options, client.restart_backend)
    return 0


def start(options: SimpleNamespace) -> int:
    """Loads a model that starts on demand, or runs one that was stopped; with --wait until it is
    ready."""
    return _turn(options, "start")


def stop(options: SimpleNamespace) -> int:
    """Unloads a model that starts on demand until it is asked for, and any other until it is
    started; with --wait until it has finished what it had."""
    return _turn(options, "stop")


def logs(options: SimpleNamespace) -> int:
    """Prints the last lines, and with -f those that come, until Ctrl-C."""
    client = finding.client(options)
    with about(client, options.backend):
        lines = client.logs(options.backend, lines=min(options.lines or 100, FOLLOWED))
        last = _print(lines, options)
        if options.follow:
            _follow(client, options, last)
    return 0


def parse_counts(words: Sequence[str]) -> list[tuple[str, int]]:
    """Backend and count from `BACKEND=N` words; UsageError says which one is none."""
    found = []
    for word in words:
        backend, equals, text = word.rpartition("=")
        is_count = text.isascii() and text.isdigit() and int(text) <= MAX_REPLICAS
        if not equals or not backend or not is_count:
            raise UsageError(
                f"{word!r} must be BACKEND=N, such as digits-cnn=3: 0 to {MAX_REPLICAS} instances"
            )
        found.append((backend, int(text)))
    return found


@contextmanager
def about(client: AdminClient, backend: str) -> Iterator[None]:
    """Turns the refusals of a backend into lines that say what there is."""
    try:
        yield
    except Refused as refused:
        if refused.status == 409:
            raise Refusal(refused.detail) from None
        known = asking.backends(client)
        if refused.status != 404 or backend in known:
            raise
        raise asking.unknown("backend", backend, known) from None


def _served(client: AdminClient, backend: str) -> Json:
    """The backend as it is written; Refusal where `headgate up` does not run it."""
    with about(client, backend):
        spec = client.backend(backend).body
    if "fleet" not in client.status():
        raise Refusal("this gateway starts no instances; `headgate up` does")
    if not spec.get("serve"):
        raise Refusal(f"backend {backend!r} has no `serve`: its instances are somebody else's")
    return spec


def _turn(options: SimpleNamespace, word: Literal["start", "stop"]) -> int:
    """As the dashboard does: where a model is that starts on demand is in no document, how many
    run of any other is."""
    client, backend = finding.client(options), options.backend
    serve = _served(client, backend)["serve"]
    if serve.get("start") == "demand":
        is_start = word == "start"
        answer = _tell(client, options, client.start_backend if is_start else client.stop_backend)
        serves.wait(client, options, answer, done=("ready",) if is_start else ("asleep",))
        return 0
    is_stopped = serve.get("replicas") == 0
    if is_stopped == (word == "stop"):
        screen.show(Cell(f"{backend}: {'stopped' if is_stopped else 'served'} already", "dim"))
        return 0
    count = _count_before(client, backend) if is_stopped else 0
    _edit(client, options, backend, {"serve": {"replicas": count}})
    return 0


def _count_before(client: AdminClient, backend: str) -> int | None:
    """How many there were before the backend was stopped: None for as many as where nothing is
    said of it; 1 where the history does not reach back to that."""
    pointer = f"/backends/{backend}/serve/replicas"
    for edit in client.history(limit=LOOKED_AT)["revisions"]:
        for change in edit["diff"]:
            if change["pointer"] == pointer and change.get("after") == 0:
                before: int | None = change.get("before")
                return before
    return 1


def _tell(
    client: AdminClient, options: SimpleNamespace, tell: Callable[[str, Change], Json]
) -> Json:
    """The answer to what is no edit, and shows it."""
    backend = options.backend
    with about(client, backend):
        answer = asking.edited(
            client,
            options,
            lambda change: tell(backend, change),
            lambda: client.backend(backend).etag,
        )
    if not screen.printed(answer, options.output):
        screen.show(Cell(f"{backend}: {answer['serves'][backend]}"))
    return answer


def _edit(client: AdminClient, options: SimpleNamespace, backend: str, patch: Json) -> None:
    answer = asking.edited(
        client,
        options,
        lambda change: client.patch_backend(backend, patch, change),
        lambda: client.backend(backend).etag,
    )
    asking.tell(options, answer)
    serves.wait(client, options, answer)


def _follow(client: AdminClient, options: SimpleNamespace, last: int) -> None:
    """Prints what comes after line `last`; a gateway that does not answer is waited for."""
    backend, away = options.backend, ""
    while True:
        screen.pause(FOLLOW_S)
        try:
            if away and (newest := client.logs(backend, lines=1)) and newest[0]["number"] < last:
                last = 0  # another `headgate up` counts from the start
            new, away = client.logs(backend, lines=FOLLOWED, after=last), ""
        except Unreachable as error:
            if str(error) != away:
                console.write(sys.stderr, f"headgate: {error}")
            away = str(error)
            continue
        last = _print(new, options, last)


def _print(lines: list[Json], options: SimpleNamespace, last: int | None = None) -> int:
    """Prints `lines`, and for programs none too where it is the first look; the number of the last
    one."""
    if (lines or last is None) and not screen.printed(lines, options.output, again=options.follow):
        screen.write(*(f"{line['instance']} | {line['text']}" for line in lines))
    return int(lines[-1]["number"]) if lines else last or 0
