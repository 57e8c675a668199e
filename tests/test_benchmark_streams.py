"""How the benchmark counts what comes of a stream."""

import asyncio
import json
import socket
import time
from itertools import pairwise

import pytest

from benchmarks.streams import STEP_S, TOKEN, WRITTEN, Listener, engines

EVENTS = b"25\r\ndata: 100.000000\n\n\r\n" + b"25\r\ndata: 100.100000\n\n\r\n"


def lags(*pieces: bytes) -> list[float]:
    """What is noted of pieces that all come at 101 s."""
    listener = Listener()
    for piece in pieces:
        listener.received(7, piece, 101.0)
    listener.close()
    assert len(listener.first) <= 1
    return listener.first + listener.lags


def test_events_of_one_piece_are_counted_each() -> None:
    assert lags(b"HTTP/1.1 200 OK\r\n\r\n" + EVENTS) == pytest.approx([1.0, 0.9])


@pytest.mark.parametrize("at", range(24, len(EVENTS)))
def test_an_event_that_comes_in_two_pieces_is_counted_once(at: int) -> None:
    assert lags(EVENTS[:at], EVENTS[at:]) == pytest.approx([1.0, 0.9])


def test_an_event_that_a_chunk_cuts_is_not_taken_for_an_older_one() -> None:
    cut = b"9\r\ndata: 100\r\nc\r\n.200000\n\n\r\n"
    assert lags(EVENTS, cut) == pytest.approx([1.0, 0.9])


def test_a_token_is_an_event_as_vllm_writes_it() -> None:
    event = TOKEN % 123.5
    assert WRITTEN.findall(event) == [b"123.500000"]
    assert json.loads(event.removeprefix(b"data: "))["choices"][0]["delta"] == {"content": " token"}
    assert event.endswith(b"\n\n")


async def test_an_engine_gives_all_its_streams_a_token_at_every_step() -> None:
    servers = await engines()
    port = servers[0].sockets[0].getsockname()[1]
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    try:
        for _, writer in streams:
            writer.write(b"GET /s HTTP/1.1\r\nHost: x\r\n\r\n")
        times = []
        for reader, _ in streams:
            await reader.readuntil(b"\r\n\r\n")
            got = [await reader.readuntil(b"\n\n\r\n") for _ in range(20)]
            times.append([float(WRITTEN.findall(event)[0]) for event in got])
        for mine in times:
            steps = [b - a for a, b in pairwise(mine)]
            assert sum(steps) / len(steps) > STEP_S / 2
    finally:
        for _, writer in streams:
            writer.close()
        for server in servers:
            server.close()


def test_a_listener_says_when_a_stream_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        listener = Listener()
        listener.open(server.getsockname()[1])
        peer, _ = server.accept()
        assert peer.recv(100).endswith(b"\r\n\r\n")
        peer.close()
        with pytest.raises(ConnectionError, match="a stream ended"):
            listener.listen(time.monotonic() + 10)
        listener.close()
