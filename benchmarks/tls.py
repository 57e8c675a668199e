"""What does TLS cost at the door, beside Envoy: small posts on kept connections, and handshakes?

    python -m benchmarks.tls [--rounds 3] [--seconds 8]

One core for the proxy and one for the load, as everywhere here. Both show one certificate (P-256)
and take TLS 1.3 with AES-128-GCM, which the load insists on: left to themselves they would choose
different ciphers. For handshakes each request has a connection of its own. wrk resumes its session
on each, by the ticket of the one before; `openssl s_time` never does, asks for nothing, and is
slower than what it measures, so that what its rate says of a proxy is the processor time alone.
Rounds alternate; the medians are printed, and what they are of Envoy's.
"""

import argparse
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from benchmarks.gateways import started
from benchmarks.heads import Target
from benchmarks.machine import LOAD_CORE, on_core
from benchmarks.proxies import Proxy, Work, missing
from benchmarks.upstreams import nginx_upstreams
from benchmarks.wrk import Load, wrk

NAMES = ("Headgate", "Envoy")
CLOSING = Target(headers=(("Connection", "close"),))
WORKS: dict[str, tuple[int, Target]] = {
    "small posts on 32 kept connections": (32, Target()),
    "resumed sessions with a request each, 32 at once": (32, CLOSING),
}
NEW, CLIENTS = "new sessions without a request, 4 at once", 4
# What OpenSSL reads in every process that is started from here; Envoy's library is another.
ONE_CIPHER = """openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = default
[default]
Ciphersuites = TLS_AES_128_GCM_SHA256
"""


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate that is signed by itself, and its key."""
    cert, key = folder / "tls.crt", folder / "tls.key"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", "/CN=localhost",
            "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", str(key), "-out", str(cert),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return cert, key


def new_sessions(one: Proxy, seconds: float) -> Load:
    """What `openssl s_time` saw of `one`: connections that agree on TLS for the first time."""
    address, time = f"127.0.0.1:{one.port}", str(int(seconds))
    command = ["openssl", "s_time", "-connect", address, "-new", "-time", time]
    before = one.running.used_s()
    clients = [
        subprocess.Popen(on_core(LOAD_CORE, command), stdout=subprocess.PIPE, text=True)
        for _ in range(CLIENTS)
    ]
    said = " ".join(each.communicate()[0] for each in clients)
    count = sum(map(int, re.findall(r"(\d+) connections in \d+ real seconds", said)))
    after = one.running.used_s()
    user, system = (1e6 * (b - a) / max(1, count) for a, b in zip(before, after, strict=True))
    return Load(count / int(seconds), math.nan, math.nan, 0, count, user, system)


def measure(
    rounds: int, seconds: float, say: Callable[[str], None]
) -> dict[str, dict[str, list[Load]]]:
    """What wrk saw of each proxy, by what was asked of it."""
    names = [name for name in NAMES if not missing(name)]
    for name in NAMES:
        if why := missing(name):
            say(f"left out: {name} ({why})")
    loads: dict[str, dict[str, list[Load]]] = {what: defaultdict(list) for what in (*WORKS, NEW)}
    with tempfile.TemporaryDirectory(prefix="headgate-tls-") as made, nginx_upstreams(1) as ports:
        files = certificate(Path(made))
        configuration = Path(made, "openssl.cnf")
        configuration.write_text(ONE_CIPHER)
        os.environ["OPENSSL_CONF"] = str(configuration)
        work = Work({"one": (1, ports)}, check="/", tls=files)
        with started(names, work, say) as proxies:
            for one in proxies:
                wrk(one.url, seconds=1)
            for number in range(rounds):
                for what, (connections, target) in WORKS.items():
                    for one in proxies if number % 2 else proxies[::-1]:
                        load = wrk(
                            one.url, connections, seconds, targets=(target,), watched=one.running
                        )
                        loads[what][one.name].append(load)
                        say(f"round {number + 1}, {what}: {one.name} {load.rate:,.0f}/s")
                for one in proxies if number % 2 else proxies[::-1]:
                    load = new_sessions(one, seconds)
                    loads[NEW][one.name].append(load)
                    say(f"round {number + 1}, {NEW}: {one.name} {load.rate:,.0f}/s")
    return loads


def lines(loads: dict[str, dict[str, list[Load]]]) -> list[str]:
    """The medians, for people."""
    found = []
    for what, seen in loads.items():
        rates = {name: statistics.median(load.rate for load in each) for name, each in seen.items()}
        took_us = {
            name: statistics.median(load.user_us + load.system_us for load in each)
            for name, each in seen.items()
        }
        for name, each in seen.items():
            errors, part = sum(load.errors for load in each), ""
            if "Envoy" in rates:
                part = (
                    f"; {rates[name] / rates['Envoy']:.2f} of Envoy's rate,"
                    f" {took_us['Envoy'] / took_us[name]:.2f} by processor time"
                )
            found.append(
                f"{what}: {name} {rates[name]:,.0f}/s, {took_us[name]:.0f} µs of processor time"
                f" each, {errors} errors{part}"
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tls", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8, help="of each measurement")
    options = parser.parse_args()
    loads = measure(
        options.rounds, options.seconds, lambda line: print(line, file=sys.stderr, flush=True)
    )
    print("\n".join(lines(loads)))


if __name__ == "__main__":
    main()
