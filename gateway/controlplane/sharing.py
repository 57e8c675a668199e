"""How does one gateway become one of several? Loaded only with `store: etcd`."""

import asyncio
import hashlib
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gateway.controlplane.configuration.settings import EtcdSpec, FromEnvironment, Settings
from gateway.controlplane.events import Events, utc_now
from gateway.controlplane.gateways import SharedGateways
from gateway.controlplane.published import NotInForce, start_notes
from gateway.controlplane.publisher import Publisher
from gateway.controlplane.rollouts.controller import Rollouts
from gateway.controlplane.store.etcd.client import Access
from gateway.controlplane.store.etcd.etcd_store import EtcdStore, Kind
from gateway.controlplane.store.etcd.rollout_keys import RolloutKeys, unpacked
from gateway.controlplane.store.handover import LeaseNote
from gateway.controlplane.store.store import Member, StoreError, Unavailable
from gateway.core.faults import Conflict, Invalid
from gateway.processes.console import say
from gateway.processes.tasks import Tasks


class Participant:
    """What this gateway does as one of `gateways`, beside taking part in edits. Its tasks are those
    of `own`, where a failure ends the control process, and of `aside`, where it is told. `name` is
    what the file of the start is called."""

    def __init__(
        self,
        gateways: SharedGateways,
        driver: "SharedRollouts",
        publisher: Publisher,
        rollouts: Rollouts,
        own: Tasks,
        aside: Tasks,
        name: str,
    ) -> None:
        self._gateways, self._publisher, self._rollouts = gateways, publisher, rollouts
        self._own, self._aside, self._name = own, aside, name
        self._going_on: asyncio.Task[None] | None = None

        async def follow(kept: Mapping[str, bytes]) -> None:
            await rollouts.follow(driver.read(kept))

        gateways.on_rollouts = lambda kept: aside.run("rollouts of other gateways", follow(kept))

    async def join(self) -> None:
        """Is one of the gateways, as soon as all workers decide by what others decide by, and
        follows the others until cancelled."""
        await self._gateways.begin(self._publisher.table.revision)
        await self._gateways.seen()  # of a copy that may be old nobody else is told
        await self._publisher.follow(self._gateways.heard)

    def beat(self) -> None:
        """While the lease is held: applies what waits for that, and goes on with rollouts that
        nobody drives any more."""
        if not self._gateways.holds:
            return
        if self._publisher.late is not None:
            self._own.run("applying the file", self._apply_late())
        if self._rollouts.canaries() and (self._going_on is None or self._going_on.done()):
            going_on = self._rollouts.go_on(self._gateways.driven_elsewhere)
            self._going_on = self._aside.run("going on with rollouts", going_on)

    async def _apply_late(self) -> None:
        """What the file of the start could not change while the store was away."""
        file, self._publisher.late = self._publisher.late, None
        if file is None:
            return
        try:
            why = f"start with {self._name}"
            applied = await self._publisher.apply(file, who="file", why=why)
        except Unavailable:
            self._publisher.late = file  # the store went again: as soon as it is back
            return
        except NotInForce as error:
            say(f"{self._name}: {error}")
            return
        except (Conflict, Invalid, StoreError) as error:
            say(f"{self._name}: not applied: {error}")
            return
        for line in start_notes(applied):
            say(line)


class SharedRollouts:
    """Which rollouts this gateway drives (`rollouts.keeping.Driver`)."""

    def __init__(self, keys: RolloutKeys, gateways: SharedGateways) -> None:
        self.keys, self._gateways = keys, gateways

    def drives(self, route: str) -> bool:
        """Whether this gateway drives the rollout of `route`."""
        return self._gateways.holds and self.keys.drives(route)

    def driver_of(self, route: str) -> str:
        """The gateway that drives it, by name; "" where none does."""
        own = self._gateways.name if self.drives(route) else ""
        return own or self._gateways.driver_elsewhere(route)

    def read(self, kept: Mapping[str, bytes]) -> dict[str, Any]:
        """What is kept of each rollout."""
        return unpacked(kept)

    async def claim(self, route: str) -> None:
        """Has this gateway drive it; Conflict names the one that does and can be asked."""
        holder = await asyncio.to_thread(self.keys.claim, route)
        if holder:
            raise Conflict(
                f"the rollout on route {route!r} is driven by gateway {holder}: ask its admin API,"
                f" {self._gateways.admin_of(holder)}"
            )


def rollouts_of(store: Any, node: str, gateways: SharedGateways) -> SharedRollouts:
    """What of rollouts the gateway `node` drives, and where they are kept: in `store`."""
    return SharedRollouts(store.rollouts(node), gateways)


def shared_store(settings: Settings, state: Path) -> EtcdStore:
    """The store that `settings` name, with a copy in the folder `state`; StoreError for what is not
    there: a file, or a variable of the environment."""
    spec = settings.etcd
    assert spec is not None
    kind = Kind(spec.prefix, settings.history, settings.history_bytes, spec.lease_s)
    return EtcdStore(access(spec, os.environ), kind, state)


def access(spec: EtcdSpec, environment: Mapping[str, str]) -> Access:
    """How etcd is reached, secrets included; StoreError for a variable that says nothing."""

    def said(key: str) -> str:
        value = getattr(spec, key)
        if isinstance(value, FromEnvironment):
            try:
                return value.read(environment)
            except ValueError as error:
                raise StoreError(f"gateway.etcd.{key}: {error}") from None
        return "" if value is None else getattr(value, "get_secret_value", lambda: str(value))()

    files = (spec.ca or "", spec.cert or "", spec.key or "")
    return Access(spec.endpoints, said("user"), said("password"), *files)


def gateway_of(
    store: EtcdStore,
    settings: Settings,
    state: Path,
    noted: Path,
    admin: str,
    events: Events,
    tell: Callable[[float, int], None],
) -> SharedGateways:
    """The part of this gateway among those that share `store`. Its state directory, which is
    locked, is what tells it from another one that has the same name, or, where that could not be
    made, its private one, in which the file `noted` is. What `tell` is told is `noted` for the next
    control process."""
    assert settings.etcd is not None
    note = LeaseNote(noted, f"{settings.node} {settings.etcd.prefix} {settings.etcd.endpoints}")

    def told(until: float, gateways: int, revision: int) -> None:
        tell(until, gateways)
        note.keep(until, gateways, revision)

    own_place = state if state.is_dir() else noted.parent
    of = f"{socket.gethostname()}:{own_place.absolute()}"
    id = hashlib.sha256(of.encode()).hexdigest()[:16]
    own = Member(settings.node, 0, settings.workers, utc_now(), admin, id)
    before = note.until, note.gateways, note.revision
    return SharedGateways(store, own, events, told, before=before)
