"""What does the service manager that started this process give it, and want to hear from it?

systemd's protocols, which others speak too: sockets that it listens on (`LISTEN_FDS`, see
sd_listen_fds(3)), and words about how the service is (`NOTIFY_SOCKET`, see sd_notify(3)). The
variables are for this process and nobody it starts: they are taken out of the environment.
"""

import os
import socket
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

FIRST_FD = 3
ADMIN = "admin"
"""The name of the socket of the admin API; any other is for requests."""

BUSY_S = 0.5

_OURS = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_NOTICE = ("NOTIFY_SOCKET", "WATCHDOG_USEC")


class Unusable(Exception):
    """What was handed over cannot be used; the text is one clear line."""


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """`notify_socket` is where it wants to hear, "" where nobody does; `watchdog_s`: how often at
    least, 0 for never. `fds` are the descriptors of sockets that it opened, with their names."""

    notify_socket: str = ""
    watchdog_s: float = 0.0
    fds: Sequence[tuple[int, str]] = ()

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str], pid: int) -> "ServiceManager":
        """What `environment` says to process `pid`; it is said to nobody else afterwards."""
        said = {name: environment.pop(name, "") for name in (*_OURS, *_NOTICE, "WATCHDOG_PID")}
        is_watched = said["WATCHDOG_PID"] in ("", str(pid)) and said["WATCHDOG_USEC"].isdigit()
        fds: list[tuple[int, str]] = []
        if said["LISTEN_PID"] == str(pid) and said["LISTEN_FDS"].isdigit():
            count = int(said["LISTEN_FDS"])
            names = said["LISTEN_FDNAMES"].split(":") if said["LISTEN_FDNAMES"] else []
            names += [""] * (count - len(names))
            fds = [(FIRST_FD + number, names[number]) for number in range(count)]
        return cls(
            said["NOTIFY_SOCKET"],
            int(said["WATCHDOG_USEC"]) / 1_000_000 if is_watched else 0.0,
            tuple(fds),
        )

    def notify(self, *lines: str) -> None:
        """Says `lines`, such as READY=1, if anybody wants to hear, and waits a moment for a manager
        that is busy. Whether it arrives is its concern: a service must not fail for it."""
        if not self.notify_socket:
            return
        path = self.notify_socket
        address = f"\0{path[1:]}" if path.startswith("@") else path
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
                to.settimeout(BUSY_S)
                to.sendto("\n".join(lines).encode(), address)
        except OSError:
            pass

    def environment(self) -> Mapping[str, str]:
        """For a successor of this process, which the manager hears as it heard this one."""
        said = {"NOTIFY_SOCKET": self.notify_socket} if self.notify_socket else {}
        if self.watchdog_s:
            said["WATCHDOG_USEC"] = str(round(self.watchdog_s * 1_000_000))
        return said

    def sockets(self) -> tuple[list[socket.socket], socket.socket | None]:
        """The sockets for requests, and that for the admin API or None. Unusable says which of them
        is no listening TCP socket, or that none is for requests."""
        data: list[socket.socket] = []
        admin: socket.socket | None = None
        for fd, name in self.fds:
            bound = _listening(fd, name)
            if name == ADMIN and admin is None:
                admin = bound
            else:
                data.append(bound)
        if self.fds and not data:
            raise Unusable(
                "LISTEN_FDS: every socket is called admin, and none is left for requests;"
                " FileDescriptorName= says what a socket is for"
            )
        return data, admin


NOBODY = ServiceManager()


def _listening(fd: int, name: str) -> socket.socket:
    called = f"descriptor {fd}{f' ({name})' if name else ''}"
    try:
        os.set_inheritable(fd, False)
        bound = socket.socket(fileno=fd)
    except OSError as error:
        raise Unusable(f"LISTEN_FDS: {called} is no socket: {error.strerror}") from None
    is_tcp = bound.type == socket.SOCK_STREAM and bound.family in (socket.AF_INET, socket.AF_INET6)
    if not is_tcp or not bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        bound.detach()
        raise Unusable(f"LISTEN_FDS: {called} is no TCP socket that listens (ListenStream=)")
    bound.setblocking(False)
    return bound
