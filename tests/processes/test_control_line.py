"""When does the supervisor take a control process for one that hangs?"""

import asyncio
import socket
import time

from gateway.processes.control_line import ControlLine
from gateway.processes.tasks import Tasks
from gateway.wire.channel import Channel

SILENCE_S = 0.4


async def test_a_pause_of_the_supervisor_is_no_silence_of_the_control_process() -> None:
    """As after Ctrl-Z and `fg`, or `docker unpause`."""
    heard, replaced = asyncio.Queue(), asyncio.Event()
    own = Tasks(lambda name, error: None)
    line = ControlLine(
        own,
        opened=lambda: None, hear=heard.put_nowait, replace=lambda why: replaced.set(),
        silence_s=SILENCE_S,
    )  # fmt: skip
    ours, theirs = socket.socketpair()
    line.take_up(ours)
    control = Channel(*await asyncio.open_connection(sock=theirs))
    await control.send({"type": "alive"})
    await heard.get()
    for _ in range(3):
        await control.send({"type": "alive"})
        time.sleep(2 * SILENCE_S)  # nothing of this process runs
        await asyncio.wait_for(heard.get(), 60)
    assert not replaced.is_set()
    await asyncio.wait_for(replaced.wait(), 60)  # now it is silent
    control.close()
    await own.close()
