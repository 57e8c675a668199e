"""The commands about the processes that `headgate up` runs: scale, reload, restart, start, stop and
logs."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Literal

from click import UsageError

from gateway.cli import asking, finding, screen, serves
from gateway.cli.grids import Cell, clean
from gateway.cli.refusals import Refusal, suggestion
from gateway.clients.admin import AdminClient
from gateway.clients.admin_connection import Change
from gateway.clients.errors import Json, Refused

FOLLOW_S = 0.5
FOLLOWED = 500
MOST_REPLICAS = 256


def scale(options: SimpleNamespace) -> int:
    """Sets how many instances each backend has that is named; waits for them with --wait."""
    client = finding.client(options)
    for backend, count in parse_counts(options.counts):
        spec = _served(client, backend)
        if spec["serve"].get("replicas") == count:
            screen.show(Cell(f"{backend}: {count} already", "dim"))
            continue
        _edit(client, options, backend, {"serve": {"replicas": count}})
    return 0


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
        if screen.printed(lines, options.output) and not options.follow:
            return 0
        last = _print(lines, options)
        while options.follow:
            time.sleep(FOLLOW_S)
            last = _print(client.logs(options.backend, lines=FOLLOWED, after=last), options, last)
    return 0


def parse_counts(words: Sequence[str]) -> list[tuple[str, int]]:
    """Backend and count from `BACKEND=N` words; UsageError says which one is none."""
    found = []
    for word in words:
        backend, equals, text = word.rpartition("=")
        is_count = text.isascii() and text.isdigit() and int(text) <= MOST_REPLICAS
        if not equals or not backend or not is_count:
            raise UsageError(
                f"{word!r} must be BACKEND=N, such as digits-cnn=3: 0 to {MOST_REPLICAS} instances"
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
        raise Refusal(f"there is no backend {backend!r}{suggestion(backend, known)}") from None


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
    _edit(client, options, backend, {"serve": {"replicas": 1 if is_stopped else 0}})
    return 0


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


def _print(lines: list[Json], options: SimpleNamespace, last: int = 0) -> int:
    """Prints `lines`; the number of the last one."""
    for line in lines:
        if options.output == "table":
            print(clean(f"{line['instance']} | {line['text']}"), flush=True)
        last = int(line["number"])
    return last
