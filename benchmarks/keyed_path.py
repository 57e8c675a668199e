"""What do keys and limits cost the request path alone, without sockets, loop and kernel?

    python -m benchmarks.keyed_path [--rounds 80]

A worker's data plane between connections of memory: requests that are all different, 32 clients in
turn. Without keys; where each client has its own; and with 8 and with 10,000 consumers on these
connections in turn, with a limit on each. Said is the processor time of a request, the least of all
rounds, in which they take turns: it holds beside other work.
"""

import argparse
import gc
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.heads import Target, different
from benchmarks.keys import secrets, section
from gateway.core.health import HealthState
from gateway.core.options import DataplaneOptions
from gateway.core.table import Table
from gateway.dataplane.exchange import Exchange
from gateway.dataplane.listener import Client
from gateway.dataplane.load_memory import LoadMemory
from gateway.dataplane.permits import PermitsFile
from gateway.dataplane.plane import Plane
from gateway.dataplane.upstream import Upstream
from gateway.telemetry.book import Book, shared_memory
from gateway.telemetry.metrics import Counters

CLIENTS, BATCH = 32, 512
MANY, FEW = 10_000, 8
LIMITS = {"default_limits": {"requests": "100000/s", "in_flight": 1000}}
_BODY = b'{"output": 16.0, "model": "square"}'


class Loop:
    """An event loop in which no time passes."""

    def call_later(self, delay: float, callback: Callable[..., None]) -> None:
        """Nothing is due while a batch runs."""

    def call_soon(self, callback: Callable[..., None]) -> None:
        callback()


class Transport:
    """One end of a connection; `sent` says what was last written to it."""

    def __init__(self) -> None:
        self.sent = b""

    def write(self, data: bytes) -> None:
        self.sent = data

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.1", 1234) if name == "peername" else None

    def set_write_buffer_limits(self, high: int, low: int) -> None: ...


class Path:
    """A worker whose instance answers at once; `loads` is where it tells others its load."""

    def __init__(
        self,
        sections: Mapping[str, Any],
        targets: tuple[Target, ...],
        workers: int,
        *,
        is_kept: bool = False,
        loads: LoadMemory | None = None,
    ) -> None:
        memory = shared_memory()
        counters = Counters(Book(memory), Book(memory, apart=True))
        permits = PermitsFile(shared_memory(name="benchmark-permits"))
        options = DataplaneOptions(workers=workers, upstream_idle_s=1e9, upstream_max_age_s=1e9)
        self.plane = plane = Plane(
            options, Loop(), permits=permits, counters=counters, load_memory=loads
        )
        table = Table.from_document(
            {
                "backends": {"b": {"instances": ["http://127.0.0.1:9"]}},
                "routes": {"r": {"match": "/", "split": {"b": 1}}},
                **sections,
            },
            1,
        )
        plane.swap(table)
        plane.live.hear({"b": {"127.0.0.1:9": HealthState("up")}}, [])
        pool = plane.live.backends["b"].instances["127.0.0.1:9"].pool
        self._instance = Upstream(pool)
        self._instance.connection_made(Transport())  # type: ignore[arg-type]
        self._instance.born = plane.now()
        pool.put(self._instance, plane.now())
        self._clients = []
        for _ in range(CLIENTS):
            client = Client(plane, Exchange)
            client.connection_made(Transport())  # type: ignore[arg-type]
            self._clients.append(client)
        asked = _kept(targets) if is_kept else _asked(targets)
        self._parts = [each.split(b"\1") for each in asked]
        self.heads = len(self._parts)
        self._numbers = itertools.count(1)

    def batch(self, count: int = BATCH) -> float:
        """Microseconds of each of so many requests."""
        asked = []
        for number in itertools.islice(self._numbers, count):
            first, middle, last = self._parts[number % len(self._parts)]
            gap = b"%016x" % number
            report = (
                b'JSON {"named_metrics": {"queue": 0, "running": 1, "slots": 256, "wait_ms": 0.%d}}'
            )
            answer = (
                b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\nConnection: keep-alive\r\n"
                b"endpoint-load-metrics: %b\r\n\r\n%b"
            ) % (len(_BODY), report % number, _BODY)
            asked.append(
                (self._clients[number % CLIENTS], b"".join((first, gap, middle, gap, last)), answer)
            )
        instance = self._instance
        began = time.thread_time()
        for client, request, answer in asked:
            client.data_received(request)
            instance.data_received(answer)
        took_s = time.thread_time() - began
        for client in self._clients:
            sent = client.transport.sent  # type: ignore[attr-defined]
            assert sent.startswith(b"HTTP/1.1 200 "), sent
        return 1e6 * took_s / count


def _asked(targets: tuple[Target, ...]) -> list[bytes]:
    return different("127.0.0.1:8080", targets, max(BATCH, len(targets)))


def _kept(targets: tuple[Target, ...]) -> list[bytes]:
    """What clients ask that have a target each and ask in turn."""
    each = [_asked((target,))[: BATCH // CLIENTS] for target in targets]
    return [request for turn in zip(*each, strict=True) for request in turn]


def paths(counts: Sequence[int]) -> Iterator[tuple[str, Path]]:
    keyed = {
        count: tuple(Target(headers=(("X-API-Key", secret),)) for secret in secrets(count))
        for count in (CLIENTS, *counts)
    }
    yield "without keys", Path({}, (Target(),), 1)
    yield "a key for each client", Path({"keys": section(CLIENTS)}, keyed[CLIENTS], 1, is_kept=True)
    for count in counts:
        keys = {"keys": section(count)}
        yield f"{count:,} keys", Path(keys, keyed[count], 1)
        yield f"{count:,} keys, a limit on each", Path({**keys, **LIMITS}, keyed[count], 1)
    yield (
        "keys that nobody is asked for, and limits",
        Path(
            {
                "keys": section(counts[-1]),
                **LIMITS,
                "routes": {
                    "r": {
                        "match": "/",
                        "split": {"b": 1},
                        "access": "open",
                        "pass_credentials": True,
                    }
                },
            },
            (Target(),),
            1,
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keyed_path", description=__doc__)
    parser.add_argument("--rounds", type=int, default=80)
    parser.add_argument("--keys", type=int, nargs="*", default=[FEW, MANY])
    options = parser.parse_args()
    all_paths = dict(paths(options.keys))
    for path in all_paths.values():
        path.batch(path.heads)  # each consumer is counted somewhere for the first time
    gc.collect()
    gc.freeze()
    took: dict[str, list[float]] = {name: [] for name in all_paths}
    for _ in range(options.rounds):
        for name, path in all_paths.items():
            took[name].append(path.batch())
    plain = min(took["without keys"])
    for name, each in took.items():
        print(f"{name:45} {min(each):6.2f} µs, {min(each) - plain:+6.2f}")


if __name__ == "__main__":
    main()
