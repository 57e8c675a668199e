"""R33: with one backend of a split down, exactly what the route asks for happens."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from tests.harness.gateway import backend, eventually, running_gateway
from tests.harness.load import Ask, open_loop
from tests.harness.origins import Origin, origins


def document(big: Origin, small: Origin, spare: Origin, policy: Any) -> dict[str, Any]:
    return {
        "backends": {"big": backend(big), "small": backend(small), "spare": backend(spare)},
        "routes": {
            "r": {"match": "/", "split": {"big": 90, "small": 10}, "on_unavailable": policy},
        },
    }


EXPECTED = {
    "redistribute": ({"small": 200}, {"big": 0.0, "small": 1.0}),
    "fail": ({"": 180, "small": 20}, None),
    "fallback": ({"spare": 180, "small": 20}, None),
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

            await eventually(known, 3, "the big backend is known to be down")
            replies = await open_loop(gateway.url, 100, 2, lambda n: Ask(path=f"/{n}"))
            seen = Counter(r.header("x-headgate-backend") if r.ok else "" for r in replies)
            for name in {*counts, *seen}:
                assert abs(seen[name] - counts.get(name, 0)) <= 4, (policy, seen)
            errors = {r.header("x-headgate-error") for r in replies if not r.ok}
            assert errors <= {"no_backend"}
            if effective is not None:
                answer = await gateway.admin("GET", "/admin/v1/routes/r/weights")
                shares = answer.json()["effective"]
                whole = sum(shares.values())
                got = {name: share / whole for name, share in shares.items()}
                assert got.get("big", 0.0) == effective["big"], got
                assert got["small"] == effective["small"], got


async def test_r33_an_event_tells_that_the_instance_went_down() -> None:
    async with origins(3) as (big, small, spare):
        async with running_gateway(document(big, small, spare, "redistribute")) as gateway:
            heard = bytearray()
            listening = asyncio.create_task(
                gateway.client.get(
                    f"{gateway.admin_url}/admin/v1/events", timeout=60, on_body=heard.extend
                )
            )
            await big.stop()
            await eventually(lambda: big.address.encode() in heard, 4, "an event names it")
            listening.cancel()
