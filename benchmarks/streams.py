"""Big bodies, slow readers, server-sent events and the tokens of language models.

`python -m benchmarks.streams origin` and `… engines` print their ports on one line.
"""

import argparse
import asyncio
import gc
import random
import re
import select
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import uvloop

from benchmarks.gateways import available, started
from benchmarks.machine import LOAD_CORE, PYTHON, ROOT, Running, on_core, script
from benchmarks.proxies import Proxy, Work
from tests.harness.load import percentile

GIB = 1 << 30
ENGINES, STEP_S = 4, 0.005
# When an event was written, at full length: one that a chunk's border cuts is not counted.
WRITTEN = re.compile(rb'(?:data: |"created":)(\d+\.\d{6})')
TOKEN = (
    b'data: {"id":"chatcmpl-6f1d2c9a","object":"chat.completion.chunk","created":%.6f,'
    b'"model":"llama","choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,'
    b'"finish_reason":null}]}\n\n'
)
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
    command = [PYTHON, "-m", "benchmarks.streams", way, str(size), str(one.port)]
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
    # More streams than a backend's instance gets by default, for Envoy as for Headgate.
    hand = {"backend": {"max_in_flight": 4096}, "max_requests": 4096}
    peers = ("Headgate", "Envoy", "nginx")
    return _streamed("origin", peers, hand, 1, streams, seconds, say)


def tokens(rounds: int, seconds: float, say: Callable[[str], None], streams: int = 200) -> Results:
    """How late tokens come through each proxy, and what each costs: 200 streams × 200 a second.

    Four engines give all of their streams a token at each step of 5 ms, as vLLM does with what
    is in its batch.
    """
    peers = ("Headgate", "Envoy", "HAProxy", "nginx", "Caddy")
    return _streamed("engines", peers, {"streams": True}, rounds, streams, seconds, say)


def _streamed(
    origin: str,
    peers: Sequence[str],
    hand: dict[str, Any],
    rounds: int,
    streams: int,
    seconds: float,
    say: Callable[[str], None],
) -> Results:
    """Per proxy the median of each figure of its rounds."""
    names = [name for name in available(say) if name in peers]
    rows: dict[str, list[dict[str, float]]] = {}
    with (
        script("benchmarks.streams", origin) as ports,
        started(names, Work({"main": (1, ports)}, hand=hand), say) as proxies,
    ):
        targets: list[tuple[str, list[int], Running | None]] = [("direct", ports, None)]
        targets += [(one.name, [one.port], one.running) for one in proxies]
        for number in range(rounds):
            for name, asked, running in targets:
                row = _listened(asked, streams, seconds, running)
                rows.setdefault(name, []).append(row)
            late = ", ".join(f"{name} {row[-1]['p99']:.2f} ms" for name, row in rows.items())
            say(f"round {number + 1}, p99: {late}")
    return {
        name: {figure: statistics.median(row[figure] for row in mine) for figure in mine[0]}
        for name, mine in rows.items()
    }


