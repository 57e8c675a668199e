"""R34: a name that changes its address takes the traffic along; a lost name changes nothing."""

import asyncio
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.harness.gateway import eventually, one_backend, running_gateway
from tests.harness.load import failures
from tests.harness.origins import Origin, fixed

NAME = "instances.headgate.test"
OWN_HOSTS = 'mount --bind "$0" /etc/hosts && exec "$@"'


def _may_have_its_own_hosts() -> bool:
    """Anybody may, in a user namespace of their own, where the kernel is not told otherwise."""
    if shutil.which("unshare") is None:
        return False
    probe = ["unshare", "-rm", "sh", "-c", OWN_HOSTS, "/etc/hosts", "true"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(
    not _may_have_its_own_hosts(),
    reason="needs user namespaces, to give the gateway a hosts file of its own "
    "(tests/dataplane/test_names.py does without)",
)
async def test_r34_a_changed_address_takes_over_and_a_lost_name_keeps_the_last(
    tmp_path: Path,
) -> None:
    hosts = tmp_path / "hosts"

    def point(*addresses: str) -> None:
        lines = [f"{address} {NAME}" for address in addresses]
        hosts.write_text("127.0.0.1 localhost\n" + "\n".join(lines) + "\n")

    one = Origin(fixed(200, b"one"), host="127.0.0.1")
    two = Origin(fixed(200, b"two"), host="127.0.0.2")
    await one.start()
    two.port = one.port
    await two.start()
    point("127.0.0.1")
    prefix = ("unshare", "-rm", "sh", "-c", OWN_HOSTS, str(hosts))
    document = one_backend(f"dns+http://{NAME}:{one.port}")
    try:
        async with running_gateway(document, prefix=prefix) as gateway:
            replies = []

            async def answered_by(body: bytes) -> bool:
                replies.append(await gateway.client.get(f"{gateway.url}/x"))
                return replies[-1].body == body

            async def moved() -> bool:
                return await answered_by(b"two") and list(await gateway.health()) == [two.address]

            await eventually(lambda: answered_by(b"one"))
            point("127.0.0.2")
            pointed = time.monotonic()
            await eventually(moved, what="all traffic goes to the new address")
            assert (took := time.monotonic() - pointed) <= 10, took
            point()
            for _ in range(40):  # over more than one look-up
                assert await answered_by(b"two"), replies[-1]
                await asyncio.sleep(0.1)
            assert failures(replies) == []
    finally:
        for origin in (one, two):
            await origin.stop()
            origin.release()
