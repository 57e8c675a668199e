"""How many requests per second, and how late: wrk on the load's core, with either load."""

import random
import re
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.heads import BODY, DIFFERENT, REQUESTS, Target, as_file, different
from benchmarks.machine import LOAD_CORE, Running, on_core

# The harder one first, as on the page.
KINDS = ("different", "equal")
POST = """wrk.method = "POST"
wrk.body = '{body}'
wrk.headers["Content-Type"] = "application/json"
"""
# Think times between 0 and twice the mean make arrivals as irregular as those of many clients.
PACED = "function delay() return math.random(0, {twice}) end\n"
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass(frozen=True)
class Load:
    """What wrk saw. Latencies in milliseconds; processor time of the proxy's processes in
    microseconds a request, not a number where none was watched."""

    rate: float
    p50: float
    p99: float
    errors: int
    requests: int = 0
    user_us: float = float("nan")
    system_us: float = float("nan")


def wrk(
    url: str,
    connections: int = 32,
    seconds: float = 5,
    rate: float = 0,
    body: str = BODY,
    kind: str = "equal",
    targets: Sequence[Target] = (Target(),),
    watched: Running | None = None,
) -> Load:
    """A closed loop of `connections`, or about `rate` requests per second where one is given.

    `kind` "equal" repeats one request for the last of `targets`; "different" asks for all of
    them, and no request is like another. `watched` is whose processor time is told.
    """
    with tempfile.TemporaryDirectory() as folder:
        lua = _equal(targets[-1], body)
        if kind == "different":
            lua = _different(urlsplit(url).netloc, targets, Path(folder) / "requests")
        if rate:
            connections = 128
            lua += PACED.format(twice=max(1, round(2000 * connections / rate)))
        file = Path(folder) / "load.lua"
        file.write_text(lua)
        command = [
            "wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency",
            "--timeout", "5s", "-s", str(file), url + targets[-1].path,
        ]  # fmt: skip
        before = watched.used_s() if watched else (0.0, 0.0)
        done = subprocess.run(
            on_core(LOAD_CORE, command), capture_output=True, text=True, check=True
        )
        after = watched.used_s() if watched else (0.0, 0.0)
    load = parse(done.stdout)
    if watched is None or not load.requests:
        return load
    user, system = (1e6 * (b - a) / load.requests for a, b in zip(before, after, strict=True))
    return replace(load, user_us=user, system_us=system)


def _equal(target: Target, body: str) -> str:
    more = [("Host", target.host)] if target.host else []
    lines = [f'wrk.headers["{name}"] = "{value}"\n' for name, value in (*more, *target.headers)]
    return POST.format(body=body) + "".join(lines)


def _different(address: str, targets: Sequence[Target], file: Path) -> str:
    """The script; what it reads is written to `file`."""
    count = max(REQUESTS, len(targets))
    file.write_bytes(as_file(different(address, targets, count)))
    # No run begins with the numbers of the one before: what was learned of them is of no use.
    start = random.randrange(1, 1 << 48)
    return DIFFERENT.format(file=file, count=count, start=start)


def parse(text: str) -> Load:
    """The figures on wrk's page."""

    def latency(percent: str) -> float:
        match = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m)", text, re.M)
        return float(match[1]) * _UNITS[match[2]] if match else float("nan")

    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    sockets = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    total = re.search(r"^\s+(\d+) requests in ", text, re.M)
    errors = int(bad[1]) if bad else 0
    errors += sum(int(number) for number in sockets.groups()) if sockets else 0
    return Load(
        float(rate[1]) if rate else 0.0,
        latency("50"),
        latency("99"),
        errors,
        int(total[1]) if total else 0,
    )
