"""What does a body of each operation look like? One example each, for the API's readers.

A test sends every one of them to the admin API; an example that is refused is a bug.
"""

from typing import Any, Final

EXAMPLES: Final[dict[str, Any]] = {
    "applyFile": {
        "backends": {"digits-linear": {"instances": ["http://127.0.0.1:8001"]}},
        "routes": {"digits": {"match": "/digits", "split": {"digits-linear": 1}}},
    },
    "putRoute": {
        "match": {"path": "/digits"},
        "rewrite": "/predict",
        "split": {"digits-linear": 90, "digits-cnn": 10},
    },
    "patchRoute": {"retries": {"attempts": 3}, "sticky": {"header": "X-User-Id"}},
    "putWeights": {"digits-linear": 50, "digits-cnn": 50},
    "patchWeights": {"digits-cnn": 20},
    "putRollout": {"to": "digits-cnn", "steps": [1, 5, 25, 50, 100], "hold": "2m"},
    "putBackend": {"instances": ["http://127.0.0.1:8002"], "max_in_flight": 64},
    "patchBackend": {"queue": {"size": 128, "timeout": "2s"}},
    "createKey": {
        "name": "acme",
        "routes": ["digits"],
        "limits": {"requests": "100/s", "burst": 200},
    },
    "patchKey": {"expires": "2038-01-01T00:00:00Z"},
    "addInstance": {"url": "http://127.0.0.1:8009"},
}
