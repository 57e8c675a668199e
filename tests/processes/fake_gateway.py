"""The least that can stand in for the gateway's own processes: run as `_control` or `_worker`.

The control process says `ready` once it is told of all workers; a worker answers each
connection with its slot and pid. What FAKE holds makes them misbehave.
"""

import argparse
import asyncio
import json
import os
import signal
import socket
import sys

from gateway.processes.children import FAULT
from gateway.processes.lifeline import tie
from gateway.wire.channel import Channel


async def control(options: argparse.Namespace) -> int:
    line = Channel(*await asyncio.open_connection(sock=socket.socket(fileno=options.line_fd)))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, os._exit, 0)
    while (message := await line.receive()) is not None:
        if None not in message["pids"] and not os.environ.get("FAKE", "").endswith("_worker"):
            await line.send({"type": "ready", "pid": os.getpid(), "pids": message["pids"]})
        if os.environ.get("FAKE") == "babble":
            await line.send([])
        for word in ("replace", "leaving"):
            if word in os.environ.get("FAKE", "") and message["pids"][0] is not None:
                await line.send({"type": word, "pid": message["pids"][0]})
                os.environ.pop("FAKE")
    return 1


async def worker(options: argparse.Namespace) -> int:
    stop = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(json.dumps({"slot": options.slot, "pid": os.getpid()}).encode())
        writer.close()

    loop = asyncio.get_running_loop()
    if "deaf" in os.environ.get("FAKE", ""):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        loop.add_signal_handler(signal.SIGTERM, stop.set)
    bound = socket.socket(fileno=options.data_fds[0])
    server = await asyncio.start_server(answer, sock=bound)
    await stop.wait()
    server.close()
    return 0


def main() -> int:
    tie()
    fake = os.environ.get("FAKE", "")
    if fake == f"fault{sys.argv[1]}":
        print("the file is wrong in line 3", file=sys.stderr)
        return FAULT
    if fake == f"crash{sys.argv[1]}":
        return 3
    options = argparse.Namespace(**json.loads(sys.argv[2]))
    return asyncio.run({"_control": control, "_worker": worker}[sys.argv[1]](options))


if __name__ == "__main__":
    sys.exit(main())
