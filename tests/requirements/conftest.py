"""Which of the requirements are about time and processors, and must be measured alone?"""

from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Latency beside load (18, 20, 27, 37, 44), processor time (36), goodput (14, 39, 40, 46), and
# moments that have to be kept to a tenth of a second (21, 23, 25, 42, 43, 45).
MEASURED = (
    "r14", "r18", "r20", "r21", "r23", "r25", "r27", "r36", "r37", "r39", "r40", "r42", "r43",
    "r44", "r45", "r46",
)  # fmt: skip


@pytest.hookimpl(tryfirst=True)  # before `-m` is asked
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == HERE and item.path.name.startswith(
            tuple(f"test_{number}_" for number in MEASURED)
        ):
            item.add_marker(pytest.mark.alone)
