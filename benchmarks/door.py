"""Does one consumer feel what another one does at the door?

    python -m benchmarks.door turns [--workers 2] [--seconds 8] [--flood 64] [--rounds 3]
    python -m benchmarks.door strangers [--workers 2] [--seconds 8] [--rounds 3]

`turns`: one consumer asks politely, twenty times a second, alone and then beside another one that
keeps many requests waiting all the time; the 99th percentile of the polite one's answers, and the
times that the second is of the first. Pairs in one run, for the machine changes between runs.

`strangers`: the processor time that all workers take for a second of polite requests, alone and
beside somebody who asks as fast as he can with a key that nobody has, on many connections from one
address; what is more is what the strangers cost, as a part of one core.
"""

import argparse
import asyncio
import multiprocessing
import statistics
import time
from typing import Any

from gateway.core.access import hash_of, minted
from tests.harness.gateway import Gateway, backend, running_gateway
from tests.harness.load import Ask, Client, Reply, open_loop, percentile
from tests.harness.origin_process import OriginProcess

POLITE, FLOOD = minted(b"p" * 32), minted(b"f" * 32)
SLOTS, SERVICE_S = 4, 0.02
RATE = 20.0


def with_key(secret: str) -> Ask:
    return Ask(headers=[("X-API-Key", secret)])


async def polite(url: str, seconds: float, client: Client) -> list[Reply]:
    asked = await open_loop(url, RATE, seconds, lambda n: with_key(POLITE), client=client)
    wrong = [reply for reply in asked if not reply.ok]
    assert len(wrong) <= 0.01 * len(asked), wrong[0]
    return asked


def flood(url: str, clients: int, until: float, secret: str, status: int) -> int:
    """Keeps `clients` requests waiting until that moment; how many were answered by `status`."""

    async def one(client: Client) -> int:
        count = 0
        while time.monotonic() < until:
            reply = await client.get(url, headers=[("X-API-Key", secret)])
            count += reply.status == status
            if reply.status != status:
                await asyncio.sleep(0.01)
        return count

    async def everybody() -> int:
        client = Client()
        counts = await asyncio.gather(*(one(client) for _ in range(clients)))
        await client.close()
        return sum(counts)

    return asyncio.run(everybody())


def document(origin: OriginProcess) -> dict[str, Any]:
    return {
        "backends": {"main": backend(origin)},
        "routes": {"main": {"match": "/", "split": {"main": 1}}},
        "keys": {
            "polite": {"hashes": [hash_of(POLITE)]},
            "flood": {"hashes": [hash_of(FLOOD)]},
        },
    }


async def turns(gateway: Gateway, options: argparse.Namespace) -> None:
    ratios = []
    for _ in range(options.rounds):
        client = Client()
        alone = await polite(gateway.url, options.seconds, client)
        until = time.monotonic() + options.seconds + 1.5
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            flooding = pool.apply_async(flood, (gateway.url, options.flood, until, FLOOD, 200))
            await asyncio.sleep(1.0)
            beside = await polite(gateway.url, options.seconds, client)
            answered = await asyncio.to_thread(flooding.get)
        await client.close()
        p99 = [1e3 * percentile((each.took_s for each in some), 99) for some in (alone, beside)]
        p50 = [1e3 * percentile((each.took_s for each in some), 50) for some in (alone, beside)]
        ratios.append(p99[1] / p99[0])
        print(
            f"p50 {p50[0]:5.1f} ms alone {p50[1]:6.1f} beside   p99 {p99[0]:5.1f} ms alone"
            f" {p99[1]:6.1f} beside, {ratios[-1]:.2f} ×   ({answered / options.seconds:.0f}"
            f" answers/s to who floods)",
            flush=True,
        )
    print(f"median {statistics.median(ratios):.2f} ×")


def processor_s(gateway: Gateway) -> float:
    """The processor time that all workers have taken."""
    workers = [each for each in gateway.family() if "gateway.dataplane" in " ".join(each.cmdline())]
    times = [each.cpu_times() for each in workers or gateway.family()]
    return sum(each.user + each.system for each in times)


async def strangers(gateway: Gateway, options: argparse.Namespace) -> None:
    for _ in range(options.rounds):
        client, spent = Client(), []
        began = processor_s(gateway)
        await polite(gateway.url, options.seconds, client)
        spent.append(processor_s(gateway) - began)
        until = time.monotonic() + options.seconds
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            wrong = minted(b"w" * 32)
            asking = pool.apply_async(flood, (gateway.url, options.flood, until, wrong, 401))
            began = processor_s(gateway)
            await polite(gateway.url, options.seconds, client)
            spent.append(processor_s(gateway) - began)
            refused = await asyncio.to_thread(asking.get)
        await client.close()
        more = (spent[1] - spent[0]) / options.seconds
        print(
            f"{refused / options.seconds:7.0f} refused/s   {100 * more:5.1f} % of a core,"
            f" {1e6 * (spent[1] - spent[0]) / max(1, refused):5.0f} µs each",
            flush=True,
        )


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["turns", "strangers"])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flood", type=int, default=64)
    options = parser.parse_args()
    origin = OriginProcess(slots=SLOTS, service_s=SERVICE_S)
    origin.start()
    try:
        async with running_gateway(document(origin), workers=options.workers) as gateway:
            await (turns if options.what == "turns" else strangers)(gateway, options)
    finally:
        origin.kill()


if __name__ == "__main__":
    asyncio.run(main())