def _listened(
    ports: Sequence[int], streams: int, seconds: float, running: Running | None
) -> dict[str, float]:
    """Milliseconds that events are late, how many came in a second, and for each of them the
    microseconds of processor time of `running`."""
    command = [
        PYTHON, "-m", "benchmarks.streams", "events", str(streams), *map(str, ports),
        "--seconds", str(seconds),
    ]  # fmt: skip
    with subprocess.Popen(
        on_core(LOAD_CORE, command), cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as listener:
        assert listener.stdout is not None
        listener.stdout.readline()  # all streams are open
        before = running.used_s() if running else (0.0, 0.0)
        line = listener.stdout.readline()
        after = running.used_s() if running else (0.0, 0.0)
    if listener.returncode:
        raise RuntimeError(f"who listens to the streams ended with {listener.returncode}")
    first, p50, p99, count = (float(word) for word in line.split())
    figures = {"first": first, "p50": p50, "p99": p99, "rate": count / seconds}
    if running is None or not count:
        return figures
    user, system = (1e6 * (b - a) / count for a, b in zip(before, after, strict=True))
    return figures | {"user_us": user, "system_us": system}


class _Stream(asyncio.Protocol):
    """One stream of events; each carries the time when it was written."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        if b"GET /health" in data:
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        elif b"GET /" in data:
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            self.begin()

    def begin(self) -> None:
        raise NotImplementedError

    def write(self, event: bytes) -> None:
        self.transport.write(b"%x\r\n%s\r\n" % (len(event), event))


class _Source(_Stream):
    """Ten events a second from a random moment on."""

    timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self.write(b"data: %.6f\n\n" % time.monotonic())
        delay = random.uniform(0.05, 0.15)
        self.timer = asyncio.get_running_loop().call_later(delay, self.begin)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()


class _Engine:
    """Gives each of its streams a token at every step."""

    def __init__(self) -> None:
        self.streams: dict[_Stream, None] = {}

    def step(self, due: float) -> None:
        for stream in self.streams:
            stream.write(TOKEN % time.monotonic())
        loop = asyncio.get_running_loop()
        due = max(due + STEP_S, loop.time())  # steps that were missed are not made up for
        loop.call_at(due, self.step, due)


class _Generation(_Stream):
    """A stream of an engine's tokens."""

    def __init__(self, engine: _Engine) -> None:
        self.engine = engine

    def begin(self) -> None:
        self.engine.streams[self] = None

    def connection_lost(self, exc: Exception | None) -> None:
        self.engine.streams.pop(self, None)


class Listener:
    """Notes how late each event of many streams comes; a bare loop, for it shares a core with
    what sends them."""

    def __init__(self) -> None:
        self.first: list[float] = []
        self.lags: list[float] = []
        self.poller = select.epoll()
        self.streams: dict[int, socket.socket] = {}
        self.rests: dict[int, bytes] = {}  # of the streams that have begun

    def open(self, port: int) -> None:
        stream = socket.create_connection(("127.0.0.1", port))
        stream.sendall(b"GET /s HTTP/1.1\r\nHost: x\r\n\r\n")
        self.streams[stream.fileno()] = stream
        self.poller.register(stream, select.EPOLLIN)

    def close(self) -> None:
        self.poller.close()
        for stream in self.streams.values():
            stream.close()

    def listen(self, until: float) -> None:
        """Notes what comes until then, by the monotonic clock."""
        while (left := until - time.monotonic()) > 0:
            for number, _ in self.poller.poll(left):
                data = self.streams[number].recv(1 << 16)
                if not data:
                    raise ConnectionError("a stream ended")
                self.received(number, data, time.monotonic())

    def received(self, number: int, data: bytes, now: float) -> None:
        whole, _, rest = (self.rests.get(number, b"") + data).rpartition(b"\n\n")
        for written in WRITTEN.findall(whole):
            (self.lags if number in self.rests else self.first).append(now - float(written))
            self.rests[number] = b""
        if number in self.rests:
            self.rests[number] = rest


async def _origin() -> None:
    server = await asyncio.get_running_loop().create_server(_Source, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


async def engines() -> list[asyncio.Server]:
    """ENGINES of them, whose steps take turns, each at a port of its own."""
    loop, servers = asyncio.get_running_loop(), []
    for number in range(ENGINES):
        engine = _Engine()
        servers.append(
            await loop.create_server(partial(_Generation, engine), "127.0.0.1", 0, backlog=2048)
        )
        due = loop.time() + number * STEP_S / ENGINES
        loop.call_at(due, engine.step, due)
    return servers


async def _engines() -> None:
    servers = await engines()
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.Event().wait()


def _listen(ports: Sequence[int], streams: int, seconds: float) -> None:
    listener = Listener()
    for number in range(streams):
        listener.open(ports[number % len(ports)])
        listener.listen(time.monotonic() + 0.003)
    listener.lags.clear()  # until now streams were still being opened
    print("open", flush=True)
    listener.listen(time.monotonic() + seconds)
    first, lags = listener.first, listener.lags
    figures = (percentile(first, 50), percentile(lags, 50), percentile(lags, 99))
    print(*(1000 * figure for figure in figures), len(lags), flush=True)
    listener.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=["down", "up", "origin", "engines", "events"])
    parser.add_argument("count", type=int, nargs="?", default=0, help="bytes, or streams")
    parser.add_argument("ports", type=int, nargs="*", help="to connect to")
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    gc.disable()  # a pause here would be every proxy's
    if options.kind == "origin":
        uvloop.run(_origin())
    elif options.kind == "engines":
        asyncio.run(_engines())  # it writes at once, uvloop when the whole step is over
    elif options.kind == "events":
        _listen(options.ports, options.count, options.seconds)
    else:
        print(_transfer(options.kind, options.ports[0], options.count))


if __name__ == "__main__":
    main()
