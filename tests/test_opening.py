"""What "Opening it to others" says can be done is done, block by block, against a real gateway."""

import asyncio
import os
import re
import sys
from pathlib import Path

from tests.harness.gateway import backend, running_gateway
from tests.harness.origins import origins

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
            start = f'set -eo pipefail; headgate() {{ "{sys.executable}" -m gateway "$@"; }}\n'
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "HEADGATE_URL": gateway.admin_url}
            for block in blocks("sh"):
                script = block.replace(":8080", f":{gateway.data_port}")
                script = script.replace(":8081", f":{gateway.admin_port}")
                process = await asyncio.create_subprocess_exec(
                    "bash", "-c", start + script, cwd=tmp_path, env=environment,
                    stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
                )  # fmt: skip
                said, _ = await process.communicate()
                assert process.returncode == 0, f"{block}\n{said.decode()}"
            said_once = ("acme.key", "acme.new", "beta.key")
            keys = [(tmp_path / name).read_text().strip() for name in said_once]
            assert len(set(keys)) == 3
            await _nowhere(gateway.folder, keys)


async def _nowhere(folder: Path, secrets: list[str]) -> None:
    """No secret is in any file of the gateway: state, history, logs."""
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [each for each in secrets if each.encode() in content], path
