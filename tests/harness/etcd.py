"""How does a test get an etcd of its own, of one member or three?

Debian's `etcd` on free ports, its data in a temporary folder, ended with its test. Without a binary
the test is skipped, and says why.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import pytest

from gateway.controlplane.store.etcd.client import Access, Client, EtcdRefused, b64
from tests.harness.ports import free_port

START_S = 60.0


class Cluster:
    """Members that run; `urls` are where clients reach them."""

    def __init__(
        self, folder: Path, size: int, more: Sequence[str] = (), tls: bool = False
    ) -> None:
        self._folder, self._more = folder, list(more)
        scheme = "https" if tls else "http"
        self.urls = [f"{scheme}://127.0.0.1:{free_port()}" for _ in range(size)]
        self._peers = [f"http://127.0.0.1:{free_port()}" for _ in range(size)]
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * size

    def start(self, *members: int) -> None:
        """Starts these members, or all, on the data that they had."""
        everyone = ",".join(f"m{n}={peer}" for n, peer in enumerate(self._peers))
        for n in members or range(len(self.urls)):
            with (self._folder / f"m{n}.log").open("ab") as log:
                self._processes[n] = subprocess.Popen(
                    [
                        "etcd", "--name", f"m{n}", "--data-dir", str(self._folder / f"m{n}"),
                        "--listen-client-urls", self.urls[n],
                        "--advertise-client-urls", self.urls[n],
                        "--listen-peer-urls", self._peers[n],
                        "--initial-advertise-peer-urls", self._peers[n],
                        "--initial-cluster", everyone, "--pre-vote", "--unsafe-no-fsync",
                        *self._more,
                    ],
                    stdout=log, stderr=log, start_new_session=True,
                    env={**os.environ, "ETCD_UNSUPPORTED_ARCH": os.uname().machine},
                )  # fmt: skip

    def kill(self, *members: int) -> None:
        """Kills these members, or all, at once."""
        for n in members or range(len(self.urls)):
            self.signal(signal.SIGKILL, n)
            process = self._processes[n]
            if process is not None:
                process.wait(20)
                self._processes[n] = None

    def signal(self, number: signal.Signals, *members: int) -> None:
        """Sends `number` to these members, or all."""
        for n in members or range(len(self.urls)):
            process = self._processes[n]
            if process is not None:
                process.send_signal(number)

    def wait(self) -> None:
        """Returns when a quorum answers."""
        end = time.monotonic() + START_S
        while not any(self._answers(url) for url in self.urls):
            if time.monotonic() > end:
                logs = "\n".join(p.read_text()[-1500:] for p in self._folder.glob("*.log"))
                raise AssertionError(f"etcd does not answer within {START_S} s:\n{logs}")
            time.sleep(0.05)

    def _answers(self, url: str) -> bool:
        if url.startswith("https"):  # without a certificate there is no more to learn
            with socket.socket() as probe:
                return not probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2])))
        body = b'{"key":"AA=="}'
        asked = urllib.request.Request(f"{url}/v3/kv/range", data=body, method="POST")
        try:
            with urllib.request.urlopen(asked, timeout=2) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError as error:
            return error.code in (400, 401, 403)  # a user is asked for
        except OSError:
            return False


class Echo:
    """A way to the member at `to` that can say `again` what went through it, however late: as a
    network does, or a member that stood still."""

    def __init__(self, to: str) -> None:
        self._to = to
        self.sent: list[bytes] = []
        """The transactions that went through, in order."""
        self.silenced = 0
        echo = self

        class Carried(BaseHTTPRequestHandler):
            """One call, carried there and back."""

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v3/kv/txn":
                    echo.sent.append(body)
                began = echo.silenced
                with suppress(OSError), echo.ask(self.path, body) as answer:
                    self.send_response(answer.status)
                    self.end_headers()
                    while piece := answer.read1(1 << 16):
                        if began == echo.silenced or self.path != "/v3/watch":
                            self.wfile.write(piece)
                            self.wfile.flush()

            def log_message(self, *what: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Carried)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def ask(self, path: str, body: bytes) -> HTTPResponse:
        """The member's answer."""
        asked = urllib.request.Request(self._to + path, data=body, method="POST")
        return cast(HTTPResponse, urllib.request.urlopen(asked))

    def silence(self) -> None:
        """Nothing more comes of the watches that there are; of later ones it does."""
        self.silenced += 1

    def again(self, sent: Sequence[bytes]) -> None:
        """Sends once more what was `sent`."""
        for body in sent:
            self.ask("/v3/kv/txn", body).close()


@contextmanager
def echo(to: str) -> Iterator[Echo]:
    """An `Echo` of the member at `to`."""
    made = Echo(to)
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        thread.join()
        made.server.server_close()


def transactions(urls: Sequence[str]) -> int:
    """How many the members at `urls` have been asked for so far."""
    return handled(urls, "Txn")


def handled(urls: Sequence[str], method: str) -> int:
    """How many calls of `method` the members at `urls` have answered so far."""
    count = 0.0
    for url in urls:
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if (
                    line.startswith("grpc_server_handled_total")
                    and f'grpc_method="{method}"' in line
                ):
                    count += float(line.rpartition(" ")[2])
    return int(count)


async def protect(urls: Sequence[str], prefix: str, **tls: str) -> None:
    """Has the members at `urls` let in `root` by "secret", and `headgate` by "pass" to what is
    below `prefix`: by the permission of its role `gateways`. `tls`: the files of `Access`."""
    client = Client(Access(urls, **tls))

    async def add(path: str, **what: str) -> None:
        try:
            await client.call(path, what)
        except EtcdRefused as refused:  # one that is slow is asked twice, and has done it then
            if "already exists" not in str(refused):
                raise

    for name, password in (("root", "secret"), ("headgate", "pass")):
        await add("/v3/auth/user/add", name=name, password=password)
    for name, role in (("root", "root"), ("headgate", "gateways")):
        await add("/v3/auth/role/add", name=role)
        await client.call("/v3/auth/user/grant", {"user": name, "role": role})
    key, end = f"{prefix}/".encode(), f"{prefix}0".encode()
    allowed = {"permType": "READWRITE", "key": b64(key), "range_end": b64(end)}
    await client.call("/v3/auth/role/grant", {"name": "gateways", "perm": allowed})
    await client.call("/v3/auth/enable", {})
    await client.close()


async def shut_out(urls: Sequence[str], prefix: str) -> None:
    """Takes from `headgate` what `protect` allowed it."""
    client = Client(Access(urls, "root", "secret"))
    key, end = b64(f"{prefix}/".encode()), b64(f"{prefix}0".encode())
    revoked = {"role": "gateways", "key": key, "range_end": end}
    await client.call("/v3/auth/role/revoke", revoked)
    await client.close()


@contextmanager
def etcd_cluster(size: int = 1, more: Sequence[str] = (), tls: bool = False) -> Iterator[Cluster]:
    """`size` members that have a leader; `more` are options of theirs."""
    if shutil.which("etcd") is None:
        pytest.skip("no etcd here: apt-get install etcd-server etcd-client")
    with tempfile.TemporaryDirectory(prefix="headgate-etcd-") as folder:
        cluster = Cluster(Path(folder), size, more, tls)
        try:
            cluster.start()
            cluster.wait()
            yield cluster
        finally:
            cluster.signal(signal.SIGCONT)
            cluster.kill()
