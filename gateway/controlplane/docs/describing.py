"""The process that merges the instances' OpenAPI documents, and how it is asked.

The documents come from models and may be anything: this process has little memory, little time,
a low priority and nothing to reach but its standard input and output. `describe` is the control
process's end, `main` the other one.
"""

import asyncio
import os
import resource
import sys
from asyncio import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import orjson

from gateway.controlplane.docs.openapi_merge import merge
from gateway.core.table import Table
from gateway.processes.children import python_path
from gateway.processes.lifeline import Lifeline, tie

PROCESSOR_S = 15
WITHIN_S = 120.0
"""Of the clock: on a busy machine the low priority leaves an eighth of a processor, and less."""
MEMORY = 1 << 30  # bytes of address space
MAX_BYTES = 16 << 20
"""The largest outcome that is served: every worker holds it."""

PROGRAM = (sys.executable, "-P", "-m", __name__)


class CannotDescribe(Exception):
    """Why no document could be made of what was given."""


def asked(table: Table, documents: Mapping[str, bytes]) -> bytes:
    """What is to be described: the routes as far as clients see them, and the documents."""
    routes = {}
    for name, route in table.routes.items():
        match = table.document["routes"][name]["match"]
        seen = (
            {"match": match}
            if route.rewrite is None
            else {"match": match, "rewrite": route.rewrite}
        )
        routes[name] = {**seen, "split": dict.fromkeys(route.weights, 1)}
    backends: dict[str, Any] = {name: {} for name in table.document.get("backends") or {}}
    texts = {name: text.decode("utf-8", "replace") for name, text in documents.items()}
    return orjson.dumps({"backends": backends, "routes": routes, "documents": texts})


def undescribed(table: Table) -> str:
    """The document of routes of which no instance says anything, as JSON."""
    return orjson.dumps(merge(table, {})).decode()


async def describe(
    question: bytes, *, within_s: float = WITHIN_S, program: Sequence[str] = PROGRAM
) -> str:
    """The document that `question`, made by `asked`, asks for, as JSON.

    Raises CannotDescribe when it takes too long, too much memory, or comes to nothing; OSError when
    it cannot be begun, which says nothing of what it is made of.
    """
    lifeline = Lifeline()
    try:
        child = await subprocess.create_subprocess_exec(
            *program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(lifeline.fd,),
            env={**os.environ, **python_path(), **lifeline.environment},
        )
    except OSError:
        lifeline.close()
        raise
    try:
        async with asyncio.timeout(within_s):
            answer, _ = await child.communicate(question)
    except TimeoutError:
        raise CannotDescribe(f"it takes longer than {within_s:g} s") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
        lifeline.close()
    if child.returncode or not answer:
        raise CannotDescribe("it takes too much memory, or breaks what makes it")
    if len(answer) > MAX_BYTES:
        raise CannotDescribe(f"it is larger than {MAX_BYTES >> 20} MiB")
    return answer.decode()


def main() -> int:
    """Answers the one question on standard input."""
    tie()
    _hold_back()
    question = orjson.loads(sys.stdin.buffer.read())
    documents = {name: _read(text) for name, text in question.pop("documents").items()}
    merged = merge(Table.from_document(question, 0), documents)
    # Not what `sys` has: under PYTHONUNBUFFERED that writes once, and no more than fits when the
    # process is stopped meanwhile.
    with open(sys.stdout.fileno(), "wb", closefd=False) as out:
        out.write(orjson.dumps(merged))
    return 0


def _hold_back() -> None:
    with suppress(OSError):  # a service manager may forbid it
        os.nice(10)
    for kind, most in ((resource.RLIMIT_CPU, PROCESSOR_S), (resource.RLIMIT_AS, MEMORY)):
        try:
            resource.setrlimit(kind, (most, most))
        except (OSError, ValueError):  # not every system limits everything
            continue


def _read(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


if __name__ == "__main__":
    sys.exit(main())
