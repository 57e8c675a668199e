"""The commands about instances in a cluster: ray-env and fleet."""

import json
import os
import secrets
import subprocess
import time
from types import SimpleNamespace
from typing import Any

from gateway.cli import screen
from gateway.cli.grids import Cell, Grid
from gateway.cli.refusals import Refusal
from gateway.processes.children import this_program

RAY_ENV = """\
# For each host of the cluster, and for whoever starts `headgate up --on ray`: the same file,
# kept as a secret. set -a; . ./ray.env; set +a
# Whoever reaches a cluster runs what they like there, unless they lack the token.
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN={token}
# The head keeps what it knows on its disk: after a restart the same instances run on.
RAY_gcs_storage=rocksdb
RAY_gcs_storage_path={storage}
# For so long hosts wait for the head before they end what they run.
RAY_gcs_rpc_server_reconnect_timeout_s=3600
# A host that says nothing any more is noticed within four seconds: three times no answer comes
# within half a second, and as long lies between.
RAY_health_check_initial_delay_ms=1000
RAY_health_check_period_ms=500
RAY_health_check_timeout_ms=500
RAY_health_check_failure_threshold=3
RAY_USAGE_STATS_ENABLED=0
"""


def ray_env(options: SimpleNamespace) -> int:
    """Prints the environment file."""
    print(RAY_ENV.format(token=secrets.token_hex(32), storage=options.storage), end="")
    return 0


def fleet(options: SimpleNamespace) -> int:
    """Shows what runs in the cluster, or ends it."""
    found = _asked(options.word)
    if screen.printed(found, options.output):
        return 0
    if options.word == "down":
        screen.show(Cell(f"ended {len(found)} instance{'' if len(found) == 1 else 's'}"))
        return 0
    if not found:
        screen.show(Cell("no instance is placed in this cluster", "dim"))
    columns = ("backend", "state", "host", "address", "gpu", "restarts", "since", "fleet")
    rows = [
        (
            Cell(one["backend"], "strong"), one["state"], one["host"] or "–", one["address"] or "–",
            ",".join(map(str, one["gpus"])) or "–",
            "–" if one["restarts"] is None else str(one["restarts"]),
            _since(one["since"]), one["fleet"],
        )
        for one in found
    ]  # fmt: skip
    if rows:
        screen.show(Grid(columns, rows))
    return 0


def _asked(word: str) -> list[dict[str, Any]]:
    """What the helper that knows Ray answers."""
    ran = subprocess.run(  # noqa: S603 -- this very program
        this_program("_ray", json.dumps({"ask": word})), stdout=subprocess.PIPE, env=_quiet()
    )
    if not ran.stdout:
        raise Refusal(f"nothing was answered (exit code {ran.returncode})")
    told = json.loads(ran.stdout)
    if "refused" in told:
        raise Refusal(told["refused"])
    found: list[dict[str, Any]] = told["instances"]
    return found


def _quiet() -> dict[str, str]:
    return {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}


def _since(moment: float | None) -> str:
    if moment is None:
        return "–"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))
