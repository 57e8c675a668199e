"""What a service manager gives a gateway and hears from it: systemd's protocols, from a test."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.processes.service_manager import NOBODY, ServiceManager, Unusable
from gateway.processes.sockets import bind
from tests.harness.gateway import ROOT, START_S, Gateway, eventually, one_backend
from tests.harness.origins import origins
from tests.harness.orphans import kill_all
from tests.harness.succession import holder, upgrade

UNITS = ROOT / "deploy" / "systemd"
# As systemd does it: descriptors from 3 on, and the variables for this very process.
ACTIVATE = """
import os, sys
fds, names, *command = sys.argv[1:]
for number, fd in enumerate(fds.split(",")):
    os.dup2(int(fd), 3 + number)
    os.set_inheritable(3 + number, True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds.split(",")))}
os.environ |= {"LISTEN_FDNAMES": names, "WATCHDOG_PID": str(os.getpid())}
os.execv(command[0], command)
"""


def read(environment: dict[str, str], pid: int = 7) -> ServiceManager:
    return ServiceManager.from_environment(environment, pid)


def test_what_is_said_is_for_the_process_that_is_named_and_nobody_it_starts() -> None:
    said = {
        "LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "requests:admin",
        "NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7", "PATH": "/bin",
    }  # fmt: skip
    environment = dict(said)
    found = read(environment)
    assert found == ServiceManager("/run/x", 3.0, ((3, "requests"), (4, "admin")))
    assert environment == {"PATH": "/bin"}
    assert found.environment() == {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "3000000"}
    other = read(dict(said), 8)
    assert (other.fds, other.watchdog_s, other.notify_socket) == ((), 0.0, "/run/x")
    assert read({}) == NOBODY
    assert read({"LISTEN_PID": "7", "LISTEN_FDS": "1"}).fds == ((3, ""),)
    assert read({"LISTEN_PID": "7", "LISTEN_FDS": "-1", "WATCHDOG_USEC": "x"}) == NOBODY


@pytest.fixture
def fds() -> Iterator[dict[str, int]]:
    """Descriptors that a manager might hand over by mistake, and right ones."""
    listening, bound = bind("127.0.0.1:0"), bind("127.0.0.1:0")
    listening[0].listen()
    udp, unix = socket.socket(type=socket.SOCK_DGRAM), socket.socket(socket.AF_UNIX)
    read_end, write_end = os.pipe()
    yield {
        "tcp": os.dup(listening[0].fileno()), "bound": os.dup(bound[0].fileno()),
        "udp": os.dup(udp.fileno()), "unix": os.dup(unix.fileno()), "pipe": os.dup(read_end),
    }  # fmt: skip
    for each in (*listening, *bound, udp, unix):
        each.close()
    os.close(read_end)
    os.close(write_end)


@pytest.mark.parametrize("kind", ["bound", "udp", "unix", "pipe"])
def test_a_socket_that_cannot_be_served_on_is_named(fds: dict[str, int], kind: str) -> None:
    with pytest.raises(Unusable, match=f"LISTEN_FDS: descriptor {fds[kind]} \\(web\\) is no "):
        ServiceManager(fds=((fds[kind], "web"),)).sockets()


def test_a_socket_called_admin_is_that_of_the_api_and_all_others_are_for_requests(
    fds: dict[str, int],
) -> None:
    data, admin = ServiceManager(fds=((fds["tcp"], "headgate.socket"),)).sockets()
    assert (len(data), admin) == (1, None)
    with pytest.raises(Unusable, match="none is left for requests"):
        ServiceManager(fds=((os.dup(fds["tcp"]), "admin"),)).sockets()


class Manager:
    """A service manager: it listens, starts the gateway, and hears of it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._hears = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._hears.setblocking(False)
        self._hears.bind(str(self.path))
        (self.data,), (self.admin,) = bind("127.0.0.1:0"), bind("127.0.0.1:0")
        self.data.listen()
        self.admin.listen()
        self.heard: list[str] = []
        asyncio.get_running_loop().add_reader(self._hears, self.hear)

    def hear(self) -> list[str]:
        """Every line so far, in order."""
        while True:
            try:
                self.heard += self._hears.recv(4096).decode().splitlines()
            except BlockingIOError:
                return self.heard

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._hears)
        for each in (self._hears, self.data, self.admin):
            each.close()


