"""Which settings does the data plane run with?

One frozen value, made from the `configure` message. Every field has the default that a
gateway without any setting uses; nothing here reads the environment or a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from gateway.core.addresses import Listener

Underscores = Literal["drop", "refuse", "pass"]
"""What happens to header names with `_`."""


@dataclass(frozen=True, slots=True)
class DataplaneOptions:
    """Durations in seconds, sizes in bytes. What each of them means is said where it is set, in
    `gateway.controlplane.configuration.settings`; a test holds that the defaults are the same.
    `listeners` are host and port of each of the gateway's own, which no instance may have: first
    that of the data plane, then that of the admin API, which is reached by `admin_scheme`.
    """

    workers: int = 1
    tls: Mapping[str, str] | None = None
    expose: bool = True
    node: str = "headgate"
    listeners: tuple[Listener, ...] = ()
    admin_scheme: str = "http"
    trusted_proxies: tuple[str, ...] = ()
    head_timeout_s: float = 10.0
    body_idle_s: float = 30.0
    body_min_rate: int = 240
    keep_alive_s: float = 75.0
    stream_idle_s: float = 300.0
    upstream_idle_s: float = 15.0
    upstream_max_age_s: float = 3600.0
    max_target: int = 8 << 10
    max_head: int = 32 << 10
    max_headers: int = 100
    underscore_headers: Underscores = "drop"
    gather: int = 64 << 10
    replay: int = 256 << 10
    buffer: int = 256 << 10
    match_body: int = 1 << 20
    match_memory: int = 64 << 20
    retry_percent: float = 10.0
    retry_min_per_s: float = 3.0
    mirror_in_flight: int = 32
    compare_body: int = 256 << 10
    compare_memory: int = 32 << 20
    lame_duck_s: float = 5.0
    drain_s: float = 30.0
    access_log: str = "off"
    access_log_percent: float = 100.0
    access_log_slow_s: float = 1.0
    store: str = "sqlite"
    store_lost: str = "serve"

    @property
    def is_shared(self) -> bool:
        """Whether other gateways have the same table."""
        return self.store == "etcd"

    @property
    def refuses_lost(self) -> bool:
        """Whether nothing is decided by a table that may be old."""
        return self.is_shared and self.store_lost == "refuse"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DataplaneOptions":
        """The options that `values` names, the rest by default. Keys that this version does
        not know are left alone: the control process may be the newer one for a moment."""
        known = {field.name for field in fields(cls)}
        taken = {key: value for key, value in values.items() if key in known}
        if "trusted_proxies" in taken:
            taken["trusted_proxies"] = tuple(taken["trusted_proxies"])
        if "listeners" in taken:
            taken["listeners"] = tuple((host, port) for host, port in taken["listeners"])
        return cls(**taken)
