"""Under which circumstances does an instance refuse to start at all?

Each is a way to run that takes away a guarantee without anybody noticing. Faults of the model
are the loader's, those of the device `devices`'.
"""

import ipaddress
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata

# The first whose torch.load reads tensors and nothing else unless it is told otherwise.
TORCH_FLOOR = (2, 6)


def start_refusals(
    host: str,
    environment: Mapping[str, str],
    *,
    optimize: int = sys.flags.optimize,
    dev_mode: bool = sys.flags.dev_mode,
    torch_version: str | None = None,
) -> list[str]:
    """Why an instance that listens on `host` must not start, each as one line; empty when it
    may. `torch_version` is that of the one installed, None when there is none."""
    debug = dev_mode or bool(environment.get("PYTHONASYNCIODEBUG"))
    empty_key = environment.get("LIT_SERVER_API_KEY") == ""
    return list(_refusals(host, optimize, debug, torch_version, empty_key))


def _refusals(
    host: str, optimize: int, debug: bool, torch_version: str | None, empty_key: bool
) -> Iterator[str]:
    if optimize:
        yield "python -O switches off checks that an instance relies on; start it without"
    if debug and not is_loopback(host):
        yield "debugging (-X dev, PYTHONASYNCIODEBUG) is for loopback addresses only"
    if empty_key:
        yield "LIT_SERVER_API_KEY is set but empty, which asks for no key; set one, or unset it"
    if torch_version is not None and _major_minor(torch_version) < TORCH_FLOOR:
        floor = ".".join(map(str, TORCH_FLOOR))
        yield f"torch {torch_version} runs code that weights may hide; install {floor} or newer"


def installed_torch() -> str | None:
    """The version of the torch that a worker would import; found without importing it."""
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def _major_minor(version: str) -> tuple[int, ...]:
    numbers = (part for part in version.split(".")[:2])
    return tuple(int(part) if part.isdigit() else 0 for part in numbers)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
