"""Prometheus itself reads what a gateway shows, with the configuration that is shipped."""

import asyncio
import json
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import pytest
import yaml
from aiohttp import web

from gateway.controlplane.watch.counters import Totals
from gateway.core.table import Table
from gateway.telemetry.book import Book
from gateway.telemetry.exposition import Gauges, render
from gateway.telemetry.metrics import Counters
from tests.harness.gateway import eventually, one_backend, running_gateway
from tests.harness.load import Client, get_each, open_loop
from tests.harness.origins import origins
from tests.harness.ports import free_port
from tests.instance.conftest import Instance
from tests.telemetry.test_observability import EXPRESSIONS, RARE, plain

OBSERVABILITY = Path(__file__).parents[2] / "docker" / "observability"
TOKEN = "p" * 40
NATIVE = "--enable-feature=native-histograms"
MODEL = """
class Model:
    def setup(self, device): ...
    def predict(self, x):
        return {"output": x}
"""


def tool(name: str) -> str:
    """Where Debian's package put it; skips the test where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian's package prometheus)")
    return path


def configuration(folder: Path, gateway: str, instance: str) -> Path:
    """The shipped configuration, on this gateway and instance, in a hurry."""
    shipped = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text())
    shipped["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    job, instances = shipped["scrape_configs"]
    (folder / "token").write_text(TOKEN)
    job["authorization"]["credentials_file"] = str(folder / "token")
    job["static_configs"] = [{"targets": [gateway]}]
    del instances["dns_sd_configs"]  # there is no name server here that knows the instance
    found = {"targets": [instance], "labels": {"__meta_dns_name": "main"}}
    instances["static_configs"] = [found]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(shipped))
    return path


class Prometheus:
    """The process, and the values that it answers with."""

    def __init__(self, file: Path, folder: Path, client: Client, *more: str) -> None:
        self._port, self._client = free_port(), client
        self._command = [
            tool("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}", "--log.level=error", *more,
        ]  # fmt: skip

    async def __aenter__(self) -> Self:
        nowhere = asyncio.subprocess.DEVNULL
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdout=nowhere, stderr=nowhere
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.terminate()
        await self._process.wait()

    async def value(self, query: str) -> float | None:
        """The first value of `query`; None where it finds nothing."""
        url = f"http://127.0.0.1:{self._port}/api/v1/query?query={quote(query)}"
        reply = await self._client.get(url)
        found: Any = json.loads(reply.body)["data"]["result"] if reply.ok else []
        return float(found[0]["value"][1]) if found else None

    async def reads(self, query: str, value: float) -> None:
        """Returns once `query` has that value."""

        async def is_so() -> bool:
            return await self.value(query) == value

        await eventually(is_so, what=f"Prometheus reads {value} for {query}")

    async def known(self, query: str) -> float:
        """The first value of `query`, once it finds one: it does not while the last scrape was
        late."""
        found = list[float]()

        async def is_there() -> bool:
            value = await self.value(query)
            found.extend([] if value is None else [value])
            return bool(found)

        await eventually(is_there, what=f"Prometheus finds something for {query}")
        return found[0]


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Instance]:
    tool("prometheus")
    (tmp_path / "model.py").write_text(MODEL)
    instance = Instance("model.py:Model", (), tmp_path)
    try:
        yield instance.ready()
    finally:
        instance.end()


def check_metrics(exposition: bytes) -> None:
    checked = subprocess.run(
        [tool("promtool"), "check", "metrics"], input=exposition, capture_output=True, timeout=60
    )
    assert (checked.returncode, checked.stderr) == (0, b"")


async def test_r70_prometheus_counts_what_the_clients_saw(tmp_path: Path, model: Instance) -> None:
    async with origins(1) as (origin,):
        env = {"HEADGATE_TOKEN": TOKEN}
        document = one_backend(origin)
        async with running_gateway(document, up=False, workers=2, env=env) as gateway:
            admin, instance = f"127.0.0.1:{gateway.admin_port}", f"127.0.0.1:{model.port}"
            file, predict = configuration(tmp_path, admin, instance), f"{model.url}/predict"
            async with Prometheus(file, tmp_path, gateway.client) as prometheus:
                up = f'headgate_instance_up{{backend="main",instance="{origin.address}"}}'
                await prometheus.reads(up, 1)
                await prometheus.reads(f'up{{backend="main",instance="{instance}"}}', 1)
                replies = await open_loop(gateway.url, 60, 2, get_each)
                for number in range(3):
                    assert (await gateway.client.post(predict, b"%d" % number)).ok
                sent = float(len(replies))
                total = 'sum(headgate_requests_total{route="all"})'
                await prometheus.reads(total, sent)
                await prometheus.reads("instance_batch_size_sum", 3)
                await prometheus.reads("headgate_effective_weight", 1)
                p99 = "histogram_quantile(0.99, headgate_request_seconds_bucket)"
                assert 0 < await prometheus.known(p99) < 10
                for expression in EXPRESSIONS:
                    if not re.search(RARE, expression):
                        await prometheus.known(plain(expression, "10s"))
            headers = [("Authorization", f"Bearer {TOKEN}")]
            scrape = await gateway.client.get(f"{gateway.admin_url}/metrics", headers=headers)
            check_metrics(scrape.body)
            check_metrics((await gateway.client.get(f"{model.url}/metrics")).body)


class Played:
    """A gateway's `/metrics` as it is after `times` were counted, on a port of its own."""

    def __init__(self, times: list[float]) -> None:
        counters = Counters(Book())
        cell = counters.cell("all", "main", "h:1")
        for seconds in times:
            cell.times.count(seconds, seconds, seconds / 1000)
        self._totals = Totals(counters.book.memory)
        self._totals.read()
        self.port = free_port()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/metrics", self._answer)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        live = Gauges(Table.from_document({"backends": {}, "routes": {}}, 1))
        kind, body = render(self._totals, live, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": kind})


@pytest.mark.parametrize(("flags", "within"), [((NATIVE,), 0.02), ((), 0.25)])
async def test_prometheus_reads_the_quantiles_that_are_true(
    tmp_path: Path, flags: tuple[str, ...], within: float
) -> None:
    """With native histograms to two percent, by the very expression of the dashboard."""
    chance = random.Random(1)
    times = sorted(chance.lognormvariate(-2, 1.5) for _ in range(20_000))
    async with Played(times) as played:
        file = tmp_path / "prometheus.yml"
        targets = [{"targets": [f"127.0.0.1:{played.port}"]}]
        jobs = [{"job_name": "headgate", "static_configs": targets}]
        file.write_text(
            yaml.safe_dump({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs})
        )
        client = Client()
        async with Prometheus(file, tmp_path, client, *flags) as prometheus:
            await prometheus.reads("headgate_revision", 1)
            for part in (0.5, 0.95, 0.99):
                whole = (
                    f"histogram_quantile({part}, sum by (backend) (headgate_request_seconds))"
                    f" or histogram_quantile({part},"
                    " sum by (le, backend) (headgate_request_seconds_bucket))"
                )
                found = await prometheus.known(whole)
                assert found == pytest.approx(times[int(part * len(times)) - 1], rel=within)
            count = "histogram_count" if flags else ""
            name = "headgate_request_seconds" + ("" if flags else "_count")
            await prometheus.reads(f"{count}({name})", len(times))
        await client.close()
