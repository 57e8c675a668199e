"""R36: connections without a token keep nobody with one from the admin listener."""

import asyncio
import time

import pytest

from gateway.controlplane.admin.listener import STRANGER_S, Door
from tests.harness.gateway import Gateway, one_backend, running_gateway

TOKEN = "operator-token-that-is-long-enough-0001"
BEARER = [("Authorization", f"Bearer {TOKEN}")]
WITHIN_REACH_S = 15.0  # who is kept out waits for ever
LIMIT = ["bash", "-c", 'ulimit -n 1024; exec "$@"', "limited"]


async def hold(port: int, count: int, say: bytes = b"") -> list[asyncio.StreamWriter]:
    """`count` connections that say `say` and nothing more."""

    async def one() -> asyncio.StreamWriter | None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(say)
            return writer
        except OSError:
            return None

    made: list[asyncio.StreamWriter] = []
    for start in range(0, count, 100):
        opened = await asyncio.gather(*(one() for _ in range(min(100, count - start))))
        made += [writer for writer in opened if writer is not None]
    return made


async def asked(gateway: Gateway, path: str) -> float:
    """How long an answer to an operator takes, in seconds, on a connection of its own."""
    begun = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.admin_port)
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {TOKEN}"]
    writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode())
    answer = await asyncio.wait_for(reader.read(), 60)
    assert answer.startswith(b"HTTP/1.1 200"), answer[:300]
    writer.close()
    return time.monotonic() - begun


async def test_r36_idle_strangers_leave_admin_and_metrics_within_reach() -> None:
    document = one_backend("http://127.0.0.1:9")
    async with running_gateway(document, up=False, token=TOKEN, prefix=LIMIT) as gateway:
        for say in (b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /"):
            held = await hold(gateway.admin_port, 1500, say)
            try:
                for path in ("/metrics", "/admin/v1/status", "/admin/v1/history"):
                    assert await asked(gateway, path) < WITHIN_REACH_S, say
            finally:
                for writer in held:
                    writer.transport.abort()
            assert await asked(gateway, "/metrics") < WITHIN_REACH_S, say


@pytest.mark.paced
async def test_r36_a_stranger_is_soon_shown_out_and_who_has_a_token_stays() -> None:
    document = one_backend("http://127.0.0.1:9")
    async with running_gateway(document, up=False, token=TOKEN) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.admin_port)
        request = f"GET /livez HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        known_reader, known = await asyncio.open_connection("127.0.0.1", gateway.admin_port)
        known.write(request.replace("/livez", "/admin/v1/table").encode())
        assert (await known_reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        begun = time.monotonic()
        assert await asyncio.wait_for(reader.read(), 60) == b""
        assert (took := time.monotonic() - begun) < STRANGER_S + 2, took
        known.write(request.encode())
        assert b"HTTP/1.1 200" in await known_reader.readuntil(b'{"status":"ok"}')
        for one in (writer, known):
            one.close()


class Guest:
    def __init__(self) -> None:
        self.is_out = False

    def abort(self) -> None:
        self.is_out = True


def test_r36_the_oldest_stranger_makes_room_and_the_known_are_bounded() -> None:
    door = Door(64)
    guests = [Guest() for _ in range(20)]
    for guest in guests:
        door.enter(guest)  # type: ignore[arg-type]
    assert [guest.is_out for guest in guests] == [True] * 4 + [False] * 16
    assert all(door.admit(guest) for guest in guests[4:])  # type: ignore[arg-type]
    more = [Guest() for _ in range(16)]
    for guest in more:
        door.enter(guest)  # type: ignore[arg-type]
        assert not door.admit(guest), "as many as may stay are there"  # type: ignore[arg-type]
    assert not any(guest.is_out for guest in (*guests[4:], *more))
    door.leave(guests[5])  # type: ignore[arg-type]
    assert door.admit(more[0])  # type: ignore[arg-type]
