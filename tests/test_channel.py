"""Messages cross a channel whole, in order, and end when the other end does."""

import asyncio
from pathlib import Path

from gateway.channel import Channel


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
