"""`headgate upgrade`: has the gateway that runs here replaced by this version of the program.

The program that is asked is the one that serves afterwards: `pip install --upgrade` and then
`headgate upgrade`, or `other-venv/bin/headgate upgrade`. The gateway that runs starts it, with its
own file, environment and working directory, and serves on until it is ready.
"""

import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from gateway.cli import finding, screen
from gateway.cli.grids import Cell
from gateway.cli.refusals import Refusal
from gateway.controlplane.store.names import RUN
from gateway.processes.children import python_path, this_program
from gateway.wire.succession import NAME, Upgrade, frame, unframe

WITHIN_S = 60.0
MARGIN_S = 30.0  # for a successor that has to be ended


def upgrade(options: SimpleNamespace) -> int:
    """0 once the successor serves; Refusal says why it does not, and that nothing changed."""
    if options.file and not Path(options.file).is_file():
        raise Refusal(f"there is no file {options.file}")
    found = finding.running(options)
    if found is None:
        raise Refusal("no gateway runs here; say where its state is with --state-dir")
    if options.file and found.file and found.file.resolve() != Path(options.file).resolve():
        raise Refusal(
            f"no gateway of {options.file} runs here, but one of {found.file.name}: `headgate"
            f" apply {options.file}` changes what it serves, `headgate upgrade` the program alone"
        )
    try:
        directory = (found.place / RUN).read_text().strip()
    except FileNotFoundError:
        raise Refusal(
            "the gateway that runs is of a version that has no successors: restart it"
        ) from None
    within_s = WITHIN_S if options.timeout is None else options.timeout
    asked: Upgrade = {
        "type": "upgrade",
        "program": this_program(),
        "environment": python_path(),
        "within_s": within_s,
    }
    try:
        answer = _asked(os.path.join(directory, NAME), asked, within_s + MARGIN_S)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise Refusal(f"the gateway that runs cannot be asked: {reason}") from None
    if answer["type"] != "done":
        raise Refusal(f"not replaced, and the gateway serves on: {answer.get('why')}")
    if not screen.printed({"pid": answer["pid"], "before": answer["before"]}, options.output):
        before = f"process {answer['before']} finishes what it has"
        screen.show(Cell(f"process {answer['pid']} serves now; {before}", "good"))
    return 0


def _asked(path: str, message: Upgrade, within_s: float) -> dict[str, Any]:
    """The answer to `message` of whoever listens at `path`."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(within_s)
        connection.connect(path)
        connection.sendall(frame(message))
        data = b""
        while True:
            more = connection.recv(65536)
            if not more:
                raise OSError("it hung up; its own words are in its log")
            answer, data = unframe(data + more)
            if answer is not None:
                return answer
