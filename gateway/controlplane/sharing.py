"""How does one gateway become one of several? Loaded only with `store: etcd`."""

import hashlib
import os
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from gateway.controlplane.configuration.settings import EtcdSpec, FromEnvironmentSpec, Settings
from gateway.controlplane.events import Events, utc_now
from gateway.controlplane.gateways import SharedGateways
from gateway.controlplane.store.etcd.client import Access
from gateway.controlplane.store.etcd.etcd_store import EtcdStore, Kind
from gateway.controlplane.store.store import Member, StoreError


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
