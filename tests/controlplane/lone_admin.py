"""A control plane of its own, as a process that a test can kill: store, publisher, admin API.

`python -m tests.controlplane.lone_admin STATE_DIR` prints its port when it serves.
"""

import asyncio
import sys
from pathlib import Path

from aiohttp import web

from gateway.controlplane.admin import admin_application
from gateway.controlplane.calls import AdminParts
from gateway.controlplane.checks import cross_faults
from gateway.controlplane.configuration import parse
from gateway.controlplane.events import Events
from gateway.controlplane.listener import AdminRunner
from gateway.controlplane.publisher import Publisher
from gateway.controlplane.security import Tokens
from gateway.controlplane.sqlite_store import SqliteStore
from gateway.controlplane.state_directory import StateDirectory
from gateway.controlplane.store import StoreError
from tests.controlplane.conftest import (
    FILE,
    ScriptedInstances,
    ScriptedLive,
    ScriptedWorkers,
    no_metrics,
)


async def serve(folder: Path) -> None:
    """Serves until it is killed."""
    state = StateDirectory(folder)
    settings, document = parse(FILE)
    publisher = Publisher(
        SqliteStore(state.database, keep=settings.history),
        ScriptedWorkers(),
        ScriptedInstances(),
        events := Events(),
        check=lambda found: cross_faults(found, settings),
    )
    publisher.start(document, why="start")
    parts = AdminParts(
        publisher, settings, ScriptedLive(), events, Tokens(), no_metrics, lambda: True
    )
    runner = AdminRunner(admin_application(parts))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        asyncio.run(serve(Path(sys.argv[1])))
    except StoreError as error:
        sys.exit(str(error))
