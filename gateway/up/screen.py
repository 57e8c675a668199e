"""What does a person see of `headgate up` on a terminal?

One quiet screen: models as they load, the addresses once all are ready, then a line for each
event that matters and now and then one for the traffic. What would scroll by is in files beside
the state: the access log, and what the instances write. Elsewhere than on a terminal nothing of
this is used.
"""

import os
import sys
from collections.abc import Sequence
from datetime import datetime

import orjson
from rich.console import Console

from gateway.app import ROUTES_SHOWN, Prepared
from gateway.processes.console import FOR_PEOPLE, can_draw, write
from gateway.processes.outlet import Outlet
from gateway.up.progress import Moving
from gateway.wire.line import Ready

ACCESS_LOG = "HEADGATE_ACCESS_LOG"
INSTANCES = "instances.log"


def is_wanted() -> bool:
    """Whether somebody looks: both streams lead to a terminal."""
    return sys.stdout.isatty() and sys.stderr.isatty()


class Screen(Moving):
    """The screen of one `headgate up`; as a Progress it shows how the models come up."""

    def __init__(self, prepared: Prepared) -> None:
        super().__init__(Console(stderr=True, force_terminal=can_draw(sys.stderr)))
        self._prepared = prepared
        self._is_loading, self._is_stopping = True, False
        self._instances = Outlet(None, path=str(prepared.state.path / INSTANCES))
        if prepared.settings.access_log == "-" and not prepared.is_log_chosen:
            os.environ[ACCESS_LOG] = str((prepared.state.path / "access.log").absolute())
        self._access_log = os.environ.get(ACCESS_LOG) or prepared.settings.access_log

    def relay(self, line: str) -> None:
        """What an instance wrote: into its file, and on the screen while all are ready."""
        self._instances.put(f"{line}\n".encode())
        if not self._is_loading and not self._is_stopping and (shown := for_people(line)):
            write(sys.stderr, shown)

    def close(self) -> None:
        """All models are ready, or none will be: the moving lines stand still."""
        if self._is_loading:
            super().close()
            self._is_loading = False
            if self._progress.finished:
                os.environ[FOR_PEOPLE] = "1"  # what the gateway's own processes write as well

    def announce(self, facts: Ready) -> None:
        """The addresses of everything, and how to stop it."""
        prepared = self._prepared
        lines = ["", *facts["notes"], "Ready. Ctrl-C stops everything.", ""]
        lines.append(f"  gateway     {prepared.data_url}")
        lines += [f"              {each}" for each in _routes(facts["routes"])]
        lines.append(f"  docs        {prepared.data_url}/-/docs")
        lines.append(f"  dashboard   {prepared.admin_url}")
        if facts["token"]:
            lines.append(f"  token       {facts['token']}  (`headgate token` finds it again)")
        if self._access_log not in ("-", "off"):
            lines.append(f"  access log  {_shown(self._access_log)}")
        lines.append(f"  model logs  {_shown(str(prepared.state.path / INSTANCES))}")
        write(sys.stdout, "\n".join([*lines, ""]))

    def stopping(self) -> None:
        """Somebody wants it to stop: models answer what they have first."""
        self._is_stopping = True
        write(sys.stderr, "\nstopping… (Ctrl-C again ends it at once)")

    def end(self) -> None:
        """Nothing runs any more."""
        self._instances.close()
        if self._is_stopping:
            write(sys.stderr, "stopped")


def for_people(line: str) -> str | None:
    """What a person gets to see of a line of an instance: what its model printed as it is, of its
    log what is wrong, with the traceback; None for the rest."""
    if not line.startswith("{"):
        return line
    try:
        record = orjson.loads(line)
        when = datetime.fromisoformat(record.pop("time")).astimezone().strftime("%H:%M:%S")
        level, who, event = record.pop("level"), record.pop("instance", ""), record.pop("event")
    except (ValueError, KeyError, TypeError, AttributeError):
        return line  # a model's own JSON
    if level in ("debug", "info"):
        return None
    error = record.pop("error", "")
    record.pop("logger", None)
    facts = ", ".join(f"{name} {value}" for name, value in record.items())
    shown = f"{when} {who}: {event}{f' ({facts})' if facts else ''}"
    return f"{shown}\n{error.rstrip()}" if error else shown


def _routes(routes: Sequence[tuple[str, str]]) -> list[str]:
    shown = [f"{path} → {split}" for path, split in routes[:ROUTES_SHOWN]]
    if len(routes) > ROUTES_SHOWN:
        shown.append(f"and {len(routes) - ROUTES_SHOWN} more routes")
    return shown


def _shown(path: str) -> str:
    """`path` from where one works, where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(path) and not relative.startswith("..") else path
