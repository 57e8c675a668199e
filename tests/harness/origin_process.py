"""An origin in a process of its own, to be killed, stopped and started again.

`python -m tests.harness.origin_process --port 0 --slots 4 --service 0.02` prints its port and
answers as `origins.served` does, with `--silent` without a load report, with `--mixed` as the
path says (`mixed`). `GET /_stub/seen` tells which request ids were executed, and
`--pause-before-ready S` keeps its probes failing for that long, as a loading model does.
"""

import argparse
import asyncio
import base64
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.harness.origins import Exchange, Origin, described, echo, served
from tests.harness.ports import held

ROOT = Path(__file__).resolve().parents[2]


class OriginProcess:
    """A stub instance that real signals reach."""

    def __init__(
        self,
        *,
        name: str = "p",
        slots: int = 4,
        service_s: float = 0.02,
        is_mixed: bool = False,
        reports: bool = True,
    ) -> None:
        self.name, self.slots, self.service_s = name, slots, service_s
        self.more = ["--mixed"] if is_mixed else [] if reports else ["--silent"]
        self.port = 0
        self._place: socket.socket | None = None
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, pause_before_ready_s: float = 0.0) -> None:
        """Start it: on a free port the first time, on the same port ever after."""
        if self._place is None:
            self._place = held("127.0.0.1")
            self.port = self._place.getsockname()[1]
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "tests.harness.origin_process", "--port", str(self.port),
                "--name", self.name, "--slots", str(self.slots),
                "--service", str(self.service_s),
                "--pause-before-ready", str(pause_before_ready_s), *self.more,
            ],
            cwd=ROOT, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the origin process did not start"

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone; no harm where it is gone already."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None


@asynccontextmanager
async def one_process(
    slots: int = 64, service_s: float = 0.0, *, reports: bool = True
) -> AsyncIterator[OriginProcess]:
    """One that runs as long as the test wants it."""
    one = OriginProcess(slots=slots, service_s=service_s, reports=reports)
    try:
        await asyncio.to_thread(one.start)
        yield one
    finally:
        one.kill()


async def mixed(exchange: Exchange) -> None:
    """Answers with what was received, in as long as the path says: /short, /long, /stream, and
    /socket, which closes a WebSocket after four seconds. Reports no load."""
    await exchange.read()
    kind = exchange.target.split(b"/")[1]
    if kind == b"socket":
        key = exchange.header("sec-websocket-key").encode()
        digest = hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        exchange.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + base64.b64encode(digest) + b"\r\n\r\n"
        )
        await exchange.sleep(4.0)
        exchange.close()
        return
    if kind == b"stream":
        exchange.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(10):
            await exchange.sleep(0.3)
            exchange.write(b"1\r\n \r\n")
        said = described(exchange)
        exchange.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(said), said))
        return
    await exchange.sleep(random.uniform(0.5, 2.0) if kind == b"long" else 0.02)
    await echo(exchange)


async def _main(options: argparse.Namespace) -> None:
    serve = (
        mixed
        if options.mixed
        else served(options.slots, options.service, report=not options.silent)
    )
    origin = Origin(name=options.name)

    async def respond(exchange: Exchange) -> None:
        if exchange.target == b"/_stub/seen":
            exchange.reply(200, json.dumps(origin.executions()).encode())
        else:
            await serve(exchange)

    origin.respond, origin.port, origin.record = respond, options.port, False
    origin.ready = not options.pause_before_ready
    began = time.monotonic()
    await origin.start()
    print(origin.port, flush=True)
    parent = os.getppid()
    while os.getppid() == parent:
        await asyncio.sleep(0.05)
        if time.monotonic() - began >= options.pause_before_ready:
            origin.ready = True


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--name", default="p")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--service", type=float, default=0.02)
    parser.add_argument("--pause-before-ready", type=float, default=0.0)
    parser.add_argument("--mixed", action="store_true")
    parser.add_argument("--silent", action="store_true")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
