"""The process in which a server's callbacks learn of its start, requests, answers and end.

Started by the HTTP process as `python -m instance.model.notification`. The file of the model is
run here as in its workers, so the callbacks find the server that it built; nothing is set up.
"""

import json
import logging
import os
import socket
import sys
from typing import Any

from instance.model.loader import load
from instance.model.making import LoadError
from instance.model.observers import listed
from instance.model.server_file import FileError, run_file
from instance.settings import is_server_file
from instance.telemetry.logs import configure_logging
from instance.wire import lifeline
from instance.wire.links import BlockingLink
from instance.wire.messages import FromNotifier, StartOptions, ToNotifier

log = logging.getLogger("instance.model")


def main() -> None:
    """Calls the callbacks for what the HTTP process tells, until it says stop or is gone."""
    options: StartOptions = json.loads(sys.argv[1])
    lifeline.hang_on(options["lifeline"])
    outlet = configure_logging()
    for file in (*options["arenas"], options["marks"]):
        if file is not None:
            os.close(file)
    link: BlockingLink[FromNotifier, ToNotifier] = BlockingLink(
        socket.socket(fileno=options["socket"])
    )
    try:
        callbacks, server = prepare(options)
    except (FileError, LoadError) as error:
        link.send(("failed", str(error)))
        outlet.flush()
        sys.exit(1)
    link.send(("ready",))
    while (frame := link.receive()) is not None:
        message = frame[0]
        if message[0] == "stop":
            break
        _, event, facts = message
        tell(callbacks, event, litserver=server, **facts)
        link.send(("seen",))
    tell(callbacks, "on_server_end", litserver=server)
    outlet.flush()
    lifeline.end_group()


def prepare(options: StartOptions) -> tuple[list[Any], Any]:
    """(the callbacks, the server that they are of: None for a class that is served by its name).
    They have been told that it starts: by the server itself, where there is one."""
    model = options["model"]
    if is_server_file(model):
        server = run_file(model, options["arguments"], starts=True).server
        return list(server._callback_runner._callbacks), server
    callbacks = listed(getattr(load(model, args=options["args"]), "callbacks", None))
    tell(callbacks, "on_server_start", litserver=None)
    return callbacks, None


def tell(callbacks: list[Any], event: str, **facts: Any) -> None:
    """Calls `event` of all that have it; what one raises goes to the log and no further."""
    for one in callbacks:
        method = getattr(one, event, None)
        if callable(method):
            try:
                method(**facts)
            except BaseException:  # also a sys.exit() in it: the others go on
                log.exception("%s of %s raised", event, type(one).__name__)


if __name__ == "__main__":
    main()
