"""What does TLS cost at the door, beside Envoy: small posts on kept connections, and handshakes?

    python -m benchmarks.tls [--rounds 3] [--seconds 8]

One core for the proxy and one for the load, as everywhere here. Both show one certificate (P-256)
and take TLS 1.3 with AES-128-GCM, which the load insists on: left to themselves they would choose
different ciphers. For handshakes each request has a connection of its own, and no session is
resumed. Rounds alternate; the medians are printed, and what they are of Envoy's.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from benchmarks.gateways import started
from benchmarks.heads import Target
from benchmarks.proxies import Work, missing
from benchmarks.upstreams import nginx_upstreams
from benchmarks.wrk import Load, wrk

NAMES = ("Headgate", "Envoy")
CLOSING = Target(headers=(("Connection", "close"),))
WORKS: dict[str, tuple[int, Target]] = {
    "small posts on 32 kept connections": (32, Target()),
    "handshakes, 32 at once": (32, CLOSING),
}
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


def measure(
    rounds: int, seconds: float, say: Callable[[str], None]
) -> dict[str, dict[str, list[Load]]]:
    """What wrk saw of each proxy, by what was asked of it."""
    names = [name for name in NAMES if not missing(name)]
    for name in NAMES:
        if why := missing(name):
            say(f"left out: {name} ({why})")
    loads: dict[str, dict[str, list[Load]]] = {what: defaultdict(list) for what in WORKS}
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
    return loads


def lines(loads: dict[str, dict[str, list[Load]]]) -> list[str]:
    """The medians, for people."""
    found = []
    for what, seen in loads.items():
        rates = {name: statistics.median(load.rate for load in each) for name, each in seen.items()}
        for name, each in seen.items():
            took_us = statistics.median(load.user_us + load.system_us for load in each)
            errors = sum(load.errors for load in each)
            part = f", {rates[name] / rates['Envoy']:.2f} of Envoy's" if "Envoy" in rates else ""
            found.append(
                f"{what}: {name} {rates[name]:,.0f}/s{part}, {took_us:.0f} µs of processor time"
                f" each, {errors} errors"
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
