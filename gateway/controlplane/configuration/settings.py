"""How is this gateway set up: the `gateway:` section of the file, overridden by environment.

Settings are read once, at start. What can be edited while the gateway runs (routes and
backends) is the table and not in here. Each field's description is its manual.
"""

import ipaddress
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator
from pydantic import WithJsonSchema as Shown

from gateway.controlplane.configuration.fields import (
    NODE,
    PREFIX,
    Bytes,
    EtcdUrl,
    Grace,
    Host,
    Listener,
    Network,
    OwnFile,
    Seconds,
    Spec,
    fault,
    only,
    optional,
    split_listener,
)
from gateway.core.credentials import VARIABLE
from gateway.core.entries import MAX_COUNT
from gateway.core.options import DataplaneOptions, Underscores

ENVIRONMENT_PREFIX = "HEADGATE_"
MIN_TOKEN_LENGTH = 32


def _field(default: Any, description: str, **more: Any) -> Any:
    return Field(default, description=description, validate_default=True, **more)


class TlsSpec(Spec):
    """Files of a certificate, in PEM. They are read again when they change."""

    cert: OwnFile = Field(description="The certificate, and those between it and its CA.")
    key: OwnFile = Field(description="Its key, not encrypted.")
    client_ca: OwnFile = optional(
        "Clients must show a certificate of this CA (mTLS), and one that no list of those revoked"
        " (CRL) in this file names."
    )

    @property
    def files(self) -> dict[str, str]:
        """What the files are for, and where each is."""
        return self.model_dump(exclude_unset=True)


@dataclass(frozen=True, slots=True)
class FromEnvironment:
    """`{env: NAME}`: what the variable NAME of the gateway says."""

    env: str

    def read(self, environment: Mapping[str, str]) -> str:
        """What it says; ValueError where that is nothing."""
        if self.env not in environment:
            raise ValueError(f"the variable {self.env} is not set")
        if not (said := environment[self.env]).strip():
            raise ValueError(f"the variable {self.env} is empty")
        return said


