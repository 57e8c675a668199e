"""How fast does an instance serve a trivial model, beside the servers people use today?

Everybody shares both cores with wrk. A lone request is measured through a batching window of
5 ms: nothing else is coming, and a server that waits for it anyway shows it here.
"""

import contextlib
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import Request, urlopen

from benchmarks.machine import PYTHON, free_port, new_folder, start
from benchmarks.wrk import BODY, Load, wrk

Results = dict[str, Any]
WINDOW_S = 0.005


def _headgate(port: int, window_s: float) -> list[str]:
    return [
        PYTHON, "-m", "instance", "benchmarks.models.headgate_square:Square",
        "--host", "127.0.0.1", "--port", str(port), "--max-batch-size", "32",
        "--batch-timeout", str(window_s), "--device", "cpu",
    ]  # fmt: skip


def _module(name: str) -> Callable[[int, float], list[str]]:
    return lambda port, window_s: [
        PYTHON, "-m", f"benchmarks.models.{name}_square", str(port), str(window_s)
    ]  # fmt: skip


SERVERS: dict[str, tuple[str, Callable[[int, float], list[str]]]] = {
    "Headgate": ("instance", _headgate),
    "mosec": ("mosec", _module("mosec")),
    "LitServe": ("litserve", _module("litserve")),
    "FastAPI": ("fastapi", _module("fastapi")),
}


@contextmanager
def server(name: str, window_s: float) -> Iterator[str]:
    """The server `name` with the square model; yields its URL once it predicts."""
    folder, port = new_folder(), free_port()
    running = start(SERVERS[name][1](port, window_s), folder)
    url = f"http://127.0.0.1:{port}"
    try:
        _until_it_predicts(url, running)
        yield url
    finally:
        running.stop()


def _until_it_predicts(url: str, running: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    ask = Request(url + "/predict", BODY.encode(), {"Content-Type": "application/json"})
    while True:
        with contextlib.suppress(OSError), urlopen(ask, timeout=2) as answer:
            assert b"16.0" in answer.read()
            return
        if running.process.poll() is not None or time.monotonic() > end:
            tail = (running.folder / "log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{url} does not predict:\n{tail}")
        time.sleep(0.1)


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
                    mine["many"].append(wrk(url, 32, seconds))
                with server(name, WINDOW_S) as url:
                    mine["lone"].append(wrk(url, 1, min(3, seconds)))
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
