"""R33: with one backend of a split down, exactly what the route asks for happens."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from tests.harness.gateway import Gateway, backend, eventually, running_gateway
from tests.harness.load import Ask, open_loop
from tests.harness.origins import Origin, origins


def document(big: Origin, small: Origin, spare: Origin) -> dict[str, Any]:
    """A route of each policy, called by its name."""
    return {
        "backends": {
            # A machine that stands still makes one instance look slow: nobody is to wait for it.
            name: backend(origin, limit="fixed")
            for name, origin in (("big", big), ("small", small), ("spare", spare))
        },
        "routes": {
            name: {
                "match": f"/{name}",
                "split": {"big": 90, "small": 10},
                "on_unavailable": {"fallback": "spare"} if name == "fallback" else name,
            }
            for name in EXPECTED
        },
    }


EXPECTED = {
    "redistribute": ({"small": 200}, {"big": 0.0, "small": 1.0}),
    "fail": ({"": 180, "small": 20}, {"big": 0.0, "small": 0.1}),
    "fallback": ({"spare": 180, "small": 20}, {"big": 0.0, "small": 0.1, "spare": 0.9}),
}


async def test_r33_the_policy_of_each_route_happens_exactly() -> None:
    async with origins(3) as (big, small, spare):
        async with running_gateway(document(big, small, spare)) as gateway:
            await big.stop()

            async def known() -> bool:
                up = (await gateway.metrics()).by("headgate_instance_up", "backend")
                return up["big"] == 0

            async def heard() -> bool:
                url = f"{gateway.url}/redistribute"
                asked = [await gateway.client.get(url) for _ in range(20)]
                return all(reply.header("x-headgate-error") != "connect_failed" for reply in asked)

            await eventually(known, what="the big backend is known to be down")
            await eventually(heard, what="the worker has heard of it")
            for policy in EXPECTED:
                await assert_exact(gateway, policy)


async def assert_exact(gateway: Gateway, policy: str) -> None:
    counts, effective = EXPECTED[policy]
    make = lambda n: Ask(path=f"/{policy}/{n}")  # noqa: E731
    replies = await open_loop(gateway.url, 100, 2, make, timeout=60)
    seen = Counter(r.header("x-headgate-backend") if r.ok else "" for r in replies)
    for name in {*counts, *seen}:
        assert abs(seen[name] - counts.get(name, 0)) <= 8, (policy, seen)
    errors = {r.header("x-headgate-error") for r in replies if not r.ok}
    assert errors <= {"no_backend"}, policy
    answer = await gateway.admin("GET", f"/admin/v1/routes/{policy}/weights")
    assert answer.json()["effective"] == pytest.approx(effective)
    shown = (await gateway.metrics()).by("headgate_effective_weight", "backend", route=policy)
    assert shown == pytest.approx(effective)


async def test_r33_events_tell_who_went_down_and_what_the_shares_are_now() -> None:
    async with origins(3) as (big, small, spare):
        async with running_gateway(document(big, small, spare)) as gateway:
            heard = bytearray()
            listening = asyncio.create_task(
                gateway.client.get(
                    f"{gateway.admin_url}/admin/v1/events", timeout=60, on_body=heard.extend
                )
            )
            await big.stop()

            def told() -> list[dict[str, Any]]:
                lines = bytes(heard).split(b"\n")
                return [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]

            def named() -> bool:
                health = [e for e in told() if e["type"] == "health" and e["to"] == "down"]
                shares = {e["route"]: e["effective"] for e in told() if e["type"] == "effective"}
                return [e["instance"] for e in health] == [big.address] and shares == {
                    route: effective for route, (_, effective) in EXPECTED.items()
                }

            await eventually(named, what="events name the instance and the shares")
            listening.cancel()