def _named(value: Any) -> Any:
    """The text that was written, or where it comes from."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, Mapping) and list(value) == ["env"]:
        name = value["env"]
        if isinstance(name, str) and re.fullmatch(VARIABLE, name):
            return FromEnvironment(name)
    raise fault("variable", "must be text, or {env: NAME} for what that variable says")


def _hidden(value: Any) -> Any:
    found = _named(value)
    return SecretStr(found) if isinstance(found, str) else found


_NAMED = {
    "anyOf": [{"type": "string"}, only("env", {"type": "string", "pattern": f"^{VARIABLE}$"})]
}
Named = Annotated[Any, AfterValidator(_named), Shown(_NAMED)]
HiddenNamed = Annotated[Any, AfterValidator(_hidden), Shown(_NAMED)]


class EtcdSpec(Spec):
    """Where etcd is, and how this gateway is known there."""

    endpoints: list[EtcdUrl] = Field(
        description="URLs of etcd's members; any of them will do.", min_length=1, max_length=16
    )
    prefix: str = _field(
        "/headgate",
        "What all keys of this table begin with; gateways with the same one share a table.",
        pattern=PREFIX,
    )
    lease_s: Seconds = _field(
        "5s",
        "How long a gateway that is silent is waited for; etcd makes at least 2s of it.",
        alias="lease",
        ge=1,
        le=600,
    )
    user: Named = optional("Its user, or `{env: NAME}`.")
    password: HiddenNamed = optional("The user's password, or `{env: NAME}`.")
    ca: OwnFile = optional("The CA of etcd's certificates, in PEM.")
    cert: OwnFile = optional("A certificate to show to etcd, in PEM.")
    key: OwnFile = optional("Its key, not encrypted.")

    @model_validator(mode="after")
    def _uses_its_files(self) -> "EtcdSpec":
        named = self.model_fields_set & {"ca", "cert", "key"}
        if "key" in named and "cert" not in named:
            raise fault("missing", "a key needs `cert`, the certificate whose key it is")
        if named and not any(url.startswith("https://") for url in self.endpoints):
            raise fault("missing", "a CA or certificate needs endpoints at https://")
        return self


class Settings(Spec):
    """The `gateway:` section."""

    # Listeners and processes
    listen: Listener = _field("0.0.0.0:8080", "Where clients reach the data plane.")
    admin: Listener = _field(
        "127.0.0.1:8081", "Where the admin API, the dashboard and the metrics are."
    )
    tls: TlsSpec | None = optional(
        "`{cert: FILE, key: FILE}`: clients come by https; `client_ca: FILE` makes it mTLS."
    )
    admin_tls: TlsSpec | None = optional(
        "The same for the admin listener, the dashboard and the metrics."
    )
    workers: int = _field(1, "Data-plane processes; they share the listening port.", ge=1, le=256)
    store: Literal["sqlite", "memory", "etcd"] = _field(
        "sqlite",
        "Where edits are kept; `memory` forgets them at the end, `etcd` is for several gateways.",
    )
    etcd: EtcdSpec | None = optional(
        "`{endpoints: [URL, …], prefix: /headgate}`: where, with `store: etcd`."
    )
    store_lost: Literal["serve", "refuse"] = _field(
        "serve",
        "What a gateway does that etcd no longer knows of: go on with the table it has, or refuse.",
    )
    history: int = _field(10_000, "How many revisions the history keeps.", ge=1, le=MAX_COUNT)
    history_bytes: Bytes = _field(
        "256MiB", "How much of the disk the history takes; the oldest revisions go first."
    )
    ack_timeout_s: Seconds = _field(
        "2s",
        "A worker that has not taken over a new table by then is replaced.",
        alias="ack_timeout",
    )

    # Trust
    trusted_proxies: list[Network] = _field(
        [], "Networks (CIDR) whose X-Forwarded-* and X-Request-Id are believed."
    )
    instance_networks: list[Network] = _field(
        [], "Networks instances may be in; empty: any but link-local and multicast."
    )
    expose: bool = _field(True, "Whether answers carry the X-Headgate-* headers.")
    describe: bool = _field(
        True, "Whether clients can read what they may ask for at `/-/openapi.json` and `/-/docs`."
    )

    # Admin API
    token: SecretStr | None = optional("Bearer token of operators; at least 32 characters.")
    viewer_token: SecretStr | None = optional(
        "Bearer token of viewers, who may read everything and change nothing."
    )
    admin_hosts: list[Host] = _field(
        [], "Further host names by which the admin listener may be called."
    )
    require_if_match: bool = _field(False, "Whether a write without If-Match is refused with 428.")
    max_edit: Bytes = _field("8MiB", "The largest body the admin API reads.")

    # Clients
    match_body: Bytes = _field(
        "1MiB",
        "Largest body that is read to choose a route by `match.json`; beyond it 413. At most 8MiB.",
        le=8 << 20,
    )
    match_memory: Bytes = _field(
        "64MiB",
        "Most that is held of such bodies, over all clients; beyond it the slowest is refused.",
    )
    head_timeout_s: Seconds = _field("10s", "To receive a request's head.", alias="head_timeout")
    body_idle_s: Seconds = _field(
        "30s", "Between two parts of a request's body.", alias="body_idle"
    )
    body_min_rate: int = _field(
        240, "Bytes a second below which an upload counts as stalled.", ge=0, le=1 << 30
    )
    keep_alive_s: Seconds = _field(
        "75s", "How long an idle client connection is kept.", alias="keep_alive"
    )
    stream_idle_s: Seconds = _field(
        "300s", "How long a stream or a WebSocket may be silent.", alias="stream_idle"
    )
    max_head: Bytes = _field("32KiB", "Largest request head.")
    max_target: Bytes = _field("8KiB", "Longest request target.")
    max_headers: int = _field(100, "Most header fields of a request.", ge=1, le=10_000)
    underscore_headers: Underscores = _field(
        "drop", "What happens to request headers with '_' in their name."
    )

    # Instances
    upstream_idle_s: Seconds = _field(
        "15s", "How long an idle connection to an instance is kept.", alias="upstream_idle"
    )
    upstream_max_age_s: Seconds = _field(
        "1h", "How old a connection to an instance may get.", alias="upstream_max_age"
    )
    retry_percent: float = _field(
        10.0, "The retry budget, as a share of the requests.", ge=0, le=100
    )
    retry_min_per_s: float = _field(
        3.0, "Retries a second that are always allowed.", ge=0, le=MAX_COUNT
    )
    mirror_in_flight: int = _field(
        32,
        "Mirrored requests at once, to each backend; beyond it copies are dropped.",
        ge=0,
        le=10_000,
    )
    compare_body: Bytes = _field("256KiB", "An answer up to this size is compared with a mirror's.")
    compare_memory: Bytes = _field(
        "32MiB", "What is held of answers to be compared; beyond it pairs are dropped."
    )
    gather: Bytes = _field(
        "64KiB", "A body up to this size is received whole before an instance is chosen."
    )
    replay: Bytes = _field("256KiB", "A body up to this size is kept for a retry.")
    buffer: Bytes = _field(
        "256KiB", "What is held of a body, each way, before its sender is paused."
    )

    # Stopping
    lame_duck_s: Grace = _field(
        "5s", "How long to serve on, saying `Connection: close`, after SIGTERM.", alias="lame_duck"
    )
    drain_s: Grace = _field("30s", "How long requests may take to finish then.", alias="drain")

    # Logs
    access_log: OwnFile = _field("-", "A file, `-` for standard output, or `off`.")
    access_log_percent: float = _field(
        100.0,
        "How many of 100 ordinary requests are logged; failed, refused and slow ones always are.",
        gt=0,
        le=100,
    )
    access_log_slow_s: Seconds = _field(
        "1s", "From when on a request counts as slow there.", alias="access_log_slow"
    )
    node: str = Field(
        default_factory=lambda: f"headgate-{secrets.token_hex(4)}",
        description="This gateway's name in Via, by which loops are found; random if left out.",
        pattern=NODE,
    )

    @field_validator("tls", "admin_tls", "etcd", mode="before")
    @classmethod
    def _is_said(cls, value: Any) -> Any:
        if value is None:  # whose lines are all gone
            raise fault("type", "must be a mapping")
        return value

    @field_validator("token", "viewer_token", mode="before")
    @classmethod
    def _long_enough(cls, value: Any) -> Any:
        if not isinstance(value, str):
            raise fault("token", "must be text")
        if len(value) < MIN_TOKEN_LENGTH:
            raise fault("token", f"must have at least {MIN_TOKEN_LENGTH} characters")
        if not value.isascii() or any(not 0x21 <= ord(c) <= 0x7E for c in value):
            raise fault("token", "must be printable ASCII without spaces")
        return SecretStr(value)

    @property
    def listen_address(self) -> tuple[str, int]:
        return split_listener(self.listen)

    @property
    def admin_address(self) -> tuple[str, int]:
        return split_listener(self.admin)

    @property
    def admin_is_loopback(self) -> bool:
        """Whether only this machine can reach the admin listener."""
        return is_loopback(self.admin_address[0])

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach either listener."""
        return self.admin_is_loopback and is_loopback(self.listen_address[0])

    def dataplane(self) -> dict[str, Any]:
        """What each worker is told (`configure`): seconds, bytes and plain values.

        What is a number per gateway is each worker's part of it.
        """
        names = {each.name for each in fields(DataplaneOptions)} & type(self).model_fields.keys()
        told = {name: getattr(self, name) for name in names}
        told["tls"] = self.tls.files if self.tls is not None else None
        told["retry_min_per_s"] = self.retry_min_per_s / self.workers
        told["match_memory"] = max(self.match_body, self.match_memory // self.workers)
        told["compare_memory"] = self.compare_memory // self.workers
        told["mirror_in_flight"] = -(-self.mirror_in_flight // self.workers)
        return told


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a listener at `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def keys() -> dict[str, Any]:
    """Every key of the section as written in the file, with its pydantic field."""
    return {field.alias or name: field for name, field in Settings.model_fields.items()}


def environment_overrides(environment: Mapping[str, str]) -> dict[str, str]:
    """Key → text of every HEADGATE_<KEY> that is set; other variables are not ours."""
    return {
        key: environment[ENVIRONMENT_PREFIX + key.upper()]
        for key in keys()
        if ENVIRONMENT_PREFIX + key.upper() in environment
    }


def differing(said: Settings, running: Settings, environment: Mapping[str, str]) -> list[str]:
    """The keys that a file says otherwise than they are: a gateway reads them when it starts.

    What the environment says counts at a start too, whatever the file says.
    """
    fixed = environment_overrides(environment)
    return [
        key
        for name, field in Settings.model_fields.items()
        if name in said.model_fields_set
        and (key := field.alias or name) not in fixed
        and getattr(said, name) != getattr(running, name)
    ]
