"""What a control plane needs around it, as scripts: workers, instances, what is live.

Apart from the fixtures, for processes that need no pytest.
"""

from typing import Any

from gateway.controlplane.events import Events
from gateway.controlplane.publisher import Publisher
from gateway.controlplane.rollouts.controller import Rollouts
from gateway.controlplane.rollouts.keeping import Keeper
from gateway.core.table import Table
from tests.controlplane.memory_store import InMemory

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

    async def met(self, previous: Table, table: Table) -> None:
        """Nobody is asked."""


class ScriptedView:
    """A status view with nothing alive."""

    async def status(self) -> dict[str, Any]:
        return {"backends": {}, "workers": []}

    def effective(self, route: str) -> dict[str, float]:
        return {}


async def no_metrics(accept: str) -> tuple[str, bytes]:
    return "text/plain; version=0.0.4; charset=utf-8", b"headgate_revision 1\n"


def make_rollouts(publisher: Publisher, events: Events, keeper: Keeper | None = None) -> Rollouts:
    made = Rollouts(publisher, keeper or InMemory(), events)
    publisher.allow = made.allow
    return made
