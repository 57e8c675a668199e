"""Prometheus itself reads what a gateway shows, with the configuration that is shipped."""

import asyncio
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from tests.harness.gateway import eventually, one_backend, running_gateway
from tests.harness.load import Ask, open_loop
from tests.harness.origins import origins
from tests.harness.ports import free_port
from tests.telemetry.test_observability import EXPRESSIONS, plain

OBSERVABILITY = Path(__file__).parents[2] / "docker" / "observability"
TOKEN = "p" * 40


def tool(name: str) -> str:
    """Where Debian's package put it; skips the test where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian's package prometheus)")
    return path


def configuration(folder: Path, target: str) -> Path:
    """The shipped configuration, on this gateway, in a hurry."""
    shipped = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text())
    shipped["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    (job,) = shipped["scrape_configs"]
    (folder / "token").write_text(TOKEN)
    job["authorization"]["credentials_file"] = str(folder / "token")
    job["static_configs"] = [{"targets": [target]}]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(shipped))
    return path


async def test_r70_prometheus_counts_what_the_clients_saw(tmp_path: Path) -> None:
    prometheus, promtool = tool("prometheus"), tool("promtool")
    async with origins(1) as (origin,):
        document = one_backend(origin)
        env = {"HEADGATE_TOKEN": TOKEN}
        async with running_gateway(document, up=False, workers=2, env=env) as gateway:
            port = free_port()
            file = configuration(tmp_path, f"127.0.0.1:{gateway.admin_port}")
            process = await asyncio.create_subprocess_exec(
                prometheus, f"--config.file={file}", f"--storage.tsdb.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
                stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            try:

                async def value(query: str) -> float | None:
                    url = f"http://127.0.0.1:{port}/api/v1/query?query={quote(query)}"
                    reply = await gateway.client.get(url)
                    found: Any = json.loads(reply.body)["data"]["result"] if reply.ok else []
                    return float(found[0]["value"][1]) if found else None

                async def is_up() -> bool:
                    found = f'headgate_instance_up{{backend="main",instance="{origin.address}"}}'
                    return await value(found) == 1

                await eventually(is_up, 30, "Prometheus sees the instance up")
                replies = await open_loop(gateway.url, 60, 2, lambda n: Ask(path=f"/{n}"))
                sent = float(len(replies))

                async def counted() -> bool:
                    return await value('sum(headgate_requests_total{route="all"})') == sent

                await eventually(counted, 10, "Prometheus counts every request")
                share = await value("headgate_effective_weight")
                assert share == 1.0
                slow = await value("histogram_quantile(0.99, headgate_request_seconds_bucket)")
                assert slow is not None
                assert 0 < slow < 10
                for expression in EXPRESSIONS:
                    # A counter that nothing was counted by yet has no series; all else has one.
                    empty = re.search(r"> 0$|retries_total|ejections", expression)
                    found = await value(plain(expression, "10s"))
                    assert found is not None or empty, expression
            finally:
                process.terminate()
                await process.wait()
            headers = [("Authorization", f"Bearer {TOKEN}")]
            scrape = await gateway.client.get(f"{gateway.admin_url}/metrics", headers=headers)
    checked = subprocess.run(
        [promtool, "check", "metrics"], input=scrape.body, capture_output=True, timeout=30
    )
    assert (checked.returncode, checked.stderr) == (0, b"")
