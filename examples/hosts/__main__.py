"""`make hosts`: three hosts in network namespaces, to take apart by hand.

On each a gateway, a member of etcd and a model. Commands are read line by line; at the end of the
input, or at Ctrl-C, all of it is ended.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from examples.hosts.cluster import ROOT, TOKEN, Cluster, missing
from examples.hosts.network import ENTER, Network

INSIDE = "HEADGATE_EXAMPLE_HOSTS"
START_S = 120.0
HELP = """\
  ask [N]             sends N requests (30) to every gateway, and counts what came of them
  edit HOST WEIGHT    has the gateway of HOST give the model of host a that weight
  status HOST         what the gateway of HOST knows
  cut HOST            cuts HOST off from the other hosts; its clients still reach it
  heal HOST           joins it again
  kill PART HOST      kills `gateway`, `etcd` or `model` there
  pause PART HOST     stops all its processes;  go PART HOST  lets them go on
  start PART HOST     starts what was killed
  end                 ends all of it (Ctrl-D does too)"""


def main() -> int:
    """The exit code."""
    if absent := missing():
        print(f"make hosts needs {absent}: apt-get install etcd-server iproute2 util-linux")
        return 1
    if not os.environ.get(INSIDE):
        if entering := _enter():
            os.execvpe(entering[0], entering, {**os.environ, INSIDE: "1"})
        print("make hosts needs a network namespace of its own: run it as root")
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    network = Network("abc")
    with tempfile.TemporaryDirectory(prefix="headgate-hosts-") as folder:
        cluster = Cluster(network, Path(folder), workers=2, lame_duck="0s")
        try:
            _start(cluster)
            _serve(cluster)
        except KeyboardInterrupt:
            print()
        finally:
            cluster.close()
            network.close()
    return 0


def _enter() -> list[str]:
    """The command that runs this again in a network namespace of its own; none if nobody may."""
    command = [*ENTER, sys.executable, "-m", "examples.hosts"]
    if subprocess.run([*ENTER, "true"], capture_output=True, check=False).returncode:
        if os.geteuid():
            return []
        command.remove("--map-root-user")  # who is root needs no privilege by another name
    return command


def _start(cluster: Cluster) -> None:
    print("== starting etcd, a gateway and a model on each of three hosts")
    for part in ("etcd", "model", "gateway"):
        cluster.start(part)
    end = time.monotonic() + START_S
    for name in cluster.network.names:
        while _ask(f"{cluster.url(name)}/where", {})[0] != 200:
            if time.monotonic() > end:
                raise SystemExit(cluster.log("gateway", name).read_text()[-2000:])
            time.sleep(0.1)
    for name in cluster.network.names:
        print(f"   host {name}: {cluster.url(name)}/where, admin API {cluster.admin(name)}")
    print(HELP)


def _serve(cluster: Cluster) -> None:
    while True:
        print("hosts> " if sys.stdin.isatty() else "", end="", flush=True)
        line = sys.stdin.readline()
        words = line.split()
        if not line or words == ["end"]:
            return
        try:
            print(_do(cluster, words))
        except (KeyError, ValueError, IndexError):
            print(HELP)


def _do(cluster: Cluster, words: list[str]) -> str:
    """What came of one line."""
    match words:
        case []:
            return ""
        case ["ask", *count]:
            return _count(cluster, int(count[0]) if count else 30)
        case ["edit", host, weight]:
            return _edit(cluster, _host(cluster, host), int(weight))
        case ["status", host]:
            return _status(cluster, _host(cluster, host))
        case ["cut" | "heal" as what, host]:
            move = cluster.network.cut if what == "cut" else cluster.network.heal
            move(_host(cluster, host))
        case [("kill" | "pause" | "go" | "start") as what, ("etcd" | "gateway" | "model") as part,
              host]:  # fmt: skip
            _host(cluster, host)
            if what == "kill":
                cluster.kill(part, host)
            elif what == "start":
                cluster.start(part, host)
            else:
                number = signal.SIGSTOP if what == "pause" else signal.SIGCONT
                cluster.signal(part, number, host)
        case _:
            raise ValueError(words)
    return "done"


def _host(cluster: Cluster, name: str) -> str:
    if name not in cluster.network.names:
        raise ValueError(name)
    return name


def _count(cluster: Cluster, count: int) -> str:
    lines = []
    for name in cluster.network.names:
        found: Counter[str] = Counter()
        for _ in range(count):
            status, said, revision = _ask(f"{cluster.url(name)}/where", {})
            where = f"from host {said['host']}" if status == 200 else said.get("code", "no answer")
            found[f"{status or '–'} {where}, revision {revision or '–'}"] += 1
        lines += [f"  gateway {name}: {n:4} × {what}" for what, n in sorted(found.items())]
    return "\n".join(lines)


def _edit(cluster: Cluster, name: str, weight: int) -> str:
    began = time.monotonic()
    url = f"{cluster.admin(name)}/admin/v1/routes/where/weights"
    status, said, _ = _ask(url, {"on-a": weight}, "PATCH")
    told = said.get("applied") or said.get("detail") or said
    return f"  {status or 'no answer'} after {time.monotonic() - began:.2f} s: {told}"


def _status(cluster: Cluster, name: str) -> str:
    status = [sys.executable, "-m", "gateway", "status", "--url", cluster.admin(name)]
    done = subprocess.run(
        [*status, "--token", TOKEN], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def _ask(url: str, body: Any, method: str = "POST") -> tuple[int, Any, str | None]:
    """Status, answer and revision; 0 where there was no answer."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
    asked = urllib.request.Request(url, json.dumps(body).encode(), headers, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=15) as answer:
            return answer.status, json.load(answer), answer.headers.get("X-Headgate-Revision")
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), error.headers.get("X-Headgate-Revision")
    except (OSError, ValueError) as error:
        return 0, {"detail": str(error)}, None


if __name__ == "__main__":
    sys.exit(main())
