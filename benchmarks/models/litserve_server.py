"""LitServe: the classes written for Headgate, on LitServe's base class.

`python -m benchmarks.models.litserve_server MODULE:NAME PORT WINDOW_S`
"""

import importlib
import sys
from typing import Any

import litserve

MODULE, _, NAME = sys.argv[1].partition(":")
Ours: Any = getattr(importlib.import_module(MODULE), NAME)


class Served(Ours, litserve.LitAPI):  # at module level: its workers are spawned and import it
    """The same hooks."""


def main() -> None:
    options: dict[str, Any] = {"max_batch_size": 32, "batch_timeout": float(sys.argv[3])}
    if getattr(Ours, "stream", False):
        options = {"stream": True}
    server = litserve.LitServer(Served(**options), accelerator="cpu", workers_per_device=1)
    port = int(sys.argv[2])
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="error")


if __name__ == "__main__":
    main()
