"""How does one machine become several hosts? As network namespaces, joined by two switches.

By one switch clients come, by the other the hosts reach each other; a host can be cut off from
either. The switches are in the namespace of whoever makes this, which must be one of its own
(`ENTER`): a Docker Engine may drop what goes over a bridge of the machine's. Nothing here outlives
the process that made it, and nothing of it reaches the machine's network.
"""

import subprocess
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Literal

ENTER = ("unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")
"""What a command is begun with to have such a namespace; no privilege is needed for it."""

Switch = Literal["clients", "hosts"]
NETWORKS: dict[Switch, str] = {"clients": "10.98.0", "hosts": "10.99.0"}
HERE = 254


class Network:
    """Hosts of these names, a letter or two each; this process is at `.254` on both switches."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._stack = ExitStack()
        self._holders: dict[str, int] = {}
        lines = []
        for switch, net in NETWORKS.items():
            lines += [f"link add {switch} type bridge", f"addr add {net}.{HERE}/24 dev {switch}"]
            lines += [f"link set {switch} up"]
        _ip((), lines)
        for name in names:
            self._add(name)

    def address(self, name: str, switch: Switch = "clients") -> str:
        """Where that host is, on that switch."""
        return f"{NETWORKS[switch]}.{self.names.index(name) + 1}"

    def here(self, switch: Switch = "clients") -> str:
        """Where this process is, on that switch."""
        return f"{NETWORKS[switch]}.{HERE}"

    def on(self, name: str) -> tuple[str, ...]:
        """What a command is begun with to run on that host."""
        return "nsenter", f"--net=/proc/{self._holders[name]}/ns/net", "--"

    def cut(self, name: str, switch: Switch = "hosts") -> None:
        """From now on nothing comes to that host by that switch, nor from it."""
        _ip((), [f"link set {switch}-{name} down"])

    def heal(self, name: str, switch: Switch = "hosts") -> None:
        """Joins it again."""
        _ip((), [f"link set {switch}-{name} up"])

    def close(self) -> None:
        """Ends the hosts; what runs on them does not end by that."""
        self._stack.close()
        _ip((), [f"link del {switch}" for switch in NETWORKS])

    def _add(self, name: str) -> None:
        # It holds the namespace until its standard input ends, which is when we do.
        holder = self._stack.enter_context(
            subprocess.Popen(
                ["unshare", "--net", "sh", "-c", "echo; exec cat"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
        )  # fmt: skip
        assert holder.stdout is not None
        holder.stdout.readline()
        self._holders[name] = holder.pid
        inside = ["link set lo up"]
        for switch, net in NETWORKS.items():
            ends = f"link add {switch}-{name} type veth peer name {switch} netns {holder.pid}"
            _ip((), [ends, f"link set {switch}-{name} master {switch} up"])
            address = f"{net}.{self.names.index(name) + 1}/24"
            inside += [f"addr add {address} dev {switch}", f"link set {switch} up"]
        _ip(self.on(name), inside)


def _ip(where: Sequence[str], lines: Iterable[str]) -> None:
    subprocess.run([*where, "ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)
