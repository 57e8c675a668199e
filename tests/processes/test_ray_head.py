"""`headgate up --on ray` before a cluster of three hosts whose head is away, and comes back."""

import asyncio
import importlib.util
import json
from typing import Any

import pytest

from tests.harness.gateway import eventually
from tests.harness.own_network import in_own_network
from tests.harness.ray_hosts import Hosts, cluster

pytestmark = [
    pytest.mark.ray,
    pytest.mark.soak,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None,
        reason="needs Ray, which is an extra: pip install 'headgate[ray]'",
    ),
]
AWAY_S = 75.0
"""Longer than hosts wait for a head that keeps nothing."""


async def placed(hosts: Hosts) -> list[dict[str, Any]]:
    said = await hosts.command("fleet", "status", "--output", "json")
    found: list[dict[str, Any]] = json.loads(said)
    return found


async def head_away(at: str) -> None:
    """Its gcs_server is killed, and with it ends all that Ray runs on that host."""
    async with cluster(at) as hosts, hosts.asked() as found:
        await eventually(lambda: len(hosts.instances()) == 4)
        before = hosts.instances()
        (killed,) = [each for each in hosts.here("a") if each.name() == "gcs_server"]
        killed.kill()
        await eventually(
            lambda: "Remaining processes will be killed" in hosts.log("ray-a.log"), what="it ends"
        )
        # An instance that dies meanwhile is started again by its own actor.
        one = min(before, key=lambda each: each.pid)
        one.kill()
        await eventually(lambda: len(hosts.instances() - before) == 1, what="it is replaced")
        before = hosts.instances()
        await asyncio.sleep(AWAY_S)
        assert hosts.instances() == before, "nothing happens to instances"
        assert "the cluster cannot be reached since" in await hosts.command("status")

        await hosts.ray_head()
        await hosts.command("scale", "a=5")
        await eventually(lambda: len(hosts.instances()) == 5, what="what is edited is placed")
        assert before < hosts.instances(), "and nothing twice, or anew"

        async def is_known() -> bool:
            shown = await placed(hosts)
            pids = {each["pid"] for each in shown if each["state"] == "ready"}
            return pids == {each.pid for each in hosts.instances()} and len(shown) == 5

        await eventually(is_known, what="status shows what there is")
        assert "cannot be reached" not in await hosts.command("status")
        assert not [each.reply for each in found if not each.reply.ok][:3]
        assert len(found) > 1000
        assert "ended 5 instances" in await hosts.command("fleet", "down")
        assert not hosts.instances()


@in_own_network
async def test_a_head_that_is_away_costs_no_request_of_a_gateway_on_another_host() -> None:
    await head_away("b")


@in_own_network
async def test_a_head_that_is_away_costs_no_request_of_the_gateway_on_its_own_host() -> None:
    await head_away("a")
