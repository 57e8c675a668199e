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
from gateway.controlplane.rollouts.commands import Commands
from gateway.controlplane.store.store import Store
from gateway.controlplane.watch.fleet_view import FleetView
from gateway.core.table import Table
from tests.controlplane.memory_store import MemoryStore
from tests.controlplane.scripted import (
    FILE,
    ScriptedInstances,
    ScriptedView,
    ScriptedWorkers,
    make_rollouts,
    no_metrics,
)
from tests.harness import promised

OPERATOR = "operator-token-that-is-long-enough-0001"
VIEWER = "viewer-token-that-is-long-enough-000001"


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
        """Status and JSON of one call, as the OpenAPI document promises them. Not by
        `client.request`, which keeps every answer."""
        if body is not None:
            more["json"] = body
        url = self.client.make_url(path)
        async with self.client.session.request(method, url, **more) as response:
            told = await response.json(content_type=None)
        promised.check(method, path, response.status, response.content_type, told)
        return response.status, told, response.headers


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


@pytest.fixture
async def make_admin(tmp_path: Path) -> AsyncIterator[MakeAdmin]:
    started: list[Admin] = []

    async def make(
        file: str = FILE,
        *,
        tokens: Tokens = Tokens(),
        store: Store | None = None,
        fleet: Callable[[Events], FleetView] | None = None,
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
            rollouts := make_rollouts(publisher, events),
            Commands(rollouts, publisher),
            fleet=None if fleet is None else fleet(events),
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
