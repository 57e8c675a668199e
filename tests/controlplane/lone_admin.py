"""A control plane of its own, as a process that a test can kill: store, publisher, admin API.

`python -m tests.controlplane.lone_admin STATE_DIR` prints its port when it serves.
"""

import asyncio
import socket
import sys
from pathlib import Path

from gateway.controlplane.admin.app import admin_application
from gateway.controlplane.admin.calls import AdminParts
from gateway.controlplane.admin.listener import AdminListener
from gateway.controlplane.admin.security import Tokens
from gateway.controlplane.configuration.checks import Checks
from gateway.controlplane.configuration.reading import parse
from gateway.controlplane.events import Events
from gateway.controlplane.publisher import Publisher
from gateway.controlplane.rollouts.commands import Commands
from gateway.controlplane.rollouts.keeping import NAME, RolloutFile
from gateway.controlplane.store.sqlite_store import SqliteStore
from gateway.controlplane.store.state_directory import StateDirectory
from gateway.controlplane.store.store import StoreError
from tests.controlplane.scripted import (
    FILE,
    ScriptedInstances,
    ScriptedView,
    ScriptedWorkers,
    make_rollouts,
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
        check=Checks(settings),
    )
    publisher.start(document, why="start")
    rollouts = make_rollouts(publisher, events, RolloutFile(folder / NAME))
    parts = AdminParts(
        publisher,
        settings,
        ScriptedView(),
        events,
        Tokens(),
        no_metrics,
        lambda: True,
        rollouts,
        Commands(rollouts, publisher),
    )
    bound = socket.create_server(("127.0.0.1", 0))
    await AdminListener(admin_application(parts), bound).start()
    print(bound.getsockname()[1], flush=True)
    await rollouts.run()


if __name__ == "__main__":
    try:
        asyncio.run(serve(Path(sys.argv[1])))
    except StoreError as error:
        sys.exit(str(error))
