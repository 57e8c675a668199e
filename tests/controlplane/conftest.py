"""An admin listener in this process, on memory, with workers that only count."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient, TestServer

from gateway.controlplane.admin.app import admin_application
from gateway.controlplane.admin.calls import AdminParts
from gateway.controlplane.admin.security import Tokens
from gateway.controlplane.configuration.checks import Checks
from gateway.controlplane.configuration.reading import parse
from gateway.controlplane.configuration.settings import Settings
from gateway.controlplane.events import Events
from gateway.controlplane.publisher import Publisher
from gateway.controlplane.rollouts.controller import Rollouts
from gateway.controlplane.rollouts.keeping import InMemory
from gateway.controlplane.store.store import Store
from gateway.core.table import Table
from tests.controlplane.memory_store import MemoryStore

FILE = """
backends:
  digits-linear:
    instances: [http://127.0.0.1:8001]
  digits-cnn:
    instances: [http://127.0.0.1:8002, http://127.0.0.1:8003]
routes:
  digits:
    match: /digits
    rewrite: /predict
    split: {digits-linear: 90, digits-cnn: 10}
"""

OPERATOR = "operator-token-that-is-long-enough-0001"
VIEWER = "viewer-token-that-is-long-enough-000001"


class ScriptedWorkers:
    """Workers that take every table at once and remember which."""

    def __init__(self) -> None:
        self.tables: list[Table] = []

    async def put_in_force(self, table: Table) -> int:
        self.tables.append(table)
        return 1


class ScriptedInstances:
    """A prober that remembers which addresses it was told to watch."""

    def __init__(self) -> None:
        self.synced: list[set[str]] = []

    def sync(self, table: Table) -> None:
        self.synced.append({i.address for b in table.backends.values() for i in b.instances})


class ScriptedView:
    """A status view with nothing alive."""

    async def status(self) -> dict[str, Any]:
        return {"backends": {}, "workers": []}

    def effective(self, route: str) -> dict[str, float]:
        return {}


class Admin:
    """A started admin listener and what it was put together from."""

    def __init__(self, client: TestClient[Any, Any], parts: AdminParts, clock: list[float]) -> None:
        self.client = client
        self.parts = parts
        self.clock = clock

    @property
    def table(self) -> Table:
        return self.parts.publisher.table

    async def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """Status and JSON of one call. Not by `client.request`, which keeps every answer."""
        if body is not None:
            more["json"] = body
        url = self.client.make_url(path)
        async with self.client.session.request(method, url, **more) as response:
            return response.status, await response.json(content_type=None), response.headers


MakeAdmin = Callable[..., Awaitable[Admin]]


def make_publisher(
    store: Store, settings: Settings | None = None, events: Events | None = None
) -> Publisher:
    return Publisher(
        store,
        ScriptedWorkers(),
        ScriptedInstances(),
        events or Events(),
        check=Checks(settings),
    )


def make_rollouts(publisher: Publisher, events: Events) -> Rollouts:
    made = Rollouts(publisher, InMemory(), events)
    publisher.allow = made.allow
    return made


@pytest.fixture
async def make_admin(tmp_path: Path) -> AsyncIterator[MakeAdmin]:
    started: list[Admin] = []

    async def make(
        file: str = FILE, *, tokens: Tokens = Tokens(), store: Store | None = None
    ) -> Admin:
        settings, document = parse(file)
        events = Events()
        publisher = make_publisher(store or MemoryStore(), settings, events)
        publisher.start(document, why="test")
        parts = AdminParts(
            publisher,
            settings,
            ScriptedView(),
            events,
            tokens,
            no_metrics,
            lambda: True,
            make_rollouts(publisher, events),
        )
        clock = [0.0]
        server = TestServer(admin_application(parts, clock=lambda: clock[0]))
        # As the gateway runs it: the audit line is the publisher's.
        await server.start_server(access_log=None)
        client: TestClient[Any, Any] = TestClient(server)
        await client.start_server()
        started.append(Admin(client, parts, clock))
        return started[-1]

    yield make
    for admin in started:
        await admin.client.close()
        await admin.parts.publisher.close()


@pytest.fixture
async def admin(make_admin: MakeAdmin) -> Admin:
    return await make_admin()


async def no_metrics(accept: str) -> tuple[str, bytes]:
    return "text/plain; version=0.0.4; charset=utf-8", b"headgate_revision 1\n"
