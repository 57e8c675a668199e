"""How many requests per second, and how late: wrk on the load's core."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import LOAD_CORE, on_core

BODY = '{"input": 4.0}'
POST = """wrk.method = "POST"
wrk.body = '{body}'
wrk.headers["Content-Type"] = "application/json"
"""
# Think times between 0 and twice the mean make arrivals as irregular as those of many clients.
PACED = "function delay() return math.random(0, {twice}) end\n"
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass(frozen=True)
class Load:
    """What wrk saw. Latencies in milliseconds."""

    rate: float
    p50: float
    p99: float
    errors: int


def wrk(
    url: str,
    connections: int = 32,
    seconds: float = 5,
    rate: float = 0,
    path: str = "/predict",
    body: str = BODY,
) -> Load:
    """A closed loop of `connections`, or about `rate` requests per second where one is given."""
    lua = POST.format(body=body)
    if rate:
        connections = 128
        lua += PACED.format(twice=max(1, round(2000 * connections / rate)))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "post.lua"
        file.write_text(lua)
        command = [
            "wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency",
            "--timeout", "5s", "-s", str(file), url + path,
        ]  # fmt: skip
        done = subprocess.run(
            on_core(LOAD_CORE, command), capture_output=True, text=True, check=True
        )
    return parse(done.stdout)


def parse(text: str) -> Load:
    """The figures on wrk's page."""

    def latency(percent: str) -> float:
        match = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m)", text, re.M)
        return float(match[1]) * _UNITS[match[2]] if match else float("nan")

    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    sockets = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    errors = int(bad[1]) if bad else 0
    errors += sum(int(number) for number in sockets.groups()) if sockets else 0
    return Load(float(rate[1]) if rate else 0.0, latency("50"), latency("99"), errors)
