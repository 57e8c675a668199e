"""Every task has an owner, who learns of each that fails."""

import ast
import asyncio
from pathlib import Path

import pytest

from gateway.processes.tasks import Tasks, first_of, told

ROOT = Path(__file__).parent.parent
MAKERS = {"create_task", "ensure_future"}


def makers(path: Path) -> list[str]:
    """Where `path` makes a task that is not a TaskGroup's."""
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in MAKERS
        and not (isinstance(node.func.value, ast.Name) and node.func.value.id == "group")
    ]


def test_tasks_are_made_in_one_place_only() -> None:
    paths = [path for path in (ROOT / "gateway").rglob("*.py") if path.name != "tasks.py"]
    assert [place for path in paths for place in makers(path)] == []


class Owner:
    def __init__(self) -> None:
        self.failures: list[tuple[str, str]] = []
        self.tasks = Tasks(
            lambda name, error: self.failures.append((name, told(error))), pause_s=0.01
        )


async def test_the_owner_learns_what_ended_and_why() -> None:
    owner = Owner()

    async def fail() -> None:
        raise OSError("line one\nline two")

    async def succeed() -> int:
        return 7

    owner.tasks.run("a part", fail())
    assert await owner.tasks.run("another", succeed()) == 7
    owner.tasks.run("a third", asyncio.sleep(60)).cancel()
    await owner.tasks.ended()
    assert owner.failures == [("a part", "OSError: line one line two")]


async def test_what_is_kept_is_begun_again_until_it_is_done() -> None:
    owner = Owner()
    turns = 0

    async def work() -> None:
        nonlocal turns
        turns += 1
        if turns < 3:
            raise ValueError

    await owner.tasks.keep("a part", work)
    assert turns == 3
    assert owner.failures == [("a part", "ValueError")] * 2


async def test_nothing_runs_after_close() -> None:
    owner = Owner()
    task = owner.tasks.keep("a part", lambda: asyncio.sleep(60))
    await owner.tasks.close()
    assert task.cancelled()
    assert owner.failures == []


async def test_the_first_one_ends_the_wait_and_the_others() -> None:
    ended: list[str] = []

    async def last_for_ever() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")

    async def fail() -> None:
        raise ValueError("no")

    await first_of(asyncio.sleep(0), last_for_ever())
    await first_of(last_for_ever(), timeout=0.01)
    with pytest.raises(ValueError, match="no"):
        await first_of(last_for_ever(), fail())
    assert ended == ["cancelled"] * 3
