"""A played gateway under load, for the dashboard: `python -m tests.dashboard.demo`.

Requests follow the effective shares; latencies wander; what a test sets stands.
"""

import math
import time
from typing import Any

from gateway.controlplane.admin.dashboard import FILES
from tests.cli.admin_player import AdminPlayer

TABLE: dict[str, Any] = {
    "routes": {
        "digits": {
            "match": {"path": "/digits"},
            "rewrite": "/predict",
            "split": {"digits-linear": 90, "digits-cnn": 10},
        },
        "sentiment": {
            "match": {"path": "/v1/sentiment", "methods": ["POST"], "hosts": ["nlp.example"]},
            "split": {"sentiment-small": 60, "sentiment-large": 30, "sentiment-next": 10},
        },
    },
    "backends": {
        "digits-linear": {"instances": ["http://127.0.0.1:8001", "http://127.0.0.1:8011"]},
        "digits-cnn": {"instances": ["http://127.0.0.1:8002"]},
        "sentiment-small": {"instances": ["http://10.0.3.11:9000", "http://10.0.3.12:9000"]},
        "sentiment-large": {"instances": ["http://10.0.3.21:9000"]},
        "sentiment-next": {"instances": ["http://10.0.3.31:9000"]},
    },
}
LOAD = {"digits": 84.0, "sentiment": 31.0}
SPEED_MS = {
    "digits-linear": 2.1,
    "digits-cnn": 5.2,
    "sentiment-small": 8.4,
    "sentiment-large": 19.0,
    "sentiment-next": 12.5,
}


class Demo(AdminPlayer):
    """An AdminPlayer whose numbers move with the time."""

    def __init__(self, *, table: dict[str, Any] | None = None, **tokens: str | None) -> None:
        super().__init__(table=table or TABLE, **tokens)
        self.answers: dict[str, dict[str, float]] = {}
        self.pages = {path: (kind, load()) for path, (kind, load) in FILES.items()}

    def status(self) -> dict[str, Any]:
        found, now = super().status(), time.time()
        rates: dict[str, float] = {}
        for name, route in found["routes"].items():
            wave = 1 + 0.12 * math.sin(now / 17 + len(name)) + 0.05 * math.sin(now / 3.1)
            load = LOAD.get(name, 5.0) * wave
            route["requests_per_s"] = load
            for backend, share in route["effective"].items():
                rates[backend] = rates.get(backend, 0) + load * share
        for index, (name, backend) in enumerate(found["backends"].items()):
            self._load(name, backend, rates.get(name, 0.0), now + 7 * index)
        return found

    def series(self, backends: list[str]) -> dict[str, Any]:
        """An hour, in which nobody asked for the first ten minutes."""
        until = [time.time() - 10 * step for step in reversed(range(360))]
        found = super().series(backends)
        calm = [0.0] * 60
        for index, name in enumerate([*backends, ""]):
            waves = [1 + 0.2 * math.sin(at / 90 + index) for at in until[60:]]
            base = SPEED_MS.get(name, 4.0)
            rates = {
                "requests_per_s": calm + [LOAD["digits"] * wave / 2 for wave in waves],
                "answers_per_s": {"2xx": calm + [40.0] * 300, "5xx": calm + [0.1] * 300},
                "latency_ms": {
                    point: [None] * 60 + [base * factor * wave for wave in waves]
                    for point, factor in (("p50", 1.0), ("p95", 2.3), ("p99", 3.4))
                },
            }
            found["backends" if name else "gateway"] = (
                {**found["backends"], name: rates} if name else rates
            )
        return {**found, "until": until}

    def _load(self, name: str, backend: dict[str, Any], rate: float, now: float) -> None:
        base = SPEED_MS.get(name, 4.0) * (1 + 0.1 * math.sin(now / 9) + 0.06 * math.sin(now / 1.7))
        busy = rate * base / 1000
        backend["requests_per_s"] = rate
        failed = max(0.0, 0.4 * math.sin(now / 23) - 0.25) if rate else 0.0
        backend["errors_per_s"] = failed
        answers = {**backend["answers_per_s"], "2xx": max(0.0, rate - failed), "5xx": failed}
        backend["answers_per_s"] = {**answers, **self.answers.get(name, {})}
        backend["latency_ms"] = (
            {"p50": base, "p95": base * 2.3, "p99": base * (3.4 + 0.6 * math.sin(now / 5))}
            if rate
            else {}
        )
        instances = backend["instances"]
        up = [one for one in instances.values() if one["health"] == "up"] or [None]
        for address, one in instances.items():
            if one["health"] != "up" or "in_flight" in self.live.get((name, address), {}):
                continue
            one["in_flight"] = round(busy / len(up) * 3 + 1 + math.sin(now))
            one["report"] = {
                "queue": max(0, round(one["in_flight"] - 4)),
                "running": min(4, one["in_flight"]),
                "slots": 4,
                "wait_ms": busy * 1.5,
            }
        backend["in_flight"] = sum(one["in_flight"] for one in instances.values())


if __name__ == "__main__":
    with Demo() as demo:
        print(demo.url, flush=True)
        while True:
            time.sleep(60)
