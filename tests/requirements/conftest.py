"""Which of the requirements are about time and processors, and which may share a gateway?"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.harness.gateway import Gateway, one_backend, running_gateway
from tests.harness.origins import Origin, echo, one_origin

HERE = Path(__file__).parent
# What leaves no processor idle (18, 37) and goodput (39, 40, 46).
ALONE = ("r18", "r37", "r39", "r40", "r46")
# Moments and rates that have to be kept to some tenths of a second, by the test's own client and
# instances too, what probes find in time, and what is compared with a twin.
PACED = (
    "r14", "r19", "r20", "r21", "r23", "r24", "r25", "r26", "r27", "r28", "r29", "r32", "r35",
    "r36_few", "r42", "r43", "r44", "r45", "r55", "r70",
)  # fmt: skip
SHARED_LOOP = pytest.mark.asyncio(loop_scope="module")
Plain = tuple[Gateway, Origin]


@pytest.hookimpl(tryfirst=True)  # before `-m` is asked
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent != HERE or item.get_closest_marker("paced") is not None:
            continue
        if item.path.name.startswith(tuple(f"test_{number}_" for number in ALONE)):
            item.add_marker(pytest.mark.alone)
        elif item.path.name.startswith(tuple(f"test_{number}_" for number in PACED)):
            item.add_marker(pytest.mark.paced)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def _one_for_all() -> AsyncIterator[Plain]:
    async with one_origin() as origin, running_gateway(one_backend(origin)) as gateway:
        yield gateway, origin


@pytest.fixture
def plain(_one_for_all: Plain) -> Plain:
    """A gateway with default settings before an origin that echoes, one for all tests of a file.

    For tests that leave it as they found it, in a file whose tests share a loop
    (`pytestmark = SHARED_LOOP`). What the origin noted of earlier tests is forgotten.
    """
    gateway, origin = _one_for_all
    origin.respond = echo
    origin.exchanges.clear()
    origin.malformed.clear()
    return gateway, origin
