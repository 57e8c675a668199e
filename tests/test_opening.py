"""What "Opening it to others" says can be done is done, block by block, against a real gateway."""

import asyncio
import os
import re
import sys
from pathlib import Path

import psutil

from tests.harness.gateway import Gateway, backend, running_gateway
from tests.harness.origins import origins
from tests.harness.ports import free_port

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "opening-to-others.md"


def blocks(language: str) -> list[str]:
    """The blocks of the page that are written in `language`."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


async def test_each_command_of_the_page_does_what_it_says(tmp_path: Path) -> None:
    async with origins(1) as (one,):
        document = {
            "backends": {"digits-linear": backend(one)},
            "routes": {"digits": {"match": "/digits", "split": {"digits-linear": 1}}},
        }
        async with running_gateway(document, workers=2) as gateway:
            environment = _environment(tmp_path, gateway)
            ports = {8080: gateway.data_port, 8081: gateway.admin_port, 8001: one.port}
            ports |= {8443: free_port(), 8444: free_port()}
            try:
                for block in blocks("sh"):
                    await _run(block, ports, tmp_path, environment)
            finally:
                await _end(tmp_path / "remote.pid")
            said_once = ("acme.key", "acme.new", "beta.key", "upstream.token")
            keys = [(tmp_path / name).read_text().split()[-1] for name in said_once]
            assert len(set(keys)) == 4
            await _nowhere(gateway.folder, keys)
            await _nowhere(tmp_path / "remote-state", keys)


def _environment(folder: Path, gateway: Gateway) -> dict[str, str]:
    """That of a user who has `headgate` installed and a gateway running."""
    program = folder / "bin" / "headgate"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gateway "$@"\n')
    program.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HEADGATE_URL": gateway.admin_url,
    }


async def _run(
    block: str, ports: dict[int, int], folder: Path, environment: dict[str, str]
) -> None:
    """Runs `block` as it stands, but for its ports; each command of it must succeed."""
    script = block
    for said, port in ports.items():
        script = script.replace(f":{said}", f":{port}")
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", f"set -eo pipefail\n{script}", cwd=folder, env=environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            told, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        raise AssertionError(f"this does not end:\n{block}") from None
    assert process.returncode == 0, f"{block}\n{told.decode()}"


async def _end(noted: Path) -> None:
    """Waits for the end of the gateway that the page starts and stops, and sees to it."""
    if not noted.exists():
        return
    try:
        process = psutil.Process(int(noted.read_text()))
        process.terminate()
        await asyncio.to_thread(process.wait, 15)
    except psutil.NoSuchProcess:
        pass


async def _nowhere(folder: Path, secrets: list[str]) -> None:
    """No secret is in any file of the gateway: state, history, logs."""
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [each for each in secrets if each.encode() in content], path
