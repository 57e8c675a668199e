"""How is each instance process of `headgate up` started?

Pure planning: a backend and an address go in, a command line comes out. A single instance gets all
devices (one worker process each, inside it); several instances are dealt the devices in turn.
Which processes there are to be is `gateway.core.placement`. Nothing is started here.

A model's module is looked for in the working directory, then in the file's own directory,
then in each directory above it: the first one that has the module's top name is put on the
instance's path. A model that is a file (`models.py:Linear`) is looked for beside the
configuration file, then in the working directory.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import starmap
from pathlib import Path
from typing import Any

from gateway.core.table import Backend, Instance

NO_OPTION = frozenset(
    {
        "model", "devices", "memory", "env", "replicas", "scale", "threads", "generation", "start",
        "idle", "gpus", "cpus", "python",
    }
)  # fmt: skip
PCI_ORDER = ("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
"""As `nvidia-smi` counts GPUs, by which they are dealt out."""


class ServeError(Exception):
    """A `serve` that cannot be started here; the text is one clear line."""


@dataclass(frozen=True, slots=True)
class InstancePlan:
    """One instance process to run."""

    backend: str
    model: str
    instance: Instance
    devices: tuple[str, ...]
    argv: tuple[str, ...]
    folders: tuple[str, ...]
    health_path: str
    environment: tuple[tuple[str, str], ...] = ()
    fault: str | None = None
    """Why it cannot be started after all."""
    python: str = ""
    """The interpreter, where `serve` names one."""
    source: str = ""
    """The file of the model, or its module and the folder where that is looked for."""

    @property
    def name(self) -> str:
        return f"{self.backend} ({self.instance.address})"


@dataclass(frozen=True, slots=True)
class Site:
    """Where models are looked for, and how many CPUs there are for them."""

    file: Path
    cwd: Path
    cpus: int
    variables: Mapping[str, str]

    def plan(
        self,
        backend: Backend,
        instance: Instance,
        index: int,
        count: int,
        threads: int,
        devices: tuple[str, ...] = (),
    ) -> InstancePlan:
        """The process of `backend` at `instance`, of `count` the one with that index, on the
        `devices` that it was dealt out, if any; ServeError names what is wrong."""
        was_dealt = any(each.startswith("cuda") for each in devices)
        devices = devices or deal(backend, index, count)
        planned = _instance_plan(backend, instance, devices, threads, self.file, self.cwd)
        environment, missing = _environment(backend, self.variables)
        fault = "; ".join(f"env.{name}: {why}" for name, why in missing) or None
        if was_dealt and PCI_ORDER[0] not in self.variables:
            environment = (PCI_ORDER, *environment)
        return replace(planned, environment=environment, fault=fault)

    def threads(self, backends: Iterable[tuple[Backend, int]]) -> int:
        """CPU threads for each process that computes, when of each backend so many are served."""
        return max(1, self.cpus // max(1, sum(starmap(_cpu_workers, backends))))


def deal(backend: Backend, index: int, count: int) -> tuple[str, ...]:
    """The devices of the instance with that index, of `count`."""
    devices = _devices(backend)
    return devices[index::count] or (devices[index % len(devices)],)


def find_model(model: str, file: Path, cwd: Path) -> tuple[str, Path]:
    """The model as an instance is told it, and the folder to put on its path.

    A model that is found nowhere is left as it is: it may be installed.
    """
    module, colon, name = model.partition(":")
    module = os.path.expanduser(module)
    folder = file.resolve().parent
    if module.endswith(".py"):
        for place in (folder, cwd):
            if os.path.isfile(place / module):
                return f"{(place / module).resolve()}{colon}{name}", (
                    place / module
                ).resolve().parent
        return model, folder
    top = module.split(".")[0]
    for place in (cwd, folder, *folder.parents):
        if _holds(place, top):
            return model, place
    return model, cwd


def unmet(backend: Backend, site: Site) -> Iterator[tuple[str, str]]:
    """What below the `serve` of `backend` leads to nothing on this machine, each with the reason.
    No code is run for it: whether a module has that name shows at the start."""
    assert backend.serve is not None
    said = str(backend.serve["model"])
    module = said.partition(":")[0]
    model, place = find_model(said, site.file, site.cwd)
    own = "python" in backend.serve
    if module.endswith(".py"):
        if not os.path.isfile(site.cwd / model.partition(":")[0]):
            yield "model", f"no file {module} can be read, beside this one or in {site.cwd}"
    elif not own and not _is_module(module.split(".")[0], place):
        yield "model", f"there is no module {module.split('.')[0]}, in {place} or installed"
    if own and shutil.which(_interpreter(backend.serve)) is None:
        yield "python", f"{backend.serve['python']} is no program that can be run here"
    for name, why in _environment(backend, site.variables)[1]:
        yield f"env/{name}", why


def _holds(place: Path, top: str) -> bool:
    """Whether `place` has a module of that name; not one that may not be looked into."""
    return os.path.isdir(place / top) or os.path.isfile(place / f"{top}.py")


def _is_module(top: str, place: Path) -> bool:
    """Whether there is a module of that name, in `place` or installed."""
    if _holds(place, top):
        return True
    try:
        return find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _interpreter(serve: Mapping[str, Any]) -> str:
    """What runs instances."""
    return os.path.expanduser(str(serve.get("python", sys.executable)))


def _instance_plan(
    backend: Backend,
    instance: Instance,
    devices: tuple[str, ...],
    threads: int,
    file: Path,
    cwd: Path,
) -> InstancePlan:
    assert backend.serve is not None
    # The file is checked for it; a document from elsewhere may have it.
    if instance.dns or instance.secure:
        raise ServeError(
            f"backend {backend.name}: {instance.url} cannot be started here; "
            "`serve` wants instances like http://127.0.0.1:8001"
        )
    model, folder = find_model(str(backend.serve["model"]), file, cwd)
    module = model.partition(":")[0]
    # A file that runs its own server says there on which devices.
    is_own = model.endswith(".py") and "devices" not in backend.serve
    argv = [
        *(_interpreter(backend.serve), "-P", "-m", "instance", model),
        *("--host", instance.host, "--port", str(instance.port)),
        *(() if is_own else ("--device", ",".join(devices))),
        *("--threads", str(backend.serve.get("threads", threads))),
        *_options(backend.serve),
    ]
    return InstancePlan(
        backend.name,
        str(backend.serve["model"]),
        instance,
        devices,
        tuple(argv),
        (str(folder),),
        backend.health.path,
        python=_interpreter(backend.serve) if "python" in backend.serve else "",
        source=module if module.endswith(".py") else f"{module} in {folder}",
    )


def _options(serve: Mapping[str, Any]) -> Iterator[str]:
    """What else `serve` says, as an instance is told it: the names are the same."""
    for key in sorted(serve.keys() - NO_OPTION):
        yield f"--{key.replace('_', '-')}"
        yield json.dumps(serve[key]) if key == "args" else str(serve[key])


def _environment(
    backend: Backend, variables: Mapping[str, str]
) -> tuple[tuple[tuple[str, str], ...], list[tuple[str, str]]]:
    """The variables that `backend` asks for, and those that cannot be had, each with the reason."""
    assert backend.serve is not None
    found, missing = [], []
    for name, value in (backend.serve.get("env") or {}).items():
        source = value["env"] if isinstance(value, Mapping) else None
        if source is not None and source not in variables:
            missing.append((name, f"{source} is not set where `headgate up` runs"))
        else:
            found.append((name, variables[source] if source is not None else str(value)))
    return tuple(found), missing


def _devices(backend: Backend) -> tuple[str, ...]:
    assert backend.serve is not None
    said = backend.serve.get("devices") or "auto"
    return (said,) if isinstance(said, str) else tuple(said)


def _cpu_workers(backend: Backend, count: int) -> int:
    """How many processes of `backend`, with `count` instances, may compute on the CPU; `auto` may
    turn out to be it."""
    assert backend.serve is not None
    dealt = (device for index in range(count) for device in deal(backend, index, count))
    on_cpu = sum(device in ("cpu", "auto") for device in dealt)
    return on_cpu * int(backend.serve.get("workers", 1))


def cpu_count() -> int:
    """The CPUs this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1
