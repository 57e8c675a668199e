"""R34: a name that changes its address takes the traffic along; a lost name changes nothing."""

import os
import shutil
from pathlib import Path

import pytest

from tests.harness.gateway import eventually, one_backend, running_gateway
from tests.harness.load import failures
from tests.harness.origins import Origin, fixed

NAME = "instances.headgate.test"
OWN_HOSTS = 'mount --bind "$0" /etc/hosts && exec "$@"'


def _can_unshare() -> bool:
    return os.geteuid() == 0 and shutil.which("unshare") is not None and _mounts()


def _mounts() -> bool:
    return os.system("unshare -m true 2>/dev/null") == 0


@pytest.mark.skipif(not _can_unshare(), reason="needs root, to give the gateway its own hosts file")
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
    prefix = ("unshare", "-m", "sh", "-c", OWN_HOSTS, str(hosts))
    document = one_backend(f"dns+http://{NAME}:{one.port}")
    try:
        async with running_gateway(document, prefix=prefix) as gateway:
            replies = []

            async def answered_by(body: bytes) -> bool:
                replies.append(await gateway.client.get(f"{gateway.url}/x"))
                return replies[-1].body == body

            await eventually(lambda: answered_by(b"one"), 3)
            point("127.0.0.2")
            await eventually(lambda: answered_by(b"two"), 20, "traffic to the new address")
            point()
            for _ in range(40):
                await eventually(lambda: answered_by(b"two"), 1, "the last address", 0.1)
            assert failures(replies) == []
    finally:
        await one.stop()
        await two.stop()
