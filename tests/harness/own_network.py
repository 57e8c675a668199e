"""How does a test get a network of its own, to drop packets in?

It runs again inside a user and network namespace (util-linux `unshare`), which has nothing but
a loopback device, and where anybody may use iptables, if the kernel lets them.
"""

import asyncio
import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

INSIDE = "HEADGATE_TEST_OWN_NETWORK"
ENTER = ("unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh")


@functools.cache
def _is_possible() -> bool:
    if os.environ.get(INSIDE):
        return True
    if not all(shutil.which(program) for program in ("unshare", "ip", "iptables")):
        return False
    probe = [*ENTER, "iptables", "-L", "-n"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def in_own_network(test: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """`test`, run in a network namespace of its own; skipped where there can be none."""

    @pytest.mark.skipif(
        not _is_possible(), reason="needs iptables, iproute2 and user namespaces (unshare -rn)"
    )
    @functools.wraps(test)
    async def run() -> None:
        if os.environ.get(INSIDE):
            await test()
            return
        name = f"{Path(test.__code__.co_filename)}::{test.__name__}"
        process = await asyncio.create_subprocess_exec(
            *ENTER, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", name,
            env={**os.environ, INSIDE: "1"},
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()[-6000:]

    return run


def drop(port: int, is_dropped: bool = True) -> None:
    """From now on every packet to and from `port` vanishes, or no longer does."""
    for chain, side in (("INPUT", "--dport"), ("INPUT", "--sport")):
        what = "-A" if is_dropped else "-D"
        subprocess.run(
            ["iptables", what, chain, "-p", "tcp", side, str(port), "-j", "DROP"], check=True
        )
