"""Large bodies lie in memory that both processes map, and in nobody's way."""

import asyncio
import gzip
import hashlib
import os
import resource
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instance.front.bodies import Sending
from instance.wire import arena
from instance.wire.arena import KEEP, MIN_ROOM, SIZE, Arena, Room, new_file
from instance.wire.frames import Decoder, Frame, pack
from tests.instance.conftest import Instance, Serve, eventually
from tests.instance.loads import RAW_ECHO
from tests.instance.test_connections import HEAD, asked, connected

MIB = 1 << 20
LARGE = os.urandom(3 * MIB + 77)

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memfd")


@pytest.fixture
def file() -> Iterator[int]:
    file = new_file()
    assert file is not None
    yield file
    os.close(file)


def held(file: int) -> int:
    """Bytes of memory that an arena has."""
    return os.fstat(file).st_blocks * 512


STEPS = st.lists(st.tuples(st.integers(1, SIZE // 3), st.integers(0, 9)), max_size=40)


@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_no_two_rooms_overlap_and_all_of_it_can_be_had_again(
    steps: list[tuple[int, int]],
) -> None:
    file = new_file()
    assert file is not None
    ours, rooms = Arena(file), list[Room]()
    os.close(file)
    for size, leave in steps:
        if (room := ours.take(size)) is not None:
            rooms.append(room)
            assert len(room) == size
        places = sorted((room.offset, room.offset + len(room)) for room in rooms)
        assert all(a[1] <= b[0] for a, b in pairwise(places))
        assert not places or places[-1][1] <= SIZE
        del rooms[leave : leave + 1]
        room = None
    rooms.clear()
    assert ours.take(SIZE) is not None


def test_memory_that_was_used_is_used_again_and_what_is_much_is_given_back(file: int) -> None:
    ours = Arena(file)
    first = ours.take(MIB)
    assert first is not None
    first.view[:] = b"1" * MIB
    del first
    again = ours.take(MIB)
    assert again is not None
    again.view[:] = b"2" * MIB
    assert (again.offset, held(file)) == (0, MIB)
    large = ours.take(2 * KEEP)
    assert large is not None
    large.view[:] = bytes(2 * KEEP)
    assert held(file) == 2 * KEEP + MIB
    del large
    assert held(file) == KEEP


def test_a_frame_says_where_a_body_lies(file: int) -> None:
    ours, theirs = Arena(file), Arena(file)
    room = ours.take(MIN_ROOM)
    assert room is not None
    room.view[:] = b"r" * MIN_ROOM
    put, followed = b"p" * (MIN_ROOM + 1), b"f" * (MIN_ROOM - 1)
    stream = b"".join(pack(("x",), [followed, room, put, followed], ours))
    assert len(stream) < 2 * MIN_ROOM + 1000
    decoder, got, at = Decoder(theirs.copy), list[Frame](), 0
    while at < len(stream):
        view = decoder.buffer()
        count = min(len(view), len(stream) - at)
        view[:count] = stream[at : at + count]
        at += count
        view.release()
        got += decoder.updated(count)
    [(message, blobs)] = got
    assert message == ("x",)
    assert [bytes(blob) for blob in blobs] == [followed, bytes(room.view), put, followed]


def test_a_full_arena_lets_bodies_follow_their_frame(file: int) -> None:
    ours = Arena(file)
    everything = ours.take(SIZE)
    assert everything is not None
    body = b"b" * MIN_ROOM
    assert pack(("x",), [body], ours)[1:] == [body]


class SlowTransport(asyncio.Transport):
    """Takes what it is given only when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.waits, self.limits = 0, list[int | None]()

    def writelines(self, parts: object) -> None:
        self.waits = 1

    def get_write_buffer_size(self) -> int:
        return self.waits

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.limits.append(high)

    def is_closing(self) -> bool:
        return False


def test_a_room_is_kept_until_all_of_it_is_written(file: int) -> None:
    ours, transport, sending = Arena(file), SlowTransport(), Sending()
    room = ours.take(MIB)
    assert room is not None
    sending.write(transport, b"head", room)
    del room
    after = ours.take(MIB)
    assert after is not None
    assert after.offset == MIB
    sending.over(transport)
    again = ours.take(MIB)
    assert again is not None
    assert again.offset == 0
    assert transport.limits == [0, None]


# -- whole instances -----------------------------------------------------------------------


def shared(process: psutil.Process) -> int:
    """Bytes of its arenas that a process has touched and that are there."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return 1024 * int(status.split("RssShmem:")[1].split()[0])


def exchange(sock: socket.socket, body: bytes) -> bytes:
    """The body that an echo answers to `body`."""
    sock.sendall(asked(body, HEAD + b"Content-Type: application/octet-stream\r\n"))
    return answer(sock)


def answer(sock: socket.socket) -> bytes:
    got = bytearray()
    while (end := got.find(b"\r\n\r\n")) < 0:
        got += sock.recv(1 << 16)
    head = bytes(got[:end]).lower()
    assert head.startswith(b"http/1.1 200"), head
    length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    while len(got) < end + 4 + length:
        part = sock.recv(1 << 20)
        assert part, "the answer was cut"
        got += part
    assert len(got) == end + 4 + length, "more came than the answer"
    return bytes(got[end + 4 :])


def test_large_and_small_bodies_take_turns_on_one_connection(served: Serve) -> None:
    instance = served(RAW_ECHO)
    sock = connected(instance, b"")
    for size in (5, MIB, 17, MIN_ROOM, MIN_ROOM - 1, 3 * MIB, 1, 2 * MIB):
        body = os.urandom(size)
        assert exchange(sock, body) == body


def test_large_bodies_of_many_clients_at_once_are_not_mixed_up(serve: Serve) -> None:
    instance = serve(RAW_ECHO, "Model", "--workers", "2")

    def talk(number: int) -> bool:
        sock = connected(instance, b"")
        bodies = [os.urandom(MIB + 1000 * number + turn) for turn in range(8)]
        return all(exchange(sock, body) == body for body in bodies)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(talk, range(6)))


def test_what_follows_a_large_body_is_the_next_request(served: Serve) -> None:
    sock = connected(served(RAW_ECHO), b"")
    kind = HEAD + b"Content-Type: application/octet-stream\r\n"
    sock.sendall(asked(LARGE, kind) + asked(b"small", kind) + asked(LARGE[::-1], kind))
    got = bytearray()
    while not got.endswith(LARGE[::-1]):
        part = sock.recv(1 << 20)
        assert part
        got += part
    parts = bytes(got).split(b"HTTP/1.1 200 OK\r\n")
    assert [part.partition(b"\r\n\r\n")[2] for part in parts[1:]] == [
        LARGE, b"small", LARGE[::-1],
    ]  # fmt: skip


def test_a_client_that_leaves_in_a_large_body_leaves_its_room(serve: Serve) -> None:
    instance = serve(RAW_ECHO)
    process = psutil.Process(instance.process.pid)
    body = bytes(20 * MIB)
    for _ in range(4):
        sock = connected(instance, asked(body)[: 15 * MIB])
        eventually(lambda: shared(process) > 14 * MIB)
        sock.close()
    eventually(lambda: shared(process) <= KEEP)
    assert exchange(connected(instance, b""), LARGE) == LARGE


def test_a_client_that_leaves_before_it_has_read_leaves_its_room(serve: Serve) -> None:
    instance = serve(RAW_ECHO)
    [worker] = instance.workers()
    body = os.urandom(20 * MIB)
    for number in range(4):
        sock = connected(instance, asked(body))
        done = "instance_predict_seconds_count"
        eventually(lambda number=number: instance.metric(done) > 2 * number)
        sock.close()
        assert exchange(connected(instance, b""), b"hello") == b"hello"
    assert exchange(connected(instance, b""), LARGE) == LARGE
    eventually(lambda: shared(worker) <= 2 * KEEP)  # what is kept of both ways, not 160 MiB


def test_a_slow_reader_gets_its_own_answer_whole_and_then_the_end(serve: Serve) -> None:
    instance = serve(RAW_ECHO)
    body = os.urandom(30 * MIB)
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    slow.connect(("127.0.0.1", instance.port))
    slow.sendall(asked(body, HEAD + b"Connection: close\r\n"))
    eventually(lambda: instance.metric("instance_predict_seconds_count") == 1)
    for _ in range(5):  # others use the arena meanwhile
        assert exchange(connected(instance, b""), LARGE) == LARGE
    assert answer(slow) == body
    assert slow.recv(1) == b""


def test_large_bodies_outlive_a_worker_that_dies(serve: Serve) -> None:
    instance = serve(RAW_ECHO)
    assert instance.post(content=b"die" + LARGE).status_code == 500
    eventually(lambda: exchange_or_none(instance))


def exchange_or_none(instance: Instance) -> bool:
    response = instance.post(content=LARGE)
    assert response.status_code == 503 or response.content == LARGE
    return response.status_code == 200


def test_a_large_compressed_body_is_inflated_from_its_room(served: Serve) -> None:
    instance = served(RAW_ECHO)
    packed = gzip.compress(LARGE, 1)
    headers = {"Content-Encoding": "gzip"}
    assert instance.post(content=packed, headers=headers).content == LARGE
    assert instance.post(content=LARGE, headers=headers).status_code == 400
    assert exchange(connected(instance, b""), LARGE) == LARGE


def test_others_are_served_while_the_last_byte_of_a_large_body_is_missing(served: Serve) -> None:
    instance = served(RAW_ECHO)
    sock = connected(instance, asked(LARGE)[:-1])
    assert exchange(connected(instance, b""), b"x") == b"x"
    sock.sendall(LARGE[-1:])
    assert answer(sock) == LARGE


MAKERS = {
    "async": """
        class Model:
            def setup(self, device): ...
            async def predict(self, x):
                return b"y" * x
    """,
    "prepared": """
        class Model:
            decode_ahead = True
            max_batch_size = 2
            def setup(self, device): ...
            def predict(self, x):
                return [b"y" * one for one in x]
    """,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_every_kind_of_worker_leaves_large_answers_and_makes_room_again(
    serve: Serve, kind: str
) -> None:
    instance = serve(MAKERS[kind])
    sock = connected(instance, b"")
    for _ in range(14):  # 280 MiB, more than an arena has
        sock.sendall(asked(b"%d" % (20 * MIB)))
        assert answer(sock) == b"y" * (20 * MIB)
    [worker] = instance.workers()
    eventually(lambda: shared(worker) <= KEEP)


def test_large_items_of_a_stream_arrive_unchanged(serve: Serve) -> None:
    instance = serve("""
        class Model:
            stream = True
            def setup(self, device): ...
            def predict(self, x):
                for number in range(3):
                    yield bytes([number]) * 1_000_000
    """)
    expected = b"".join(bytes([number]) * 1_000_000 for number in range(3))
    got = instance.post(1).content
    assert hashlib.sha256(got).digest() == hashlib.sha256(expected).digest()


def test_without_such_memory_large_bodies_go_in_frames(serve: Serve) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * MIB, hard))  # an arena's file is larger
    try:
        assert arena.new_file() is None
        instance = serve(RAW_ECHO)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert exchange(connected(instance, b""), LARGE) == LARGE
    assert instance.post(content=b"die" + LARGE).status_code == 500
    eventually(lambda: exchange_or_none(instance))
