"""How does one gateway become one of several? Loaded only with `store: etcd`."""

import asyncio
import hashlib
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gateway.controlplane.configuration.settings import EtcdSpec, FromEnvironmentSpec, Settings
from gateway.controlplane.events import Events, utc_now
from gateway.controlplane.gateways import SharedGateways
from gateway.controlplane.store.etcd.client import Access
from gateway.controlplane.store.etcd.etcd_store import EtcdStore, Kind
from gateway.controlplane.store.etcd.rollout_keys import RolloutKeys, unpacked
from gateway.controlplane.store.store import Member, StoreError
from gateway.core.faults import Conflict


class SharedRollouts:
    """Which rollouts this gateway drives (`rollouts.driving.Driver`)."""

    def __init__(self, keys: RolloutKeys, gateways: SharedGateways) -> None:
        self.keys, self._gateways = keys, gateways

    def drives(self, route: str) -> bool:
        """Whether this gateway drives the rollout of `route`."""
        return self._gateways.holds and self.keys.drives(route)

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
    """How etcd is reached, secrets included; StoreError for a variable that is not set."""

    def said(key: str) -> str:
        value = getattr(spec, key)
        if isinstance(value, FromEnvironmentSpec):
            if value.env not in environment:
                raise StoreError(f"gateway.etcd.{key}: the variable {value.env} is not set")
            return environment[value.env]
        return "" if value is None else getattr(value, "get_secret_value", lambda: str(value))()

    files = (spec.ca or "", spec.cert or "", spec.key or "")
    return Access(spec.endpoints, said("user"), said("password"), *files)


def gateway_of(
    store: EtcdStore,
    settings: Settings,
    state: Path,
    admin: str,
    events: Events,
    tell: Callable[[float, int], None],
) -> SharedGateways:
    """This gateway among those that share `store`. Its state directory, which is locked, is what
    tells it from another one that has the same name."""
    of = f"{socket.gethostname()}:{state.absolute()}"
    id = hashlib.sha256(of.encode()).hexdigest()[:16]
    own = Member(settings.node, 0, settings.workers, utc_now(), admin, id)
    return SharedGateways(store, own, events, tell)
