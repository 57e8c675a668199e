"""An origin in a process of its own, to be killed, stopped and started again.

`python -m tests.harness.origin_process --port 0 --slots 4 --service 0.02` prints its port and
answers as `origins.served` does. `GET /_stub/seen` tells which request ids were executed, and
`--pause-before-ready S` keeps its probes failing for that long, as a loading model does.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.harness.origins import Exchange, Origin, served

ROOT = Path(__file__).resolve().parents[2]


class OriginProcess:
    """A stub instance that real signals reach."""

    def __init__(self, *, name: str = "p", slots: int = 4, service_s: float = 0.02) -> None:
        self.name, self.slots, self.service_s = name, slots, service_s
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self, pause_before_ready_s: float = 0.0) -> None:
        """Start it: on a free port the first time, on the same port ever after."""
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "tests.harness.origin_process", "--port", str(self.port),
                "--name", self.name, "--slots", str(self.slots),
                "--service", str(self.service_s),
                "--pause-before-ready", str(pause_before_ready_s),
            ],
            cwd=ROOT, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the origin process did not start"
        self.port = int(line)

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


async def _main(options: argparse.Namespace) -> None:
    serve = served(options.slots, options.service)
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
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
