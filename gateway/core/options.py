"""Which settings does the data plane run with?

One frozen value, made from the `configure` message. Every field has the default that a
gateway without any setting uses; nothing here reads the environment or a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

UNDERSCORES = ("drop", "refuse", "pass")


@dataclass(frozen=True, slots=True)
class DataplaneOptions:
    """Durations in seconds, sizes in bytes.

    workers            processes that share the limits per instance and per backend
    expose             responses name route, backend, instance and revision
    node               this gateway's name in `Via`, by which a loop is found (508)
    trusted_proxies    CIDRs whose X-Forwarded-*, Forwarded, X-Real-IP, X-Request-Id are believed
    head_timeout_s     from the first byte of a request to the end of its head
    body_idle_s        the longest pause inside a request body
    body_min_rate      bytes a second below which an upload counts as stalled
    keep_alive_s       a client connection without a request
    stream_idle_s      a client that takes nothing of its answer; a silent WebSocket
    upstream_idle_s    an unused pooled connection; shorter than the instance's own limit
    upstream_max_age_s a pooled connection since it was opened
    max_target         request target, beyond it 414
    max_head           request or response head, beyond it 431 or 502
    max_headers        header lines of a head, beyond it 431
    underscore_headers what happens to header names with `_`: drop, refuse or pass
    gather             a body up to this size is received whole before an instance is chosen
    replay             a body up to this size is kept for a retry
    buffer             bytes held per direction before the sender is paused
    retry_percent, retry_min_per_s  the retry budget
    mirror_in_flight   mirrored requests at once, beyond it copies are dropped
    lame_duck_s        health says 503 before new connections stop
    drain_s            what is in flight may take so long after that
    access_log         a path, "-" for standard output, or "off"
    access_log_percent, access_log_slow_s  which requests are logged: `core.sampling`
    """

    workers: int = 1
    expose: bool = True
    node: str = "headgate"
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
    underscore_headers: str = "drop"
    gather: int = 64 << 10
    replay: int = 256 << 10
    buffer: int = 256 << 10
    retry_percent: float = 10.0
    retry_min_per_s: float = 3.0
    mirror_in_flight: int = 32
    lame_duck_s: float = 5.0
    drain_s: float = 30.0
    access_log: str = "off"
    access_log_percent: float = 100.0
    access_log_slow_s: float = 1.0

    def __post_init__(self) -> None:
        if self.underscore_headers not in UNDERSCORES:
            raise ValueError(f"underscore_headers must be one of {', '.join(UNDERSCORES)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DataplaneOptions":
        """The options that `values` names, the rest by default. Keys that this version does
        not know are left alone: the control process may be the newer one for a moment."""
        known = {field.name for field in fields(cls)}
        taken = {key: value for key, value in values.items() if key in known}
        if "trusted_proxies" in taken:
            taken["trusted_proxies"] = tuple(taken["trusted_proxies"])
        return cls(**taken)
