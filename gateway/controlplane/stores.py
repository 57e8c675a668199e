"""What does a gateway keep, and where?

The table, rollouts and the use of keys: in its state directory, or in etcd, which is loaded only
where several gateways share a table.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.controlplane.configuration.settings import Settings
from gateway.controlplane.events import Events
from gateway.controlplane.rollouts.keeping import NAME as ROLLOUTS
from gateway.controlplane.rollouts.keeping import Keeper, RolloutFile
from gateway.controlplane.store.former import Former, in_etcd, in_sqlite
from gateway.controlplane.store.names import COPY, LEASE
from gateway.controlplane.store.sqlite_store import SqliteStore
from gateway.controlplane.store.state_directory import StateDirectory
from gateway.controlplane.store.store import Store, StoreError
from gateway.controlplane.watch.key_use import NAME as KEY_USE
from gateway.controlplane.watch.key_use import KeyUse, UseFile
from gateway.core.rollout import LIVE

if TYPE_CHECKING:
    from gateway.controlplane.gateways import SharedGateways
    from gateway.controlplane.sharing import SharedRollouts


class Stores:
    """`store` keeps the table, `keeper` rollouts, `key_use` when keys were used.

    Where the store is shared, `gateways` is this gateway among those that share it, whose admin API
    is at the URL `admin`, and `driver` knows which rollouts it drives. `tell_lease` passes on to
    workers until when they may count on its lease. `again`: there was a control process before.
    """

    def __init__(
        self,
        settings: Settings,
        state: StateDirectory,
        directory: Path,
        *,
        again: bool,
        admin: str,
        events: Events,
        tell_lease: Callable[[float, int], None],
    ) -> None:
        # `memory` means until the gateway ends, not until its control process is killed.
        in_memory = settings.store == "memory"
        folder = directory if in_memory else state.path
        self.store: Store
        self.keeper: Keeper
        self.gateways: SharedGateways | None = None
        self.driver: SharedRollouts | None = None
        if settings.store == "etcd":
            from gateway.controlplane.sharing import gateway_of, rollouts_of, shared_store

            self.store = store = shared_store(settings, state.path)
            note = directory / LEASE
            self.gateways = gateway_of(store, settings, state.path, note, admin, events, tell_lease)
            self.driver = rollouts_of(store, settings.node, self.gateways)
            self.keeper = self.driver.keys
        else:
            path = folder / "state.db" if in_memory else state.database
            self.store = own = own_store(settings, path, again)
            came_back = settings.store == "sqlite" and (state.path / COPY).exists()
            self.keeper = RolloutFile(folder / ROLLOUTS, history=came_back, edits=own)
        self.key_use = KeyUse(UseFile(folder / KEY_USE))
        self._kind, self._state = settings.store, state

    def former(self) -> Former | None:
        """The table that this gateway had before, in another store or in etcd, should that have
        nothing now; None where there was none."""
        copy = self._state.path / COPY
        if self._kind == "memory":
            return None
        if copy.exists():
            return in_etcd(copy, is_left=self._kind == "sqlite")
        if self._kind == "sqlite":
            return None
        kept = RolloutFile(self._state.path / ROLLOUTS).load()
        live = [route for route, each in kept.items() if each["state"] in LIVE or each["move"]]
        return in_sqlite(self._state.database, live)

    def begun(self) -> None:
        """Forgets the table of another store, once there is one in this store."""
        copy = self._state.path / COPY
        if self._kind == "sqlite" and copy.exists():
            with suppress(OSError):
                (self._state.path / ROLLOUTS).unlink(missing_ok=True)  # older than that copy
                copy.unlink(missing_ok=True)


def own_store(settings: Settings, path: Path, again: bool) -> SqliteStore:
    """The store in the file at `path`; StoreError where it is gone since it was used."""
    if again and not path.exists():
        raise StoreError(f"{path} is gone; the workers serve on with the table they have")
    return SqliteStore(path, keep=settings.history, keep_bytes=settings.history_bytes)
