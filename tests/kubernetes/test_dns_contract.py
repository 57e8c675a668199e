"""What a headless Service promises, kept by a real name server, and what the gateway makes of it.

A name has the addresses of the pods that are ready, with a short time to live; a pod that leaves is
out of the name at once and answers for as long as somebody may know it (`preStop`). Here dnsmasq is
the cluster's DNS, in a network of its own, and whoever writes its records is the cluster.
"""

import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.harness.gateway import eventually, one_backend, running_gateway
from tests.harness.load import Reply, failures
from tests.harness.origins import Origin, fixed
from tests.harness.own_network import in_own_network

NAME = "digits-cnn.default.svc.cluster.test"
TTL_S = 1
DNSMASQ = shutil.which("dnsmasq") or shutil.which("dnsmasq", path="/usr/sbin")
OWN_RESOLVER = ("unshare", "-rm", "sh", "-c", 'mount --bind "$0" /etc/resolv.conf && exec "$@"')


class Cluster:
    """The records of one headless Service: `ready` is who is behind its name."""

    def __init__(self, folder: Path) -> None:
        self.resolv = folder / "resolv.conf"
        self.resolv.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:2\n")
        self._hosts = folder / "hosts"
        self._process: subprocess.Popen[bytes] | None = None

    def ready(self, pods: Sequence[Origin]) -> None:
        """From now on these and no others are behind the name."""
        self._hosts.write_text("".join(f"{pod.host} {NAME}\n" for pod in pods))
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)  # it reads them again

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """While the name server runs."""
        assert DNSMASQ is not None
        self._process = subprocess.Popen(
            [
                DNSMASQ, "--no-daemon", "--conf-file=/dev/null", "--no-resolv",
                "--no-hosts", f"--addn-hosts={self._hosts}", f"--local-ttl={TTL_S}",
                "--local=/test/", "--listen-address=127.0.0.1", "--bind-interfaces",
            ]
        )  # fmt: skip
        try:
            yield
        finally:
            self._process.terminate()
            self._process.wait(10)


@pytest.mark.skipif(DNSMASQ is None, reason="needs dnsmasq")
@in_own_network
async def test_pods_come_and_go_by_their_name_and_no_request_is_lost() -> None:
    folder = Path(tempfile.mkdtemp(prefix="headgate-test-"))
    pods = [Origin(fixed(200, str(n).encode()), host=f"127.0.1.{n}") for n in (1, 2, 3)]
    for pod in pods:
        pod.port = 8000
        await pod.start()
    one, two, three = pods
    cluster = Cluster(folder)
    cluster.ready([one, two])
    replies: list[Reply] = []
    try:
        async with cluster.serving():
            document = one_backend(f"dns+http://{NAME}:8000", balance="round_robin")
            prefix = (*OWN_RESOLVER, str(cluster.resolv))
            async with running_gateway(document, prefix=prefix, up=2) as gateway:

                async def asked(count: int = 20) -> Counter[bytes]:
                    last = [await gateway.client.get(f"{gateway.url}/x") for _ in range(count)]
                    replies.extend(last)
                    return Counter(reply.body for reply in last)

                async def answered_by(*which: Origin) -> bool:
                    known = set(await gateway.health())
                    answering = {body.decode() for body in await asked()}
                    return known == {pod.address for pod in which} and answering == {
                        pod.host.rpartition(".")[2] for pod in which
                    }

                assert (await asked()).keys() == {b"1", b"2"}  # three listens, and is not ready
                cluster.ready([one, two, three])  # scaled
                await eventually(lambda: answered_by(one, two, three), what="three gets its part")

                cluster.ready([two, three])  # one is told to go, and answers on
                began = time.monotonic()
                await eventually(lambda: answered_by(two, three), what="nobody asks one any more")
                took = time.monotonic() - began
                assert took < 30, (took, "as long as preStop waits in the manifests")
                await one.stop()
                await asked()

                cluster.ready([])  # nobody is ready, or the name server has lost its mind
                await gateway.logged(f"cannot resolve {NAME}")
                assert (await asked()).keys() == {b"2", b"3"}, "the last that was known holds"
                assert failures(replies) == []
    finally:
        for pod in pods:
            await pod.stop()
            pod.release()
        shutil.rmtree(folder)
