"""Models that misbehave, and ways to ask them many things at once."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from tests.instance.conftest import Instance

MODEL = """
    import asyncio, os, pathlib, time
    from instance import ModelAPI

    class Slow(ModelAPI):
        def setup(self, device): ...
        def predict(self, x):
            pathlib.Path("ran").open("a").write(f"{x['id']}\\n")
            while x.get("held") and pathlib.Path("hold").exists():
                time.sleep(0.005)
            time.sleep(x.get("s", 0))
            return x["id"]

    class Streams(Slow):
        stream = True
        def predict(self, x):
            yield super().predict(x)
            while "then" in x and not pathlib.Path("go").exists():
                time.sleep(0.005)
            if "then" in x:
                yield x["then"]

    class AsyncSlow(ModelAPI):
        def setup(self, device): ...
        async def predict(self, x):
            pathlib.Path("ran").open("a").write(f"{x['id']}\\n")
            await asyncio.sleep(x.get("s", 0.3))
            pathlib.Path("done").open("a").write(f"{x['id']}\\n")
            return x["id"]

    class Shapes(ModelAPI):
        max_batch_size = 8
        batch_timeout = 0.005
        def setup(self, device):
            import numpy
            self.np = numpy
        def decode_request(self, request):
            return self.np.array(request["x"], dtype=float)
        def predict(self, batch):
            assert batch.ndim == 2
            return batch.sum(axis=1) * 2

    class Poison(ModelAPI):
        max_batch_size = 16
        batch_timeout = 0.02
        def setup(self, device): ...
        def decode_request(self, request):
            if request["kind"] == "decode":
                raise ValueError("cannot decode")
            return request
        def predict(self, batch):
            if any(x["kind"] == "predict" for x in batch):
                raise RuntimeError("cannot predict")
            return [float("nan") if x["kind"] == "nan" else x["id"] for x in batch]
        def encode_response(self, output):
            return {"id": output}

    class Crash(ModelAPI):
        def setup(self, device): ...
        def predict(self, x):
            if x == "die":
                while pathlib.Path("hold").exists():
                    time.sleep(0.005)
                os._exit(3)
            if x == "hang":
                pathlib.Path("hangs").touch()
                time.sleep(1000)
            return [x, os.getpid()]

    class Spin(ModelAPI):
        def setup(self, device): ...
        def predict(self, x):
            ends = time.monotonic() + x
            while time.monotonic() < ends:
                pass
            return x

    class Paced(ModelAPI):
        max_batch_size = 32
        def setup(self, device): ...
        def predict(self, batch):
            time.sleep(0.002 + 0.002 * len(batch))
            return [len(batch)] * len(batch)
"""

RAW_ECHO = """
    import os
    class Model:
        def setup(self, device): ...
        def decode_request(self, request: bytes):
            assert type(request) is bytes
            return request
        def predict(self, x):
            if x.startswith(b"die"):
                os._exit(1)
            return x
"""

# Starts once, and not again while there is a file `broken`.
BREAKS = """
    import os, pathlib, time
    class Model:
        def setup(self, device):
            if pathlib.Path("broken").exists():
                os._exit(1)
        def predict(self, x):
            if x == "hang":
                pathlib.Path("hangs").touch()
                time.sleep(1000)
            return x
"""


def together(calls: list[Callable[[], Any]]) -> list[Any]:
    """The results of `calls`, made at the same time."""
    results: list[Any] = [None] * len(calls)

    def run(index: int) -> None:
        results[index] = calls[index]()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def later(call: Callable[[], Any]) -> Callable[[], Any]:
    """Starts `call`; what is returned waits for its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()

    def result() -> Any:
        thread.join()
        return results[0]

    return result


@contextmanager
def holding(instance: Instance) -> Iterator[None]:
    """What `instance` computes that heeds the file `hold` is not done meanwhile."""
    hold = instance.cwd / "hold"
    hold.touch()
    try:
        yield
    finally:
        hold.unlink()


def ran(tmp_path: Path) -> list[str]:
    return (tmp_path / "ran").read_text().split() if (tmp_path / "ran").exists() else []


def raw(instance: Instance, body: bytes, **headers: str) -> socket.socket:
    """A connection on which one request was sent."""
    sock = socket.create_connection(("127.0.0.1", instance.port))
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
    sock.sendall(head.encode() + body)
    return sock


async def many(instance: Instance, bodies: list[Any], at_once: int) -> list[tuple[int, Any]]:
    """(status, JSON) of each of `bodies`, `at_once` under way at a time."""
    results: list[Any] = [None] * len(bodies)
    connector = aiohttp.TCPConnector(limit=at_once)
    async with aiohttp.ClientSession(instance.url, connector=connector) as session:

        async def one(index: int) -> None:
            async with session.post("/predict", json=bodies[index]) as answer:
                results[index] = (answer.status, await answer.json(content_type=None))

        gate = asyncio.Semaphore(at_once)

        async def gated(index: int) -> None:
            async with gate:
                await one(index)

        await asyncio.gather(*map(gated, range(len(bodies))))
    return results


async def paced(
    instance: Instance, rate: float, seconds: float, deadline_s: float, tries: int = 1
) -> list[tuple[float, int, float]]:
    """(when it was due, status, seconds it took) of requests that come at `rate`, each with a
    deadline; one that is refused or late is tried again at once, `tries` times in all. Status 0
    is no answer."""
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=4 * deadline_s)
    headers = {"X-Headgate-Timeout-Ms": str(int(deadline_s * 1000))}
    seen: list[tuple[float, int, float]] = []
    async with aiohttp.ClientSession(
        instance.url, connector=connector, timeout=timeout, headers=headers
    ) as session:
        clock = asyncio.get_running_loop().time
        began = clock()

        async def one(due: float) -> None:
            for _ in range(tries):
                started, status = clock(), 0
                try:
                    async with session.post("/predict", json=1) as answer:
                        await answer.read()
                        status = answer.status
                except (aiohttp.ClientError, TimeoutError):
                    pass
                seen.append((due, status, clock() - started))
                if status == 200:
                    break

        async with asyncio.TaskGroup() as tasks:
            for i in range(int(seconds * rate)):
                await asyncio.sleep(max(0.0, began + i / rate - clock()))
                tasks.create_task(one(i / rate))
    return seen
