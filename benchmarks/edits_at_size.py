"""How long do an edit and the load of a large table take, and do requests notice?

    python -m benchmarks.edits_at_size [--routes 20000] [--edits 50] [--hosts]

Starts a gateway with one instance, has a client ask it for one thing after another all the
time, loads a table of many routes through the admin API, and edits one weight again and again.
Says for each how long it took until it was acknowledged, and the longest that a request took.
`--hosts` declares every route for the same path and a host of its own.
"""

import argparse
import asyncio
import statistics
import time
from typing import Any

from tests.harness.gateway import Gateway, one_backend, running_gateway
from tests.harness.origin_process import OriginProcess
from tests.harness.trickle import Asked, Trickle


def document(routes: int, origin: str, by_host: bool) -> dict[str, Any]:
    """`routes` routes over ten backends of one instance each, and the one that is asked for."""
    backends = {
        f"b{n}": {"instances": [origin.replace("127.0.0.1", f"127.0.0.{n + 1}")]} for n in range(10)
    }
    made: dict[str, Any] = {"main": {"match": {"path": "/main"}, "split": {"main": 1}}}
    for n in range(routes):
        host = {"hosts": [f"tenant{n}.example"]} if by_host else {}
        match = {"path": "/tenants" if by_host else f"/tenants/{n}", **host}
        made[f"r{n}"] = {"match": match, "split": {f"b{n % 10}": 90, f"b{(n + 1) % 10}": 10}}
    return {"backends": {"main": {"instances": [origin]}, **backends}, "routes": made}


async def measured(gateway: Gateway, options: argparse.Namespace, url: str) -> None:
    asking = Trickle([gateway.data_port], ["/main"])
    await asyncio.sleep(6.0)
    marks = [("nothing", time.monotonic() - 2.0, time.monotonic())]
    whole = document(options.routes, url, options.hosts)
    marks.append(await timed("load", gateway, "POST", "/admin/v1/apply", whole))
    await asyncio.sleep(3.0)
    for number in range(options.edits):
        weights = {"b5": number, "b6": 100 - number}
        path = "/admin/v1/routes/r5/weights"
        marks.append(await timed("edit", gateway, "PUT", path, weights))
        await asyncio.sleep(0.1)
    for number in range(5):
        spec = {"match": f"/new/{number}", "split": {"b1": 1}}
        marks.append(await timed("new route", gateway, "PUT", f"/admin/v1/routes/n{number}", spec))
        await asyncio.sleep(0.1)
    (asked,) = await asking.end()
    report(marks, asked)


async def timed(
    what: str, gateway: Gateway, method: str, path: str, body: Any
) -> tuple[str, float, float]:
    began = time.monotonic()
    reply = await gateway.admin(method, path, body, timeout=120)
    assert reply.status in (200, 201), reply
    return what, began, time.monotonic()


def report(marks: list[tuple[str, float, float]], asked: list[Asked]) -> None:
    assert all(status == 200 for _, _, status in asked)
    for what in dict.fromkeys(mark[0] for mark in marks):
        spans = [(began, ended) for name, began, ended in marks if name == what]
        took = sorted(1e3 * (ended - began) for began, ended in spans)
        slowest = [
            max((t for at, t, _ in asked if began - 0.05 < at < ended + 0.05), default=0.0)
            for began, ended in spans
        ]
        print(
            f"{what:9}  acknowledged after {statistics.median(took):7.1f} ms (median)"
            f" {took[-1]:7.1f} ms (longest)   slowest request beside it"
            f" {1e3 * statistics.median(slowest):6.1f} ms (median) {1e3 * max(slowest):6.1f} ms"
        )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--routes", type=int, default=20_000)
    parser.add_argument("--edits", type=int, default=50)
    parser.add_argument("--hosts", action="store_true")
    options = parser.parse_args()
    origin = OriginProcess(service_s=0.0, slots=64)
    origin.start()
    try:
        table = one_backend(origin.url, route={"match": "/main"})
        async with running_gateway(table, access_log="off") as gateway:
            await measured(gateway, options, origin.url)
    finally:
        origin.kill()


if __name__ == "__main__":
    asyncio.run(main())
