"""The commands that start something or look at a file: up, gateway, check.

They hand over to the modules that do it, imported only then.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from click import UsageError

from gateway.cli import beginning, screen
from gateway.cli.grids import Cell, clean
from gateway.cli.parameters import STDIN
from gateway.cli.refusals import Refusal, suggestion
from gateway.processes import console

if TYPE_CHECKING:
    from gateway.controlplane.configuration.reading import Loaded, Problem
    from gateway.core.faults import Fault
    from gateway.core.table import Document


# What an instance can be asked for on the command line, as `serve` has it.
OF_INSTANCES = ("workers", "max_batch_size", "batch_timeout", "max_queue", "timeout")


def up(options: SimpleNamespace) -> int:
    """Runs the file's instances and the gateway, or those of a model, until told to stop."""
    from gateway.up import launcher, offering

    if options.on is not None and options.reload:
        raise UsageError("--reload is for models on this machine, not with --on")
    if offering.is_model(options.file):
        if options.on is not None:
            raise UsageError(
                "--on is for a configuration file: headgate up server.py --write makes one"
            )
        return _up_model(options)
    file = _file(options.file)
    given = [*OF_INSTANCES, "device", "port", "write"]
    if said := [name for name in given if getattr(options, name) is not None]:
        option = said[0].replace("_", "-")
        raise UsageError(f"--{option} is for a model (server.py); {options.file} says it itself")
    return launcher.run_up(
        file,
        _state_dir(options, file),
        options.access_log,
        dev_tls=options.dev_tls,
        reload=options.reload,
        on=options.on,
    )


def _up_model(options: SimpleNamespace) -> int:
    """Runs what a file or a module has to serve, without a configuration of its own."""
    from gateway.controlplane.configuration.yaml_source import written
    from gateway.controlplane.store.names import MADE
    from gateway.up import launcher

    file = None if options.write is None else Path(options.write).absolute()
    if file is not None and file.exists():
        raise Refusal(f"{options.write} is there already: name another file, or start that one")
    document, source = _offered(options, file)
    text = f"# Made by `headgate up {options.file}`.\n{written(document)}"
    for route in document["routes"].values():
        (backend,) = route["split"]
        console.say(
            f"{document['backends'][backend]['serve']['model']} answers at {route['match']}"
        )
    state_dir = _state_dir(options, file or source)
    if file is not None:
        beginning.write_new({file: text})
        console.say(f"wrote {options.write}; `headgate up {options.write}` does the same")
    return launcher.run_up(
        file or state_dir / MADE,
        state_dir,
        options.access_log,
        source=source if file is None else None,
        text=text if file is None else None,
        dev_tls=options.dev_tls,
        reload=options.reload,
    )


def _offered(options: SimpleNamespace, file: Path | None) -> tuple["Document", Path]:
    """The configuration that serves the model of `options`, for a `file` of its own or one in the
    state directory; and the file that the model is in."""
    from gateway.up import offering

    model, cwd = options.file, Path.cwd()
    where, _, name = model.partition(":")
    serve = _asked_of_instances(options)
    if where.endswith(".py"):
        _file(where)
    try:
        offered = offering.offers(model, cwd, console.say)
    except offering.NothingToServe as error:
        raise Refusal(str(error)) from None
    source = cwd / where if where.endswith(".py") else cwd / f"{where.partition('.')[0]}.py"
    if where.endswith(".py"):
        where = os.path.relpath(source, (file or source).parent)
    settings = {} if options.port is None else {"listen": f"0.0.0.0:{options.port}"}
    if settings and (said := os.environ.get("HEADGATE_LISTEN")):
        # What is typed wins over the environment; for whom the port is, that alone says.
        os.environ["HEADGATE_LISTEN"] = f"{said.rpartition(':')[0]}:{options.port}"
    return offering.document(f"{where}:{name}", offered, serve, settings), source


def _asked_of_instances(options: SimpleNamespace) -> dict[str, Any]:
    """What `serve` says of instances in these options; UsageError names those that cannot be: of
    the file that is made of them nobody knows."""
    from gateway.controlplane.configuration.reading import entry
    from gateway.core.faults import Invalid

    serve: dict[str, Any] = {
        key: value for key in OF_INSTANCES if (value := getattr(options, key)) is not None
    }
    if options.device is not None:
        serve["devices"] = options.device.split(",")
    try:
        entry("backends", "model", {"serve": {"model": "server.py", **serve}})
    except Invalid as refused:
        raise UsageError(
            "; ".join(f"{_option(f.pointer)}: {f.detail}" for f in refused.faults)
        ) from None
    return serve


def _option(pointer: str) -> str:
    """The option for what is at `pointer` of a backend."""
    key = pointer.split("/")[2]
    return "--device" if key == "devices" else f"--{key.replace('_', '-')}"


