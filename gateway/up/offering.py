"""Which configuration serves a file or a module of models, where nobody wrote one?

What there is to serve only the code itself can say, so a process of its own runs it and answers.
From that a document is made which a person could have written: a backend and a route for each
model. The gateway loads none of it.
"""

import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from gateway.core.table import Document
from gateway.processes import leftovers
from gateway.processes.children import OURS, ended, python_path, this_program
from gateway.processes.lifeline import Lifeline
from gateway.processes.shadowed import shadowed
from gateway.up.plan import find_model

LISTING = "instance.model.listing"
LONG_S = 20.0
STILL_RUNS = (
    "is still being run, to see what it serves: what waits for requests belongs below `if __name__"
    ' == "__main__":` (Ctrl-C stops)'
)
PROTOCOLS = re.compile(r"(/v1|/v2)/")


class NothingToServe(Exception):
    """Why a file or a module cannot be served, in one line."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What one instance serves, empty for a file that runs its own server, and at which path."""

    name: str
    path: str


def is_model(text: str) -> bool:
    """Whether `text` names code and not a configuration: `server.py`, `server.py:Name`,
    `package.module:Name`."""
    return text.endswith(".py") or (":" in text and not os.path.exists(text))


def offers(
    model: str, cwd: Path, say: Callable[[str], None] = lambda line: None, long_s: float = LONG_S
) -> list[Offer]:
    """What `model` has to serve; NothingToServe says why that is nothing. `say` gets a line where
    that takes longer than `long_s`: the code may be one that never comes to an end."""
    where = model.partition(":")[0]
    if where.endswith(".py") and not os.path.isfile(cwd / where):
        raise NothingToServe(f"no file {where} can be read")
    named, folder = find_model(model, cwd / "headgate.yaml", cwd)
    try:
        looked = _look(named, folder, lambda: say(f"{where} {STILL_RUNS}"), long_s)
    except OSError as error:  # no process is to be had, or no file
        said = (error.strerror or str(error)).lower()
        raise NothingToServe(f"{where} could not be looked at: {said}") from None
    if looked.answer is None:
        reason = f"the process that runs it {ended(looked.code)}"
        if words := looked.printed.split("\n")[-1].strip():
            reason += f"; it printed last: {words}"
        if hidden := shadowed(folder):
            reason += f"; {hidden}"
        raise NothingToServe(f"{where} could not be looked at: {reason}")
    if looked.answer["failed"]:
        raise NothingToServe(str(looked.answer["failed"]))
    return [Offer(offer["name"], offer["path"]) for offer in looked.answer["offers"]]


@dataclass(frozen=True, slots=True)
class _Looked:
    """How the process ended that ran the code, and what it printed; its answer, or None where it
    did not come to one."""

    answer: Mapping[str, Any] | None
    code: int
    printed: str


def _look(model: str, folder: Path, is_long: Callable[[], None], long_s: float) -> _Looked:
    """Has a process of its own run `model`, with `folder` on its path, and waits for its end."""
    lifeline, mark = Lifeline(), secrets.token_hex(8)
    outer = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    try:
        # Files, which end where its process does: a pipe is open for as long as what it started.
        with _scratch() as answer, _scratch() as output:
            question = json.dumps({"model": model, "answer": answer.fileno()})
            process = subprocess.Popen(  # noqa: S603 -- what the user named, and the way to run it
                this_program("_tied", sys.executable, "-P", "-m", LISTING, question),
                pass_fds=(answer.fileno(), lifeline.fd),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={
                    **outer,
                    **lifeline.environment,
                    **python_path(str(folder)),
                    leftovers.MARK: mark,
                },
            )
            try:
                process.wait(long_s)
            except subprocess.TimeoutExpired:
                is_long()
                process.wait()
            return _Looked(_read(answer), process.returncode, _whole(output).strip())
    finally:
        lifeline.close()
        leftovers.end(mark)


def _read(answer: IO[bytes]) -> Mapping[str, Any] | None:
    try:
        found: Mapping[str, Any] = json.loads(_whole(answer))
    except ValueError:  # it ended before it had written it, or amid that
        return None
    return found


def _scratch() -> IO[bytes]:
    """A file without a name; in memory, where there is such a thing."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("headgate-offers"), "w+b")
    return TemporaryFile()


def _whole(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def document(
    model: str, offered: Sequence[Offer], serve: Mapping[str, Any], gateway: Mapping[str, Any]
) -> Document:
    """The configuration that serves `offered` of `model`: `serve` holds what was asked of every
    instance, `gateway` the settings. A route is at its model's own path, or below the model's name
    where two would meet."""
    where = model.partition(":")[0]
    backends: dict[str, Any] = {}
    routes: dict[str, Any] = {}
    if [offer for offer in offered if not offer.name]:  # the file's own server, one instance
        name = called(Path(where).stem)
        backends[name] = {"serve": {"model": where, **serve}}
        for number, offer in enumerate(offered):
            route = name if len(offered) == 1 else f"{name}-{number + 1}"
            routes[route] = {"match": offer.path, "rewrite": offer.path, "split": {name: 1}}
        return _configuration(gateway, backends, routes)
    paths = [_base(offer.path) for offer in offered]
    for offer, path in zip(offered, paths, strict=True):
        name = called(offer.name)
        if name in backends:  # `Square` and `square`
            name = f"{name}-{len(backends) + 1}"
        backends[name] = {"serve": {"model": f"{where}:{offer.name}", **serve}}
        meets = sum(_meet(path, other) for other in paths) > 1
        is_protocol = PROTOCOLS.match(offer.path) is not None
        match = f"/{name}{path if is_protocol else ''}" if meets else path
        # The clients of a protocol ask for several paths below its version.
        rewrite = {"rewrite": path} if is_protocol else {}
        routes[name] = {"match": match, **rewrite, "split": {name: 1}}
    return _configuration(gateway, backends, routes)


def called(name: str) -> str:
    """The name of a backend for the class or function `name`: `DigitsCnn` is `digits-cnn`."""
    words = re.sub(r"([a-z0-9])([A-Z])|([A-Z])([A-Z][a-z])", r"\1\3-\2\4", name)
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") or "model"


def _base(path: str) -> str:
    """What of `path` a route stands at: all of it, but for protocols their version."""
    found = PROTOCOLS.match(path)
    return found[1] if found else path


def _meet(path: str, other: str) -> bool:
    """Whether a client on one of them could mean the other."""
    return path == other or path.startswith(f"{other}/") or other.startswith(f"{path}/")


def _configuration(gateway: Mapping[str, Any], backends: Any, routes: Any) -> Document:
    settings = {"gateway": dict(gateway)} if gateway else {}
    return {**settings, "backends": backends, "routes": routes}
