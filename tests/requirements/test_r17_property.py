"""R17: whatever headers, bodies, chunk sizes and pauses: equal on both sides, both ways."""

import asyncio
import hashlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.harness.gateway import one_backend, running_gateway
from tests.harness.origins import Exchange, Origin, one_origin
from tests.harness.wire import parse_responses, wire

TOKEN = st.from_regex(re.compile(r"x-[a-z0-9!#$%&'*+.^`|~-]{1,20}", re.I), fullmatch=True)
VALUE = st.from_regex(re.compile(r"(?:[!-~]([ -~\t]{0,60}[!-~])?)?"), fullmatch=True)
FIELDS = st.lists(st.tuples(TOKEN, VALUE), max_size=20).map(
    lambda fields: [f for f in fields if not f[0].lower().startswith(("x-headgate", "x-forw"))]
)
PIECES = st.lists(
    st.tuples(st.binary(min_size=1, max_size=5000), st.booleans()), min_size=0, max_size=8
)


class Stage:
    """One gateway and one origin on a loop that runs while an example plays."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.origin: Any = one_origin()
        self.gateway: Any = None

    def __enter__(self) -> "Stage":
        self.opened: Origin = self.runner.run(self.origin.__aenter__())
        self.gateway = running_gateway(one_backend(self.opened, health={"fall": 100}))
        self.running = self.runner.run(self.gateway.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self.runner.run(self.gateway.__aexit__(None, None, None))
        self.runner.run(self.origin.__aexit__(None, None, None))
        self.runner.close()


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as made:
        yield made


def lines(fields: list[tuple[str, str]]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in fields).encode()


async def pieces_to(write: Any, pieces: list[tuple[bytes, bool]]) -> None:
    """Write each piece as a chunk, with a pause where it asks for one."""
    for piece, pause in pieces:
        write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if pause:
            await asyncio.sleep(0.002)
    write(b"0\r\n\r\n")


async def example(
    stage: Stage, there: list, up: list, back: list, cookies: list[str], down: list
) -> None:
    origin, gateway = stage.opened, stage.running
    answer_fields = [*back, *(("Set-Cookie", f"c{n}={v}") for n, v in enumerate(cookies))]

    async def respond(exchange: Exchange) -> None:
        await exchange.read()
        exchange.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n")
        exchange.write(lines(answer_fields) + b"\r\n")
        await pieces_to(exchange.write, down)

    origin.respond = respond
    before = len(origin.exchanges)
    async with wire(gateway.data_port) as client:
        head = b"POST /p HTTP/1.1\r\nHost: gw.test\r\nTransfer-Encoding: chunked\r\n"
        client.writer.write(head + lines(there) + b"\r\n")
        await pieces_to(client.writer.write, up)
        reply = await client.read_response()
    seen = origin.exchanges[before]
    sent = hashlib.sha256(b"".join(piece for piece, _ in up))
    assert seen.digest.hexdigest() == sent.hexdigest()
    assert named(seen.headers, there) == [(n.lower().encode(), v.encode()) for n, v in there]
    assert reply.status == 200
    assert reply.body == b"".join(piece for piece, _ in down)
    assert reply.all("set-cookie") == [f"c{n}={v}" for n, v in enumerate(cookies)]
    assert named(reply.headers, back) == [(n.lower().encode(), v.encode()) for n, v in back]
    assert parse_responses(bytes(client.received), ["POST"], True).responses == []


def named(fields: list, like: list) -> list:
    """The fields whose names occur in `like`, in order."""
    names = {name.lower().encode() for name, _ in like}
    return [(name, value) for name, value in fields if name in names]


@given(
    there=FIELDS,
    up=PIECES,
    back=FIELDS,
    cookies=st.lists(st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True), max_size=4),
    down=PIECES,
)
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_r17_headers_bodies_and_pauses_come_through_equal_both_ways(
    stage: Stage, there: list, up: list, back: list, cookies: list[str], down: list
) -> None:
    stage.runner.run(example(stage, there, up, back, cookies, down))
