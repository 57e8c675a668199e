"""Which instance processes does `headgate up` run, and how far are they what the table asks for?

It is told by whoever starts them and knows nothing by itself; a control process that takes over is
told everything first. What changed becomes events.
"""

import logging
from typing import Any

from gateway.controlplane.events import Events
from gateway.core.table import Table
from gateway.wire.line import Fleet, InstanceProcess, Serves

log = logging.getLogger(__name__)


class FleetView:
    """What was last told; `events` hear what is new."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._told: Fleet | None = None

    def status(self) -> dict[str, Any]:
        """`{"fleet": {revision, backends}}`; the revision is that of the table they are held to."""
        told = self._told
        if told is None:
            return {"fleet": {"revision": 0, "backends": {}}}
        return {"fleet": {"revision": told["revision"], "backends": dict(told["backends"])}}

    def take(self, told: Fleet) -> None:
        """Takes in all that there is now."""
        before, self._told = self._told, told
        if before is None:
            return  # what was before us is no news
        old, new = _processes(before), _processes(told)
        for key in old.keys() - new.keys():
            self._say(key, "stopped", old[key])
        for key, process in new.items():
            if key not in old or old[key]["state"] != process["state"]:
                self._say(key, process["state"], process)

    def _say(self, key: tuple[str, str, bool], state: str, process: InstanceProcess) -> None:
        backend, address = key[:2]
        level = logging.ERROR if state == "failed" else logging.INFO
        detail = process["error"] if state == "failed" else None
        log.log(level, f"instance {address} of {backend}: {state}{f': {detail}' if detail else ''}")
        event = {"type": "process", "backend": backend, "instance": address, "state": state}
        self._events.publish({**event, "pid": process["pid"], "detail": detail})


def serves(table: Table) -> Serves:
    """What `table` asks for, for whoever starts it."""
    document = table.document.get("backends") or {}
    served = {name: document[name] for name, each in table.backends.items() if each.serve}
    return {"type": "serves", "revision": table.revision, "backends": served}


def _processes(told: Fleet) -> dict[tuple[str, str, bool], InstanceProcess]:
    # At one address a process may be and another one have failed.
    return {
        (name, each["address"], each["state"] == "failed"): each
        for name, backend in told["backends"].items()
        for each in backend["processes"]
    }
