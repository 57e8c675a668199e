"""A connection with TLS on the gateway's event loop: made, refused, lost and given up."""

import asyncio
import itertools
import select
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gateway.processes.event_loop import EventLoop
from gateway.processes.trusting import trusting
from tests.harness.certificates import make_ca, make_certificate

AFTERWARDS = 24  # steps, in which a trouble would show


class Peer:
    """A server that does what there is to do when it is told to, so that a test has no clock."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.setblocking(False)
        self.port: int = self.listening.getsockname()[1]
        self.client: socket.socket | None = None
        self.got, self.gives = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.got, self.gives, server_side=True)
        self.is_agreed = False

    def step(self) -> None:
        with suppress(BlockingIOError, ssl.SSLError, ConnectionError):
            if self.client is None:
                self.client, _ = self.listening.accept()
                self.client.setblocking(False)
            self.got.write(self.client.recv(1 << 16))
            with suppress(ssl.SSLWantReadError):
                if not self.is_agreed:
                    self.tls.do_handshake()
                    self.is_agreed = True
                self.tls.write(self.tls.read().swapcase())
        if self.client is not None and self.gives.pending:
            with suppress(ConnectionError):
                self.client.send(self.gives.read())

    def reset(self) -> None:
        assert self.client is not None
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.client.close()
        self.listening.close()

    def close(self) -> None:
        self.listening.close()
        if self.client is not None:
            self.client.close()


class Said(asyncio.Protocol):
    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.were_closing: list[bool] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        self.calls.append(data)
        self.were_closing.append(self.transport.is_closing())

    def connection_lost(self, exc: Exception | None) -> None:
        self.calls.append("lost")


class Trial:
    """A loop, a peer and two contexts; `troubles` is what the loop could tell nobody."""

    def __init__(self, folder: Path) -> None:
        ca = make_ca(folder)
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(*make_certificate(folder, "here", ca, "127.0.0.1"))
        self.trusts = trusting(str(ca[0]))
        self.troubles: list[Any] = []

    def run(self, work: Any) -> None:
        with asyncio.Runner(loop_factory=EventLoop) as runner:
            runner.get_loop().set_exception_handler(lambda _, told: self.troubles.append(told))
            runner.run(work)

    def connect(self, peer: Peer, way: str, context: ssl.SSLContext) -> asyncio.Task[Any]:
        loop = asyncio.get_running_loop()
        if way == "by its address":
            more: dict[str, Any] = {"host": "127.0.0.1", "port": peer.port}
        else:
            there = socket.create_connection(("127.0.0.1", peer.port))
            there.setblocking(False)
            more = {"sock": there, "server_hostname": "127.0.0.1"}
        return asyncio.create_task(loop.create_connection(Said, ssl=context, **more))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture
def trial(files: Path) -> Trial:
    return Trial(files)


@pytest.fixture
def peer(trial: Trial) -> Iterator[Peer]:
    peer = Peer(trial.server)
    yield peer
    peer.close()


async def goes_on(peer: Peer, steps: int) -> None:
    for _ in range(steps):
        await asyncio.sleep(0)
        peer.step()


async def until(peer: Peer, has_come: Callable[[], bool]) -> None:
    """However many steps that takes: a busy kernel hands bytes over when it likes."""
    while not has_come():
        await goes_on(peer, 1)


WAYS = pytest.mark.parametrize("way", ["by its address", "on a socket that is there"])


@WAYS
def test_given_up_at_any_moment_it_leaves_no_trace(trial: Trial, way: str) -> None:
    made = 0

    async def given_up_after(steps: int) -> None:
        nonlocal made
        peer = Peer(trial.server)
        task = trial.connect(peer, way, trial.trusts)
        await goes_on(peer, steps)
        made += task.done()
        task.cancel()
        with suppress(asyncio.CancelledError):
            transport, _ = await task
            transport.abort()
        await goes_on(peer, AFTERWARDS)
        peer.close()

    steps = itertools.count()
    while made < 3:  # it was given up at each moment until it was made
        trial.run(given_up_after(next(steps)))
    assert trial.troubles == []


@WAYS
def test_what_is_sent_and_answered_goes_by_tls(trial: Trial, peer: Peer, way: str) -> None:
    async def work() -> None:
        task = trial.connect(peer, way, trial.trusts)
        await until(peer, task.done)
        transport, said = task.result()
        assert transport.get_extra_info("ssl_object").version() == "TLSv1.3"
        transport.write(b"abc")
        await until(peer, lambda: b"ABC" in said.calls)
        transport.abort()
        await until(peer, lambda: "lost" in said.calls)
        assert said.calls == ["made", b"ABC", "lost"]

    trial.run(work())
    assert trial.troubles == []


@WAYS
@pytest.mark.parametrize("size", [3, 20_000])
@pytest.mark.parametrize("is_paused", [False, True], ids=["read", "paused"])
def test_what_was_said_before_a_write_failed_is_read(
    trial: Trial, peer: Peer, way: str, size: int, is_paused: bool
) -> None:
    """An instance answers an upload that it does not read to its end, and leaves."""

    async def work() -> None:
        task = trial.connect(peer, way, trial.trusts)
        await until(peer, task.done)
        transport, said = task.result()
        assert peer.client is not None
        if is_paused:
            transport.pause_reading()
        transport.write(b"abc")
        while not select.select([peer.client], [], [], 0)[0]:
            await asyncio.sleep(0)
        peer.tls.write(bytes(size))
        given = peer.gives.read()
        assert peer.client.send(given) == len(given)
        peer.client.close()  # what it has not read makes that a reset
        transport.write(b"def")
        while "lost" not in said.calls:
            await asyncio.sleep(0)
        assert (said.calls[0], said.calls[-1]) == ("made", "lost")
        assert all(said.were_closing), "who is answered by it goes on by another one at once"
        assert b"".join(said.calls[1:-1]) == bytes(size)

    trial.run(work())
    assert trial.troubles == []


@WAYS
def test_a_certificate_of_no_trusted_ca_is_refused(trial: Trial, peer: Peer, way: str) -> None:
    async def work() -> None:
        task = trial.connect(peer, way, ssl.create_default_context())
        await until(peer, task.done)
        with pytest.raises(ssl.SSLCertVerificationError):
            task.result()

    trial.run(work())
    assert trial.troubles == []


@WAYS
def test_one_that_is_lost_as_it_is_made_is_an_error_or_is_said_to_its_protocol(
    trial: Trial, way: str
) -> None:
    ends: list[type] = []

    async def lost_after(steps: int) -> None:
        peer = Peer(trial.server)
        task = trial.connect(peer, way, trial.trusts)
        await until(peer, lambda: peer.client is not None)
        await goes_on(peer, steps)
        peer.reset()
        while not task.done():
            await asyncio.sleep(0)
        error = task.exception()
        assert error is None or isinstance(error, OSError)
        while error is None and task.result()[1].calls != ["made", "lost"]:
            await asyncio.sleep(0)
        ends.append(type(error))

    steps = itertools.count()
    while ends.count(type(None)) < 3:
        trial.run(lost_after(next(steps)))
    assert ConnectionResetError in ends
    assert trial.troubles == []


def test_without_tls_it_is_asyncios(trial: Trial, peer: Peer) -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.create_task(loop.create_connection(Said, "127.0.0.1", peer.port))
        await until(peer, task.done)
        transport, said = task.result()
        transport.abort()
        await until(peer, lambda: "lost" in said.calls)
        assert said.calls == ["made", "lost"]
        with pytest.raises(ValueError, match="server_hostname"):
            await loop.create_connection(Said, sock=socket.socket(), server_hostname="here")
        with pytest.raises(ValueError, match="server_hostname"):
            await loop.create_connection(Said, sock=socket.socket(), ssl=trial.trusts)

    trial.run(work())
    assert trial.troubles == []