def gateway(options: SimpleNamespace) -> int:
    """Runs the gateway until told to stop."""
    from gateway import app

    if options.on is not None and options.take_over:
        raise UsageError("--take-over is for a gateway without --on: stop that one, and start this")
    file = _file(options.file)
    state_dir = _state_dir(options, file)
    if options.on is not None:
        from gateway.up import launcher

        return launcher.run_up(
            file, state_dir, dev_tls=options.dev_tls, on=options.on, follows=True
        )
    return app.run_gateway(file, state_dir, dev_tls=options.dev_tls, takes_over=options.take_over)


def instance(_: SimpleNamespace) -> int:
    """Reached behind a `--` only: an instance reads its own options."""
    raise UsageError("write it as: headgate instance MODEL [options]")


def check(options: SimpleNamespace) -> int:
    """Prints every problem of the file with its line, and what of it this machine lacks; 1 when
    there is any problem."""
    from gateway.controlplane.configuration import reading as configuration

    file = _file(STDIN if options.file == "-" else options.file)
    problems: list[configuration.Problem] = []
    warnings: list[configuration.Problem] = []
    try:
        loaded = configuration.load(file)
        named = Path("-") if options.file == "-" else file
        warnings = configuration.located(loaded, _warnings(loaded, named))
    except configuration.ConfigurationError as error:
        problems = error.problems
    found = {
        "ok": not problems,
        "problems": [_fields(p) for p in problems],
        "warnings": [_fields(p) for p in warnings],
    }
    if screen.printed(found, options.output):
        return 1 if problems else 0
    for problem in problems:
        console.write(sys.stderr, clean(problem.of(options.file)))
    for warning in warnings:
        console.write(sys.stderr, clean(warning.of(options.file, "warning: ")))
    if not problems:
        screen.show(Cell(f"{options.file} is valid", "good"))
        for line in _ways(loaded.document):
            screen.write(line)
    return 1 if problems else 0


def _warnings(loaded: "Loaded", file: Path) -> list["Fault"]:
    """What a start on this machine would refuse, or a model not start by, though the file itself is
    sound; and the keys that open nothing any more. A file may be checked elsewhere than it runs."""
    from gateway.controlplane.configuration import references
    from gateway.core.faults import Fault, pointer
    from gateway.core.table import make_backend
    from gateway.core.units import parse_time
    from gateway.up.plan import Site, unmet

    backends = loaded.document.get("backends") or {}
    found = [
        *references.unusable(loaded.settings, makes=False),
        *references.unreachable(loaded.settings, os.environ),
        *references.missing(backends),
    ]
    site = Site(file, Path.cwd(), 1, os.environ)
    for name, spec in backends.items():
        if spec.get("serve"):
            place = pointer("backends", name, "serve")
            unmets = unmet(make_backend(name, spec), site)
            found += [Fault(f"{place}/{key}", "unmet", why) for key, why in unmets]
    for name, spec in (loaded.document.get("keys") or {}).items():
        if "expires" in spec and parse_time(spec["expires"]) <= time.time():
            place = pointer("keys", name, "expires")
            found.append(Fault(place, "expired", "is over: this key opens nothing"))
    return found


def _ways(document: "Document") -> Iterator[str]:
    """For each route what goes where, as far as the file says it."""
    from gateway.core.served import filled, is_led, ways
    from gateway.core.table import Table

    table = Table.from_document(document, 0)
    said = {
        name: str(backend.serve["path"])
        for name, backend in table.backends.items()
        if backend.serve is not None and "path" in backend.serve
    }
    for name, route in filled(table, said).routes.items():
        asks = is_led(route, table.backends) and not all(each in said for each, _ in route.split)
        models = ", at the path that the model says unless it is this one" if asks else ""
        yield f"  {table.routes[name].match.path} → {ways(route)}{models}"


def _fields(problem: "Problem") -> dict[str, Any]:
    return {
        "line": problem.line,
        "pointer": problem.pointer,
        "detail": problem.detail,
        "hint": problem.hint or None,
    }


def _file(name: str) -> Path:
    """The file, refused in words where it cannot be read."""
    path, beside = Path(name), list[str]()
    if not name or not path.exists():
        with suppress(OSError):
            beside = os.listdir(path.parent)
        raise Refusal(f"there is no file {name or repr(name)}{suggestion(path.name, beside)}")
    if path.is_dir():
        raise Refusal(f"{name} is a directory: name the configuration file in it")
    return path


def _state_dir(options: SimpleNamespace, file: Path) -> Path:
    from gateway.controlplane.store.state_owner import directory_for

    return Path(options.state_dir) if options.state_dir else directory_for(file)