class Activated(Gateway):
    """A gateway whose sockets somebody else opened."""

    def __init__(self, manager: Manager, folder: Path, document: dict[str, Any]) -> None:
        env = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "600000"}
        super().__init__(folder, document, env)
        self.manager = manager
        self.data_port = manager.data.getsockname()[1]
        self.admin_port = manager.admin.getsockname()[1]

    async def start(self) -> None:
        self.write_file()
        fds = [self.manager.data.fileno(), self.manager.admin.fileno()]
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", ACTIVATE, ",".join(map(str, fds)), "requests:admin",
                sys.executable, "-m", "gateway", "gateway", str(self.file),
                "--state-dir", str(self.folder / "state"),
                cwd=ROOT, env=self.env, start_new_session=True, pass_fds=fds, stdout=log,
                stderr=log,
            )  # fmt: skip
        await eventually(self.answers, START_S)


async def test_a_service_begins_on_its_managers_sockets_tells_it_all_and_is_replaced(
    tmp_path: Path,
) -> None:
    manager = Manager(tmp_path)
    async with origins(1) as (stub,):
        section = {"listen": "127.0.0.1:1", "admin": "127.0.0.1:2", "workers": 2}
        section |= {"lame_duck": "0s", "drain": "5s"}
        gateway = Activated(manager, tmp_path, {"gateway": section, **one_backend(stub)})
        waiting = asyncio.create_task(gateway.client.get(gateway.url, timeout=60))
        try:
            await gateway.start()
            assert (await waiting).status == 200, "who came before the start has waited"
            first = holder(gateway)
            # A request is answered as soon as a worker is there, the word comes once all are.
            await eventually(lambda: "READY=1" in manager.hear(), what="the word that it is ready")
            assert f"MAINPID={first}" in manager.hear()
            await eventually(lambda: manager.hear().count("WATCHDOG=1") > 2, what="signs of life")
            assert "NOTIFY_SOCKET" not in environ(await gateway.control_pid())

            manager.heard.clear()
            await upgrade(gateway)
            second = holder(gateway)
            await eventually(lambda: "READY=1" in manager.hear(), what="the successor's word")
            ready = manager.heard.index("READY=1")
            assert manager.heard[ready + 1] == f"MAINPID={second}"
            assert "STOPPING=1" not in manager.heard, "the service goes on"
            assert (await gateway.client.get(gateway.url, fresh=True)).status == 200
            manager.heard.clear()
            await eventually(lambda: "WATCHDOG=1" in manager.hear(), 60)
            await gateway.stop()
            assert "STOPPING=1" in manager.hear()
        finally:
            waiting.cancel()
            kill_all(gateway.family())
            manager.close()


def environ(pid: int) -> str:
    path = Path(f"/proc/{pid}/environ")
    return path.read_text() if path.exists() else ""


def test_the_units_name_what_there_is() -> None:
    service, sock = (
        (UNITS / "headgate.service").read_text(),
        (UNITS / "headgate.socket").read_text(),
    )
    assert "Type=notify" in service
    assert "NotifyAccess=all" in service, "a successor speaks before it is the main process"
    assert "\nExecStop=" in service, "with KillMode=mixed a successor would be killed at once"
    assert "StartLimitIntervalSec=0" in service, "with a limit the sockets close, and refuse"
    assert "FileDescriptorName=requests" in sock
    admin = (UNITS / "headgate-admin.socket").read_text()
    assert "FileDescriptorName=admin" in admin
    assert "Sockets=headgate.socket headgate-admin.socket" in service


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_the_units_are_verified_by_systemd(tmp_path: Path) -> None:
    for unit in UNITS.glob("headgate*"):
        text = unit.read_text().replace("/opt/headgate/bin/headgate", sys.executable)
        (tmp_path / unit.name).write_text(text)
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.glob("headgate*")))],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    complaints = [line for line in ran.stderr.splitlines() if "headgate" in line]
    assert complaints == []
    offline = ["security", "--offline=true", "--json=short", str(tmp_path / "headgate.service")]
    ran = subprocess.run(
        ["systemd-analyze", *offline], capture_output=True, text=True, timeout=60, check=False
    )
    if ran.returncode == 0 and ran.stdout.startswith("["):
        exposure = sum(float(each["exposure"] or 0) for each in json.loads(ran.stdout))
        assert exposure < 3.0, "systemd would call it more than OK"
