"""`headgate up --on ray` before a cluster of three hosts, in network namespaces: one of them dies,
or is cut off and comes back."""

import importlib.util
import time
from collections.abc import Callable

import pytest

from tests.harness.gateway import eventually
from tests.harness.own_network import in_own_network
from tests.harness.ray_hosts import Hosts, cluster

pytestmark = [
    pytest.mark.ray,
    pytest.mark.soak,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None,
        reason="needs Ray, which is an extra: pip install 'headgate[ray]'",
    ),
]


async def lost(begin: Callable[[Hosts], None], end: Callable[[Hosts], None]) -> None:
    """What follows when host c is lost, and when it comes back."""
    async with cluster() as hosts:
        there = hosts.network.address("c", "hosts")

        def places(since: float) -> set[str]:
            return {one.reply.header("X-Headgate-Instance") for one in found if one.at >= since}

        async with hosts.asked() as found:
            await eventually(lambda: len(places(0)) == 4, what="all four answer")
            assert {at.partition(":")[0] for at in places(0)} == {
                hosts.network.address(each, "hosts") for each in "bc"
            }
            begin(hosts)
            gone = time.monotonic()
            # How soon that is to be is a sum of waits, which test_ray_keeper holds.
            await eventually(
                lambda: hosts.log("up.log").count("its host or its actor is gone") == 2,
                what="Ray's word takes its addresses out",
            )
            out = time.monotonic()
            # One of its two is started where there is room; for the other one there is none.
            await eventually(lambda: len(places(out) - {""}) == 3, what="one is replaced")
            await eventually(lambda: "a needs 1 CPU; 0 of 3 are free" in hosts.log("up.log"))
            end(hosts)
            back = time.monotonic()
            await eventually(lambda: len(found) and found[-1].at > back + 5, what="it goes on")
        assert not any(at.startswith(there) for at in places(out)), "it answers, and gets nothing"
        failed = [one.reply for one in found if one.at > gone and not one.reply.ok]
        assert not failed, failed[:3]


@in_own_network
async def test_a_host_dies_and_what_ran_there_is_started_elsewhere() -> None:
    await lost(lambda hosts: hosts.kill("c"), lambda hosts: None)


@in_own_network
async def test_a_host_that_was_cut_off_and_is_back_gets_no_requests_for_what_was_replaced() -> None:
    await lost(lambda hosts: hosts.network.cut("c"), lambda hosts: hosts.network.heal("c"))
