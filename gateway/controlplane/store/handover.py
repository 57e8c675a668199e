"""What a control process that died leaves to its successor.

Health states, resolved names, and the lease of one of several gateways: not state that is
kept (the store has that), but what was true a moment ago. It is written to the gateway's own
private directory, which lives as long as the gateway, so that a control process that was
killed is followed by one that calls nobody unwell for want of a probe. A file that cannot be
read means that nothing is remembered; writing is best effort and never fails an edit.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from gateway.controlplane.watch.resolver import Endpoints


class Memory:
    """What is remembered in `path`; set the fields, then `keep`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        found = _read(path)
        self.health: dict[str, dict[str, list[Any]]] = found.get("health") or {}
        self.endpoints: Endpoints = found.get("endpoints") or {}
        self.served: dict[str, str] = found.get("served") or {}
        self._kept = b""

    def keep(self) -> None:
        """Writes what changed, whole or not at all."""
        body = orjson.dumps(
            {"health": self.health, "endpoints": self.endpoints, "served": self.served}
        )
        if body == self._kept:
            return
        scrap = self._path.with_suffix(".new")
        try:
            scrap.write_bytes(body)
            os.replace(scrap, self._path)
        except OSError:
            return
        self._kept = body


class LeaseNote:
    """Until when (monotonic seconds) this gateway holds its lease, how many gateways there are, and
    the `revision` by which its workers decide: noted in `path`, which is remembered where it was
    noted for the same `of`."""

    def __init__(self, path: Path, of: str) -> None:
        self._path, self._of = path, of
        found = _read(path)
        self.until, self.gateways, self.revision = 0.0, 1, 0
        if found.get("of") == of:
            self.until, self.gateways = float(found["until"]), int(found["gateways"])
            self.revision = int(found.get("revision", 0))  # an older one did not note it

    def keep(self, until: float, gateways: int, revision: int) -> None:
        """Notes it, whole or not at all."""
        if (until, gateways, revision) == (self.until, self.gateways, self.revision):
            return
        self.until, self.gateways, self.revision = until, gateways, revision
        scrap = self._path.with_suffix(".new")
        with suppress(OSError):
            said = {"of": self._of, "until": until, "gateways": gateways, "revision": revision}
            scrap.write_bytes(orjson.dumps(said))
            os.replace(scrap, self._path)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = orjson.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
