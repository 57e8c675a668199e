"""How do workers come to the control process? Each opens a channel, which lasts as long as both."""

import asyncio
import socket
from contextlib import AsyncExitStack
from functools import partial

from gateway.controlplane.store.store import StoreError
from gateway.controlplane.workers import Workers
from gateway.processes.console import say
from gateway.processes.tasks import Tasks, told
from gateway.wire.channel import Channel
from gateway.wire.line import ControlStart


async def accept_workers(
    workers: Workers, start: ControlStart, own: Tasks, stack: AsyncExitStack
) -> None:
    """Accepts the channels of this gateway's workers, and of those of the gateway before it while
    there are any, until `stack` is left; who opened one is attended to by a task of `own`."""

    async def attend(
        is_ours: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await workers.attend(Channel(reader, writer), is_ours=is_ours)
        except StoreError:
            raise  # this process is the one that cannot go on
        except Exception as error:
            # It opens another one, and is told everything anew.
            say(f"control: a worker cannot be understood ({told(error)}); closed its channel")

    def accept(is_ours: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own.run("the channel of a worker", attend(is_ours, reader, writer))

    ours, before = start["channels_fd"], start["before_fd"]
    for fd in (ours,) if before is None else (ours, before):
        bound = socket.socket(fileno=fd)
        # The socket is there for the next control process too: from Python 3.13 on a server of
        # `start_unix_server` takes away its path at its end, this one does not.
        server = await asyncio.start_server(partial(accept, fd == ours), sock=bound)
        stack.callback(server.close)
