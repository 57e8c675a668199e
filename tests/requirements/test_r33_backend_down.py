"""R33: with one backend of a split down, exactly what the route asks for happens."""

import asyncio
import json
from collections import Counter
from typing import Any

import pytest

from tests.harness.gateway import backend, eventually, running_gateway
from tests.harness.load import Ask, open_loop
from tests.harness.origins import Origin, origins


def document(big: Origin, small: Origin, spare: Origin, policy: Any) -> dict[str, Any]:
    return {
        "backends": {
            # A machine that stands still makes one instance look slow: nobody is to wait for it.
            name: backend(origin, limit="fixed")
            for name, origin in (("big", big), ("small", small), ("spare", spare))
        },
        "routes": {
            "r": {"match": "/", "split": {"big": 90, "small": 10}, "on_unavailable": policy},
        },
    }


EXPECTED = {
    "redistribute": ({"small": 200}, {"big": 0.0, "small": 1.0}),
    "fail": ({"": 180, "small": 20}, {"big": 0.0, "small": 0.1}),
    "fallback": ({"spare": 180, "small": 20}, {"big": 0.0, "small": 0.1, "spare": 0.9}),
}


@pytest.mark.parametrize("policy", EXPECTED)
async def test_r33_the_policy_of_the_route_happens_exactly(policy: str) -> None:
    counts, effective = EXPECTED[policy]
    async with origins(3) as (big, small, spare):
        value = {"fallback": "spare"} if policy == "fallback" else policy
        async with running_gateway(document(big, small, spare, value)) as gateway:
            await big.stop()

            async def known() -> bool:
                up = (await gateway.metrics()).by("headgate_instance_up", "backend")
                return up["big"] == 0

            async def heard() -> bool:
                asked = [await gateway.client.get(f"{gateway.url}/x") for _ in range(20)]
                return all(reply.header("x-headgate-error") != "connect_failed" for reply in asked)

            await eventually(known, what="the big backend is known to be down")
            await eventually(heard, what="the worker has heard of it")
            replies = await open_loop(gateway.url, 100, 2, lambda n: Ask(path=f"/{n}"), timeout=60)
            seen = Counter(r.header("x-headgate-backend") if r.ok else "" for r in replies)
            for name in {*counts, *seen}:
                assert abs(seen[name] - counts.get(name, 0)) <= 8, (policy, seen)
            errors = {r.header("x-headgate-error") for r in replies if not r.ok}
            assert errors <= {"no_backend"}
            answer = await gateway.admin("GET", "/admin/v1/routes/r/weights")
            assert answer.json()["effective"] == pytest.approx(effective)
            shown = (await gateway.metrics()).by("headgate_effective_weight", "backend", route="r")
            assert shown == pytest.approx(effective)


async def test_r33_events_tell_who_went_down_and_what_the_shares_are_now() -> None:
    async with origins(3) as (big, small, spare):
        async with running_gateway(document(big, small, spare, "redistribute")) as gateway:
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
                shares = [e for e in told() if e["type"] == "effective" and e["route"] == "r"]
                return (
                    [e["instance"] for e in health] == [big.address]
                    and bool(shares)
                    and shares[-1]["effective"] == {"big": 0.0, "small": 1.0}
                )

            await eventually(named, what="events name the instance and the shares")
            listening.cancel()
