"""From one file with a class to its second version at 100 %: one file and two commands, each step
timed, under load, and no request lost."""

import asyncio
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness.gateway import ROOT, eventually
from tests.harness.load import Ask, open_loop

from .test_one_line import OneLine, one_line, write

pytestmark = pytest.mark.alone  # each step has its seconds

VERSION = """
class {name}:
    def setup(self, device):
        pass

    def predict(self, x):
        return {{"version": "{name}"}}
"""
RATE = 200.0
FIRST_ANSWER_S, EDIT_S = 10.0, 10.0


async def headgate(it: OneLine, *arguments: str) -> tuple[float, str]:
    """How long the command took, and what it said."""
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", *arguments),
        cwd=it.folder,
        env={**it.env, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    return time.monotonic() - began, said


async def ask(it: OneLine, seconds: float, enough: asyncio.Event | None = None) -> Counter[str]:
    """Which versions answered RATE requests a second; none is without an answer."""
    what = Ask("POST", "/predict", [("Content-Type", "application/json")], b"{}")
    replies = await open_loop(it.url, RATE, seconds, lambda n: what, enough=enough)
    lost = [reply for reply in replies if not reply.ok]
    assert not lost, (len(lost), lost[0])
    return Counter(reply.json()["version"] for reply in replies)


async def apply(it: OneLine, document: dict[str, Any]) -> None:
    """Edits the file and applies it, under load, and both in time."""
    (it.folder / "headgate.yaml").write_text(yaml.safe_dump(document))
    is_done = asyncio.Event()
    load = asyncio.create_task(ask(it, 600.0, is_done))
    try:
        took_s, said = await headgate(it, "apply", "headgate.yaml", "--wait")
    finally:
        is_done.set()
        await load
    assert took_s < EDIT_S, said


async def test_a_second_version_replaces_the_first_by_one_file_and_two_commands(
    tmp_path: Path,
) -> None:
    write(tmp_path, VERSION.format(name="First"))
    began = time.monotonic()
    async with one_line(tmp_path, "--device", "cpu", "--write", "headgate.yaml") as it:
        first = await it.client.json("POST", f"{it.url}/predict", {})
        assert first.json() == {"version": "First"}
        assert time.monotonic() - began < FIRST_ANSWER_S

        write(tmp_path, VERSION.format(name="Second"), "second.py")
        document: dict[str, Any] = yaml.safe_load((tmp_path / "headgate.yaml").read_text())
        document["backends"]["second"] = {
            "serve": {"model": "second.py:Second", "devices": ["cpu"]}
        }
        (route,) = document["routes"].values()
        route["split"] = {"first": 95, "second": 5}
        await apply(it, document)
        seen = await ask(it, 2.0)
        assert 0.02 < seen["Second"] / seen.total() < 0.08, seen

        del document["backends"]["first"]
        route["split"] = {"second": 100}
        await apply(it, document)
        ended = time.monotonic()
        assert set(await ask(it, 1.0)) == {"Second"}

        async def is_alone() -> bool:
            served = (await it.status())["fleet"]["backends"]
            return set(served) == {"second"} and served["second"]["state"] == "ready"

        await eventually(is_alone, what="the process of the first version has ended")
        assert time.monotonic() - ended < EDIT_S
        await it.stop()
