"""Big bodies, slow readers and server-sent events."""

import argparse
import asyncio
import random
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import uvloop

from benchmarks.gateways import available, started
from benchmarks.machine import LOAD_CORE, PYTHON, ROOT, on_core, script
from benchmarks.proxies import Proxy, Work
from tests.harness.load import percentile

GIB = 1 << 30
Results = dict[str, Any]


def big_bodies(rounds: int, say: Callable[[str], None], size: int = GIB) -> Results:
    """MiB per second down and up, and how much memory the proxy took on meanwhile."""
    names = [name for name in available(say) if name in ("Headgate", "Envoy", "HAProxy", "nginx")]
    results: Results = {}
    with script("benchmarks.upstreams", "sink") as ports:
        work = Work({"main": (1, ports)}, check="/2")
        with started(names, work, say) as proxies:
            speeds: dict[tuple[str, str], list[float]] = {}
            for _ in range(rounds):
                for one in proxies:
                    for way in ("down", "up"):
                        speed, grown = _moved(one, way, size)
                        speeds.setdefault((one.name, way), []).append(speed)
                        worst = results.setdefault(one.name, {}).get("memory", 0)
                        results[one.name]["memory"] = max(worst, grown)
            for (name, way), values in speeds.items():
                results[name][way] = statistics.median(values)
            for one in proxies:
                results[one.name]["slow_readers"] = _slow_readers(one)
    return results


def _moved(one: Proxy, way: str, size: int) -> tuple[float, int]:
    """MiB per second of one transfer, and the most memory it cost the proxy."""
    assert one.running is not None
    before, peak, done = one.running.rss(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], one.running.rss())  # type: ignore[union-attr]

    watcher = threading.Thread(target=watch)
    watcher.start()
    command = [PYTHON, "-m", "benchmarks.streams", way, str(one.port), str(size)]
    began = subprocess.run(
        on_core(LOAD_CORE, command), cwd=ROOT, capture_output=True, text=True, check=True
    )
    done.set()
    watcher.join()
    return size / float(began.stdout) / (1 << 20), max(0, peak[0] - before)


def _slow_readers(one: Proxy, count: int = 50) -> int:
    """Bytes of memory that clients cost which ask for 1 GiB and read nothing."""
    assert one.running is not None
    before = one.running.rss()
    readers = []
    for _ in range(count):
        reader = socket.create_connection(("127.0.0.1", one.port))
        reader.sendall(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % GIB)
        readers.append(reader)
    time.sleep(2)
    grown = one.running.rss() - before
    for reader in readers:
        reader.close()
    return max(0, grown)


def _transfer(way: str, port: int, size: int) -> float:
    """Seconds that one body took, from a blocking socket."""
    peer, buffer = socket.create_connection(("127.0.0.1", port)), bytearray(1 << 20)
    began = time.monotonic()
    if way == "down":
        peer.sendall(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % size)
        got, head = 0, b""
        while b"\r\n\r\n" not in head:
            head += peer.recv(4096)
        got = len(head.partition(b"\r\n\r\n")[2])
        while got < size:
            read = peer.recv_into(buffer)
            assert read, "the answer was cut"
            got += read
    else:
        peer.sendall(b"POST /2 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(buffer)):
            peer.sendall(buffer)
        assert peer.recv(4096).startswith(b"HTTP/1.1 200")
    return time.monotonic() - began


def events(say: Callable[[str], None], streams: int = 1000, seconds: float = 10) -> Results:
    """How late events come through each proxy: the first one, and 1,000 × 10 a second."""
    names = [name for name in available(say) if name in ("Headgate", "Envoy", "nginx")]
    results: Results = {}
    with script("benchmarks.streams", "origin") as ports:
        # More streams than a backend's instance gets by default, for Envoy as for Headgate.
        hand = {"backend": {"max_in_flight": 4096}, "max_requests": 4096}
        work = Work({"main": (1, ports)}, hand=hand)
        with started(names, work, say) as proxies:
            for name, port in [("direct", ports[0])] + [(p.name, p.port) for p in proxies]:
                command = [
                    PYTHON, "-m", "benchmarks.streams", "events", str(port), str(streams),
                    "--seconds", str(seconds),
                ]  # fmt: skip
                done = subprocess.run(
                    on_core(LOAD_CORE, command),
                    cwd=ROOT,
                    capture_output=True,
                    text=True,
                    check=True,
                )
                first, p50, p99, count = (float(word) for word in done.stdout.split())
                results[name] = {"first": first, "p50": p50, "p99": p99, "events": count}
    return results


class _Source(asyncio.Protocol):
    """One stream of events, ten a second from a random moment on; each carries its time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.timer: asyncio.TimerHandle | None = None

    def data_received(self, data: bytes) -> None:
        if b"GET /health" in data:
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        elif b"GET /" in data:
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            self.send()

    def send(self) -> None:
        event = b"data: %.6f\n\n" % time.monotonic()
        self.transport.write(b"%x\r\n%s\r\n" % (len(event), event))
        delay = random.uniform(0.05, 0.15)
        self.timer = asyncio.get_running_loop().call_later(delay, self.send)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()


class _Listener(asyncio.Protocol):
    """Notes how late each event of one stream comes."""

    def __init__(self, first: list[float], lags: list[float]) -> None:
        self.first, self.lags, self.started = first, lags, False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.transport.write(b"GET /s HTTP/1.1\r\nHost: x\r\n\r\n")

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        for piece in data.split(b"data: ")[1:]:
            lag = now - float(piece[: piece.index(b"\n")])
            (self.lags if self.started else self.first).append(lag)
            self.started = True


async def _origin() -> None:
    server = await asyncio.get_running_loop().create_server(_Source, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def _listen(port: int, streams: int, seconds: float) -> None:
    first: list[float] = []
    lags: list[float] = []
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(streams):
        made.append(await loop.create_connection(lambda: _Listener(first, lags), "127.0.0.1", port))
        await asyncio.sleep(0.003)
    lags.clear()  # until now streams were still being opened
    await asyncio.sleep(seconds)
    figures = (percentile(first, 50), percentile(lags, 50), percentile(lags, 99))
    print(*(1000 * figure for figure in figures), len(lags))
    for transport, _ in made:
        transport.abort()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["down", "up", "origin", "events"])
    parser.add_argument("port", type=int, nargs="?", default=0)
    parser.add_argument("count", type=int, nargs="?", default=0)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    if options.kind == "origin":
        uvloop.run(_origin())
    elif options.kind == "events":
        uvloop.run(_listen(options.port, options.count, options.seconds))
    else:
        print(_transfer(options.kind, options.port, options.count))


if __name__ == "__main__":
    main()
