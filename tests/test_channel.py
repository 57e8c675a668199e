"""Messages cross a channel whole, in order, and end when the other end does."""

import asyncio
from pathlib import Path

import pytest

from gateway.wire.channel import BadFrame, Channel


async def test_messages_cross_in_order_and_the_end_is_none(tmp_path: Path) -> None:
    path = str(tmp_path / "channel")
    accepted: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_unix_server(
        lambda reader, writer: accepted.set_result(Channel(reader, writer)), path
    )
    one = await Channel.open(path)
    other = await accepted
    large = {"type": "table", "document": {"x": "é" * 2_000_000}}
    one.send_soon(large)
    draining = asyncio.create_task(one.send({"type": "drain"}))
    assert await other.receive() == large
    assert await other.receive() == {"type": "drain"}
    await draining
    one.close()
    assert await other.receive() is None
    other.close()
    server.close()


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (b"\xff\xff\xff\xff", "a frame of 4294967295 bytes"),
        (b"\0\0\0\x03}{!", "not JSON"),
        (b"\0\0\0\x02[]", "without a type"),
        (b"\0\0\0\x02{}", "without a type"),
    ],
)
async def test_what_is_no_message_is_called_so(tmp_path, frame: bytes, words: str) -> None:
    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame)
        writer.close()

    async with await asyncio.start_unix_server(babble, tmp_path / "channel"):
        channel = await Channel.open(str(tmp_path / "channel"))
        with pytest.raises(BadFrame, match=words):
            await channel.receive()
        channel.close()
