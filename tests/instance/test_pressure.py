"""What clients hold of an instance that leave, send ahead or never read."""

import contextlib
import socket
import time
from pathlib import Path

import psutil
import pytest

from tests.harness.gateway import own_memory
from tests.instance.conftest import Instance, Serve, eventually
from tests.instance.loads import MODEL, holding, later, ran, raw
from tests.instance.test_connections import HEAD, asked

MIB = 1 << 20
SIZES = """
    import os, pathlib, time
    class Model:
        def setup(self, device): ...
        def decode_request(self, request: bytes):
            return request
        def predict(self, x):
            if x == b"wait":
                time.sleep(0.5)
            while x == b"held" and pathlib.Path("hold").exists():
                time.sleep(0.005)
            return {"size": len(x)}

    class Big(Model):
        def predict(self, x):
            return b"x" * int(x)

    class Stream(Model):
        stream = True
        def predict(self, x):
            for _ in range(int(x) >> 16):
                yield b"x" * (1 << 16)

    class Environment(Model):
        def predict(self, x):
            return {"names": sorted(os.environ)}
"""


def memory(instance: Instance) -> int:
    """Bytes that its HTTP process has of its own or shares with workers: not the pages of program
    files, which the machine may take back."""
    return own_memory(instance.process.pid)


def connections(instance: Instance) -> int:
    """Clients that it has."""
    found = psutil.Process(instance.process.pid).net_connections("tcp")
    return len([one for one in found if one.status != psutil.CONN_LISTEN])


@pytest.mark.parametrize("size", [100 << 10, MIB], ids=["in the message", "in the arena"])
def test_r43_clients_that_left_leave_no_bodies_behind(
    serve: Serve, tmp_path: Path, size: int
) -> None:
    instance = serve(MODEL, "Slow")
    busy = raw(instance, b'{"id": "busy", "s": 60}')
    eventually(lambda: ran(tmp_path) == ["busy"])
    body = b'{"id": "gone", "x": "%s"}' % (b"x" * size)
    was = memory(instance)
    for _ in range((200 * MIB // size) // 50):
        leaving = [raw(instance, body) for _ in range(50)]
        eventually(lambda: instance.metric("instance_queue_depth") >= 49)
        for sock in leaving:
            sock.close()
        eventually(lambda: instance.metric("instance_queue_depth") <= 1)
    assert memory(instance) - was < 80 * MIB  # of 200 MiB; at one time 50 MiB were there
    busy.close()


def test_r43_the_room_of_a_body_that_is_being_computed_is_free_once_its_client_left(
    serve: Serve, tmp_path: Path
) -> None:
    instance = serve(MODEL, "Slow")
    body = b'{"id": "%%d", "s": 60, "x": "%s"}' % (b"x" * 40 * MIB)
    was = memory(instance)
    sock = raw(instance, body.replace(b"%d", b"1"))
    eventually(lambda: ran(tmp_path) == ["1"])
    assert memory(instance) - was > 39 * MIB
    sock.close()
    # The arena keeps what lies low for the next; all above is given back at once.
    eventually(lambda: memory(instance) - was < 36 * MIB)


def test_r15_what_is_sent_ahead_waits_at_its_sender(serve: Serve) -> None:
    instance = serve(SIZES)
    was = memory(instance)
    with socket.create_connection(("127.0.0.1", instance.port), timeout=60) as sock:
        with holding(instance):
            sock.sendall(asked(b"held"))
            bodies = [b"x" * (MIB + i) for i in range(24)]
            sent = later(lambda: sock.sendall(b"".join(map(asked, bodies))))
            time.sleep(1.0)  # as much as it takes comes within moments
            assert memory(instance) - was < 8 * MIB
        got = b""
        while not got.endswith(b'{"size":%d}' % len(bodies[-1])):
            part = sock.recv(65536)
            assert part, got
            got += part
        sent()
    sizes = [part.rpartition(b"\r\n\r\n")[2] for part in got.split(b"HTTP/1.1 200 OK")[1:]]
    assert sizes == [b'{"size":4}', *(b'{"size":%d}' % len(body) for body in bodies)]
    assert memory(instance) - was < 16 * MIB


def test_r15_what_is_sent_ahead_in_pieces_is_put_together(serve: Serve) -> None:
    instance = serve(SIZES)
    chunked = b"Transfer-Encoding: chunked\r\n\r\n" + b"10000\r\n%b\r\n" % (b"x" * 65536) * 40
    with socket.create_connection(("127.0.0.1", instance.port), timeout=60) as sock:
        sock.sendall(asked(b"wait") + HEAD + chunked)
        sock.sendall(b"0\r\n\r\n" + asked(b"1234567") + asked(b"x" * 300_000)[:-1])
        got = b""
        while b'{"size":7}' not in got:
            got += sock.recv(65536)
        sock.sendall(b"x")
        while b'{"size":300000}' not in got:
            got += sock.recv(65536)
    assert got.index(b'{"size":4}') < got.index(b'{"size":2621440}') < got.index(b'{"size":7}')


def slow_reader(
    instance: Instance, body: bytes, more: bytes = b"", room: int = 64 << 10
) -> socket.socket:
    """A client that has asked, and has little `room` for the answer."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    sock.connect(("127.0.0.1", instance.port))
    sock.settimeout(30)
    sock.sendall(asked(body, HEAD + more))
    return sock


@pytest.mark.parametrize("name", ["Big", "Stream"])
@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"], ids=["kept", "closing"])
def test_r20_a_client_that_takes_nothing_of_its_answer_loses_its_connection(
    serve: Serve, name: str, more: bytes
) -> None:
    instance = serve(SIZES, name, "--stream-idle", "1s")
    with slow_reader(instance, b"40000000", more) as sock:
        eventually(lambda: instance.metric("instance_batch_size_count") == 1)
        # By the second that was said and not by the two minutes of the default.
        eventually(lambda: connections(instance) == 0, timeout=30)
        with contextlib.suppress(ConnectionResetError):
            got = 0
            while part := sock.recv(1 << 20):
                got += len(part)
            assert got < 40_000_000
    with slow_reader(instance, b"65536") as sock:
        assert sock.recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("name", ["Big", "Stream"])
def test_r20_a_client_that_is_slow_and_takes_some_of_it_keeps_its_connection(
    serve: Serve, name: str
) -> None:
    # Each piece comes well within the limit, and all of them in longer than it.
    instance = serve(SIZES, name, "--stream-idle", "3s")
    size, got = 12 << 20, 0
    with slow_reader(instance, b"%d" % size, room=512 << 10) as sock:
        began = time.monotonic()
        while got < size:
            is_more = got < size - (2 << 20)
            if is_more:
                time.sleep(0.4)
            part = sock.recv(1 << 20, socket.MSG_WAITALL if is_more else 0)
            assert part, got
            got += len(part)
        assert time.monotonic() - began > 3


def test_nothing_of_ours_is_in_a_models_environment(serve: Serve) -> None:
    ours = dict.fromkeys(("HEADGATE_TOKEN", "HEADGATE_VIEWER_TOKEN", "HEADGATE_NEXT"), "x" * 40)
    instance = serve(SIZES, "Environment", environment={**ours, "MINE": "1"})
    names = instance.post(content=b"").json()["names"]
    assert "MINE" in names
    assert [name for name in names if name.startswith("HEADGATE_")] == []
