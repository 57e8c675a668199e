"""`headgate up --on ray` before a cluster with GPUs: logical ones, which need no hardware."""

import importlib.util
from collections import defaultdict

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


async def seen(hosts: Hosts) -> dict[str, tuple[str, str]]:
    """Where the instances that answer are: what each calls its device, and which GPU that is."""
    found = {}
    for _ in range(40):
        reply = await hosts.ask()
        told = reply.json()
        found[reply.header("X-Headgate-Instance")] = (told["device"], told["sees"])
    return found


@in_own_network
async def test_each_replica_sees_a_gpu_of_its_own_and_what_needs_too_many_is_one_line() -> None:
    backends = {"a": {"replicas": 4, "gpus": 1}, "big": {"gpus": 3}}
    async with cluster(gpus=2, backends=backends) as hosts:
        found: dict[str, tuple[str, str]] = {}

        async def all_answer() -> bool:
            nonlocal found  # on a busy machine one that is slow is left out of the next look
            found = await seen(hosts)
            return len(found) == 4

        await eventually(all_answer)
        on_host = defaultdict(set)
        for at, (device, gpu) in found.items():
            assert device == "cuda:0"
            on_host[at.partition(":")[0]].add(gpu)
        assert list(on_host.values()) == [{"0", "1"}, {"0", "1"}]

        await eventually(lambda: "big needs 3 GPUs" in hosts.log("up.log"))
        assert hosts.log("up.log").count("big needs 3 GPUs") == 1
        assert (await hosts.ask("/big")).status == 503
