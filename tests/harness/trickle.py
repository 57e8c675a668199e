"""Requests at fixed moments from a process of its own: how long did each take from its moment on?

A pause of the test's own process, which may be busy with what it does to a gateway, is not that
gateway's. Nor is one of the machine: where several servers are named, each moment asks all of
them, and what made the one late and left the other alone (`load.delayed`) is no machine's doing.
`python -m tests.harness.trickle GAP PORT ...` reads the paths to ask for in turn, one per line, up
to an empty line, asks until standard input ends, and prints what it saw.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Self

from tests.harness.load import Ask, Client, Reply, ask

ROOT = Path(__file__).resolve().parents[2]


class Asked(NamedTuple):
    """One request: when it was to begin (monotonic), the seconds it took, its status (or 0), and
    which error that is to the gateway."""

    began: float
    took_s: float
    status: int
    code: str


class Trickle:
    """Asks the servers on `ports` for the next of `paths` every `gap_s`, answered or not."""

    def __init__(self, ports: Iterable[int], paths: Iterable[str], gap_s: float = 0.005) -> None:
        self._ports, self._paths, self._gap_s = list(ports), list(paths), gap_s

    async def __aenter__(self) -> Self:
        # Origins of the test answer probes meanwhile.
        await asyncio.to_thread(self._start)
        return self

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.harness.trickle", str(self._gap_s),
             *map(str, self._ports)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True,
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("".join(f"{path}\n" for path in [*self._paths, ""]))
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "asking\n"

    async def __aexit__(self, *_: object) -> None:
        """Ends it, whatever it has seen; no harm where it has ended."""
        self._process.kill()
        self._process.communicate()

    async def end(self) -> list[list[Asked]]:
        """All that was asked, of each server in the order of `ports`."""
        out, _ = await asyncio.to_thread(self._process.communicate)
        return [[Asked(*each) for each in server] for server in json.loads(out)]


async def _ask(gap_s: float, ports: list[int]) -> None:
    paths = [line.strip() for line in iter(sys.stdin.readline, "\n")]
    client, tasks = Client(), [list[asyncio.Task[Reply]]() for _ in ports]
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print("asking", flush=True)
    began, moments = time.monotonic(), 0
    while not ended.done():
        at = began + moments * gap_s
        await asyncio.sleep(at - time.monotonic())
        # By turns, for who is asked first is answered first.
        for place in sorted(range(len(ports)), reverse=bool(moments % 2)):
            url, what = f"http://127.0.0.1:{ports[place]}", Ask(path=paths[moments % len(paths)])
            tasks[place].append(asyncio.create_task(ask(client, url, what, at, 10)))
        moments += 1
    told = [await asyncio.gather(*server) for server in tasks]
    print(json.dumps([[_asked(reply) for reply in server] for server in told]))
    await client.close()


def _asked(reply: Reply) -> Asked:
    return Asked(reply.intended, reply.took_s, reply.status, reply.header("x-headgate-error"))


if __name__ == "__main__":
    asyncio.run(_ask(float(sys.argv[1]), [int(port) for port in sys.argv[2:]]))
