"""What runs on each host: a member of etcd, a gateway, and a model that says which host it is on.

Started here as an operator would, on a `Network`; each can be killed, stopped and started again.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from examples.hosts.network import Network

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "only-on-these-hosts-and-never-elsewhere"
DATA, ADMIN, MODEL, ETCD, PEERS = 8080, 8081, 8000, 2379, 2380
END_S = 20.0
Part = Literal["etcd", "gateway", "model"]


def missing() -> str:
    """What is not there that this needs; empty if nothing is."""
    needed = ("etcd", "ip", "nsenter", "unshare")
    return " ".join(each for each in needed if shutil.which(each) is None)


class Cluster:
    """The parts on the hosts of `network`, with their files below `folder`. `settings` are keys of
    the section `gateway:`, `table` the rest of the file (left out, it is of the hosts' models), and
    `options` those of etcd."""

    def __init__(
        self,
        network: Network,
        folder: Path,
        table: Mapping[str, Any] | None = None,
        options: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        self.network, self._folder = network, folder
        self._table = self._models() if table is None else table
        self._options, self._settings = options, settings
        self._running: dict[tuple[Part, str], subprocess.Popen[bytes]] = {}

    def url(self, name: str) -> str:
        """Where clients reach the gateway of that host."""
        return f"http://{self.network.address(name)}:{DATA}"

    def admin(self, name: str) -> str:
        """Where its admin API is."""
        return f"http://{self.network.address(name)}:{ADMIN}"

    def start(self, part: Part, *names: str, **settings: Any) -> None:
        """Starts that part of these hosts, or of all; returns at once. Gateways of these get other
        `settings` than the rest."""
        for name in names or self.network.names:
            if part == "gateway":
                self._write(name, {**self._settings, **settings})
            with self.log(part, name).open("ab") as log:
                self._running[part, name] = subprocess.Popen(
                    [*self.network.on(name), *self._command(part, name)],
                    cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True, env={**os.environ, **self._environment(name)},
                )  # fmt: skip

    def signal(self, part: Part, number: signal.Signals, *names: str) -> None:
        """Sends `number` to all processes of that part of these hosts, or of all."""
        for name in names or self.network.names:
            if (process := self._running.get((part, name))) is not None:
                for pid in _family(process.pid):
                    _send(pid, number)

    def kill(self, part: Part, *names: str) -> None:
        """As when the host loses its power."""
        self.signal(part, signal.SIGKILL, *names)
        for name in names or self.network.names:
            if (process := self._running.pop((part, name), None)) is not None:
                process.wait(END_S)

    def stop(self, part: Part, *names: str) -> None:
        """Ends that part of these hosts, or of all, in order."""
        running = [self._running.pop((part, each), None) for each in names or self.network.names]
        for process in running:
            if process is not None:
                process.terminate()
        for process in running:
            if process is not None:
                process.wait(END_S)

    def log(self, part: Part, name: str) -> Path:
        """What it wrote."""
        return self._folder / f"{part}-{name}.log"

    def close(self) -> None:
        """Ends everything."""
        for part, name in list(self._running):
            self.kill(part, name)

    def _command(self, part: Part, name: str) -> list[str]:
        if part == "etcd":
            return ["etcd", *self._options]
        if part == "gateway":
            state = self._folder / f"state-{name}"
            file = str(self._folder / f"{name}.yaml")
            return [sys.executable, "-m", "gateway", "gateway", file, "--state-dir", str(state)]
        model = ["examples.hosts.models:Where", "--host", self.network.address(name, "hosts")]
        return [sys.executable, "-m", "gateway", "instance", *model, "--port", str(MODEL)]

    def _environment(self, name: str) -> dict[str, str]:
        at = {each: self.network.address(each, "hosts") for each in self.network.names}
        client, peer = f"http://{at[name]}:{ETCD}", f"http://{at[name]}:{PEERS}"
        return {
            "HEADGATE_TOKEN": TOKEN,
            "HOST_NAME": name,
            "ETCD_NAME": name,
            "ETCD_DATA_DIR": str(self._folder / f"etcd-{name}"),
            "ETCD_LISTEN_CLIENT_URLS": client,
            "ETCD_ADVERTISE_CLIENT_URLS": client,
            "ETCD_LISTEN_PEER_URLS": peer,
            "ETCD_INITIAL_ADVERTISE_PEER_URLS": peer,
            "ETCD_INITIAL_CLUSTER": ",".join(f"{n}=http://{a}:{PEERS}" for n, a in at.items()),
            "ETCD_PRE_VOTE": "true",
            "ETCD_UNSUPPORTED_ARCH": os.uname().machine,
        }

    def _write(self, name: str, settings: Mapping[str, Any]) -> None:
        addresses = [self.network.address(each, "hosts") for each in self.network.names]
        etcd = {
            "endpoints": [f"http://{each}:{ETCD}" for each in addresses],
            "prefix": "/headgate/hosts",
            **settings.get("etcd", {}),
        }
        own = {
            "node": f"gw-{name}",
            "listen": f"{self.network.address(name)}:{DATA}",
            "admin": f"{self.network.address(name)}:{ADMIN}",
            "store": "etcd",
            **settings,
            "etcd": etcd,
        }
        file = self._folder / f"{name}.yaml"
        file.write_text(json.dumps({"gateway": own, **self._table}, indent=1))  # JSON is YAML

    def _models(self) -> dict[str, Any]:
        health = {"interval": "1s", "fall": 2, "rise": 1}
        hosts = {
            f"on-{each}": {
                "instances": [f"http://{self.network.address(each, 'hosts')}:{MODEL}"],
                "health": health,
            }
            for each in self.network.names
        }
        route = {
            "match": "/where",
            "rewrite": "/predict",
            "split": dict.fromkeys(hosts, 1),
            "retries": {"attempts": 3, "on": ["connect_failure", "reset"], "retry_safe": True},
        }
        return {"backends": hosts, "routes": {"where": route}}


def _family(top: int) -> list[int]:
    """The process `top` and all that came of it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue  # it ended meanwhile
        children.setdefault(parent, []).append(int(entry.parent.name))
    found, due = list[int](), [top]
    while due:
        found.append(due.pop())
        due += children.get(found[-1], [])
    return found


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
