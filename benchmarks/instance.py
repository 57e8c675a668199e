"""How fast does an instance serve a trivial model, beside the servers people use today?

Everybody shares all cores with wrk. A lone request is measured through a batching window of
5 ms: nothing else is coming, and a server that waits for it anyway shows it here.

A network is computed by as many threads in every server and in the bare loop, one fewer than
there are cores: threads of one computation wait for each other by spinning, so two of them on
two cores, one of which also has the load, measure the scheduler. Twice as many connections as a
batch has places keep a whole batch waiting while one is computed. A run with a single answer
other than 200 does not count.

What is held against each other within a few percent is measured in turn, a few seconds each, at
least five times: the speed of a shared machine wanders by more than that within a minute. The
median of each is shown, with the lowest and the highest.
"""

import contextlib
import importlib.util
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.request import Request, urlopen

from benchmarks.heads import BODY
from benchmarks.machine import PYTHON, ROOT, Running, new_folder, script, start
from benchmarks.wrk import Load, wrk
from tests.harness.ports import free_port

Results = dict[str, Any]
WINDOW_S = 0.005
ASK = BODY.encode()
BATCH = 32
SCAN = [[float((row * column) % 17) for column in range(8)] for row in range(8)]
TURNS, TURN_S = 5, 3.0
THREADS = max(1, (os.cpu_count() or 1) - 1)
LIMITED = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS)}


def _headgate(model: str, port: int, window_s: float) -> list[str]:
    command = [
        PYTHON, "-m", "instance", f"benchmarks.models.{model}",
        "--host", "127.0.0.1", "--port", str(port), "--device", "cpu",
        "--threads", str(THREADS),
    ]  # fmt: skip
    if model == SQUARE:
        command += ["--max-batch-size", str(BATCH), "--batch-timeout", f"{window_s * 1000:g}ms"]
    return command


def _litserve(model: str, port: int, window_s: float) -> list[str]:
    module = "benchmarks.models.litserve_server"
    return [PYTHON, "-m", module, f"benchmarks.models.{model}", str(port), str(window_s)]


def _module(name: str) -> Callable[[str, int, float], list[str]]:
    return lambda model, port, window_s: [
        PYTHON, "-m", f"benchmarks.models.{name}_square", str(port), str(window_s)
    ]  # fmt: skip


SQUARE = "headgate_square:Square"
SERVERS: dict[str, tuple[str, Callable[[str, int, float], list[str]]]] = {
    "Headgate": ("instance", _headgate),
    "mosec": ("mosec", _module("mosec")),
    "LitServe": ("litserve", _litserve),
    "FastAPI": ("fastapi", _module("fastapi")),
}


@contextmanager
def server(name: str, window_s: float, model: str = SQUARE, ask: bytes = ASK) -> Iterator[str]:
    """The server `name` with `model`; yields its URL once it answers `ask`."""
    folder, port = new_folder(), free_port()
    running = start(SERVERS[name][1](model, port, window_s), folder, env=LIMITED)
    url = f"http://127.0.0.1:{port}"
    try:
        _until_it_predicts(url, running, ask)
        yield url
    finally:
        running.stop()


def _post(url: str, body: bytes, timeout: float = 60) -> bytes:
    kind = "application/json" if body.startswith(b"{") else "application/octet-stream"
    request = Request(url + "/predict", body, {"Content-Type": kind})
    with urlopen(request, timeout=timeout) as answer:
        return bytes(answer.read())


