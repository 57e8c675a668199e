"""The plan of an instance: what is to be served, by a name or by a file that runs a `LitServer`.

A file is run for it in a process of its own, as the user's code it is; options of the command
line win over what the file gives its server.
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from instance.settings import Settings, is_server_file
from instance.wire.messages import PlanAnswer, PlanRequest

SERVER_FILE = "instance.model.planning"


class PlanError(Exception):
    """The file gives its server what cannot be served; the message is one line."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings for each of the APIs that one instance serves, and the middlewares around all of
    them, from the outside in. `notices` are lines for whoever starts it; `api_key` is what the
    file has clients asked for, empty if nothing."""

    apis: tuple[Settings, ...]
    middlewares: tuple[dict[str, Any], ...] = ()
    notices: tuple[str, ...] = ()
    api_key: str = ""


def plan_for(given: Mapping[str, Any]) -> Plan:
    """The plan for the options `given`; PlanError, in one line, when a file has none."""
    model = str(given["model"])
    if not is_server_file(model):
        return Plan((Settings(**given),), notices=tuple(unheard(model)))
    answer = _asked(model, given.get("arguments", ()))
    if answer["failed"]:
        raise PlanError(answer["failed"])
    apis = answer["apis"]
    if len(apis) > 1:
        for option in ("path", "spec", "stream"):
            if given.get(option) is not None:
                raise PlanError(f"{model} serves {len(apis)} APIs; --{option} is for one")
    settings = {**answer["settings"], "devices": tuple(answer["settings"]["devices"]), **given}
    if not settings["devices"]:
        say = "there is no device of the accelerator that its LitServer asks for, or devices is 0"
        raise PlanError(f"{model}: {say}; --device cpu serves it on the processor")
    workers = given.get("workers")
    total = sum(workers or api["workers"] for api in apis) * len(settings["devices"])
    common = Settings(**settings)
    if not common.threads:
        common = replace(common, threads=max(1, common.cores() // total))
    return Plan(
        tuple(
            replace(common, api=index, workers=workers or api["workers"])
            for index, api in enumerate(apis)
        ),
        tuple(answer["middlewares"]),
        tuple(f"{model}: {notice}" for notice in answer["notices"]),
        answer["api_key"],
    )


def _asked(model: str, arguments: Sequence[str]) -> PlanAnswer:
    """What the planning process says of the file."""
    reading, answer = os.pipe()
    lifeline, held = os.pipe()
    options: PlanRequest = {
        "model": model, "arguments": list(arguments), "answer": answer, "lifeline": lifeline,
    }  # fmt: skip
    try:
        process = subprocess.Popen(  # noqa: S603  (the interpreter we run in)
            [
                sys.executable, *(("-P",) if sys.flags.safe_path else ()),
                "-m", SERVER_FILE, json.dumps(options),
            ],
            pass_fds=(answer, lifeline),
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(answer)
        with open(reading, "rb") as pipe:
            text = pipe.read()
        code = process.wait()
    finally:
        os.close(lifeline)
        os.close(held)
    if not text:
        raise PlanError(f"running {model} ended with exit code {code} before a server ran")
    plan: PlanAnswer = json.loads(text)
    return plan


def unheard(model: str) -> Iterator[str]:
    """What the file of `model` (`file.py:Name`, `package.module:Name`) gives its LitServer and its
    LitAPI, and nobody hears when the class is served by its name."""
    where, _, name = model.rpartition(":")
    path = Path(where if where.endswith(".py") else where.replace(".", "/") + ".py")
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, ValueError, SyntaxError):  # not here, or told by whoever imports it
        return
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    calls_made = [
        (_called(call), _written(call, 1 if _called(call) == "LitServer" else 0)) for call in calls
    ]
    parts = [
        f"{called}({', '.join(written)})"
        for called, written in calls_made
        if called in ("LitServer", name) and written
    ]
    if parts and any(called == "LitServer" for called, _ in calls_made):
        yield (
            f"{model}: what the file gives {' and '.join(dict.fromkeys(parts))} does not hold for "
            f"the class alone; `headgate instance {path}` serves the file as it is"
        )


def _called(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _written(call: ast.Call, skipped: int) -> list[str]:
    """The names of a call's arguments."""
    first = ["…"] * (len(call.args) > skipped)
    names = (keyword.arg or "**" for keyword in call.keywords)
    return first + [f"{name}=…" for name in names if name != "lit_api"]