def _until_it_predicts(url: str, running: Running, ask: bytes, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            _post(url, ask, 5)
            return
        if running.process.poll() is not None or time.monotonic() > end:
            tail = (running.folder / "log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{url} does not predict:\n{tail}")
        time.sleep(0.1)


def _loaded(url: str, connections: int, seconds: float, ask: bytes = ASK) -> Load:
    """What wrk saw; RuntimeError when any answer was not what was asked for."""
    load = wrk(url, connections, seconds, body=ask.decode())
    if load.errors:
        raise RuntimeError(f"{load.errors} answers were errors")
    return load


def trivial(rounds: int, seconds: float, say: Callable[[str], None]) -> Results:
    """Rate and latency at 32 connections, and p50 of a lone request through the window."""
    loads: dict[str, dict[str, list[Load]]] = {}
    for number in range(rounds):
        for name, (module, _) in SERVERS.items():
            if importlib.util.find_spec(module) is None:
                say(f"left out: {name} (pip install {module})")
                continue
            mine = loads.setdefault(name, {"many": [], "lone": []})
            try:
                with server(name, 0.0) as url:
                    wrk(url, seconds=1)
                    mine["many"].append(_loaded(url, BATCH, seconds))
                with server(name, WINDOW_S) as url:
                    mine["lone"].append(_loaded(url, 1, min(3, seconds)))
            except RuntimeError as error:
                say(f"left out: {name}: {error}")
        say(f"round {number + 1}: {', '.join(name for name, one in loads.items() if one['many'])}")
    return {
        name: {
            "rate": statistics.median(load.rate for load in one["many"]),
            "p50": statistics.median(load.p50 for load in one["many"]),
            "p99": statistics.median(load.p99 for load in one["many"]),
            "lone": statistics.median(load.p50 for load in one["lone"]),
        }
        for name, one in loads.items()
        if one["many"] and one["lone"]
    }


@dataclass(frozen=True)
class Network:
    """A model that computes enough for batches to matter."""

    model: str  # as SERVERS take it
    ask: bytes  # a request's body
    decoded: Any  # what `predict` gets of it


RESNET = Network("resnet:ResNet", ASK, 4.0)
DIGITS = Network("digits:Cnn", json.dumps({"pixels": SCAN}).encode(), SCAN)


def saturated(network: Network, turns: int, seconds: float, say: Callable[[str], None]) -> Results:
    """Predictions a second with a whole batch always waiting, against the bare loop."""
    rates: dict[str, list[float]] = {}
    for number in range(turns):
        rates.setdefault("offline loop", []).append(_offline(network, seconds))
        answers = set()
        for name in ("Headgate", "LitServe"):
            if importlib.util.find_spec(SERVERS[name][0]) is None:
                continue
            with server(name, WINDOW_S, network.model, network.ask) as url:
                answers.add(_post(url, network.ask))
                _loaded(url, 2 * BATCH, 1, network.ask)
                load = _loaded(url, 2 * BATCH, seconds, network.ask)
                rates.setdefault(name, []).append(load.rate)
        if len(answers) > 1:
            raise RuntimeError(f"the servers do not compute the same: {answers}")
        say(f"turn {number + 1}: " + ", ".join(f"{n} {r[-1]:.0f}/s" for n, r in rates.items()))
    return {name: _middle("rate", values) for name, values in rates.items()}


def _middle(what: str, values: list[float]) -> Results:
    """The median of `values` as `what`, and their range."""
    return {what: statistics.median(values), "low": min(values), "high": max(values)}


def _offline(network: Network, seconds: float) -> float:
    """The best rate of the same network without a server, over some batch sizes."""
    module, _, name = network.model.partition(":")
    code = f"""
import time
from benchmarks.models.{module} import {name}
model, best = {name}(), 0.0
model.setup("cpu")
for size in (4, 8, 16, 32):
    inputs, done = [{network.decoded!r}] * size, 0
    model.predict(inputs)
    end = time.monotonic() + {seconds / 4}
    began = time.monotonic()
    while time.monotonic() < end:
        model.predict(inputs)
        done += size
    best = max(best, done / (time.monotonic() - began))
print(best)
"""
    done = subprocess.run(
        [PYTHON, "-c", code], cwd=ROOT, env=LIMITED, capture_output=True, check=True
    )
    return float(done.stdout)


def streamed(rounds: int, items: int = 10_000) -> Results:
    """Items a second of one stream, from the question to its last item."""
    results: Results = {}
    for name in ("Headgate", "LitServe"):
        if importlib.util.find_spec(SERVERS[name][0]) is None:
            continue
        with server(name, 0.0, "counting:Counting", b'{"input": 3}') as url:
            took = []
            for _ in range(max(3, rounds)):
                began = time.monotonic()
                answer = _post(url, b'{"input": %d}' % items)
                took.append(time.monotonic() - began)
                assert str(items - 1).encode() in answer[-200:], answer[-200:]
        results[name] = {"rate": items / statistics.median(took)}
    return results


def large(turns: int, size: int = 10 << 20) -> Results:
    """Milliseconds for 10 MiB in and out, and for parsing and copying it once in one process."""
    body = os.urandom(size)
    took: dict[str, list[float]] = {"Headgate": [], "parsed and copied once": []}
    with (
        server("Headgate", 0.0, "echo:Echo", b"hello") as url,
        script("benchmarks.upstreams", "mirror", core="") as ports,
    ):
        for _ in range(turns):
            for values, port in zip(took.values(), (url.rpartition(":")[2], *ports), strict=True):
                values.append(1000 * _there_and_back(int(port), body))
    return {name: _middle("ms", values) for name, values in took.items()}


def _there_and_back(port: int, body: bytes) -> float:
    """Seconds from the question's first byte to the answer's last, on one kept connection: the
    median of ten.

    The client is as bare as can be, so that what is compared is not its own copying.
    """
    head = (
        f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    room, took = bytearray(len(body) + (64 << 10)), []
    with socket.create_connection(("127.0.0.1", port)) as peer:
        for _ in range(10):
            began = time.monotonic()
            peer.sendall(head)
            peer.sendall(body)
            got, whole = 0, sys.maxsize
            while got < whole:
                got += peer.recv_into(memoryview(room)[got:]) or sys.maxsize
                if whole == sys.maxsize and (end := room.find(b"\r\n\r\n", 0, got)) >= 0:
                    whole = end + 4 + len(body)
            took.append(time.monotonic() - began)
            assert room.startswith(b"HTTP/1.1 200"), bytes(room[:200])
            assert room[whole - len(body) : whole] == body, "not what was sent"
    return statistics.median(took)


def everything(rounds: int, seconds: float, say: Callable[[str], None]) -> Results:
    """All of this file's measurements."""
    turns = 1 if rounds * seconds <= 2 else max(TURNS, rounds)
    short = min(seconds, TURN_S)
    return {
        "trivial": trivial(rounds, seconds, say),
        "heavy": saturated(RESNET, turns, short, say),
        "digits": saturated(DIGITS, turns, short, say),
        "streamed": streamed(rounds),
        "large": large(turns),
    }
