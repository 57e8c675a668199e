"""Which device does a worker compute on, and what can be known of it?

The only module of this package that imports torch, and only where the model already did or
a CUDA device is there. `visible` runs in the HTTP process and never imports it.
`python -m instance.devices` prints the GPUs that are here, for who deals them out.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from os.path import exists
from pathlib import Path
from typing import Any

_DEVICE = re.compile(r"cpu|mps|auto|cuda(?::\d+)?")
_QUERY = "--query-gpu=index,uuid,memory.total,memory.used"
_MIB = 1 << 20
# One of these is there on a Linux with a GPU that torch calls cuda: of NVIDIA, on a Jetson, in
# WSL, of AMD.
_DRIVERS = ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg", "/dev/kfd")
_NO_CUDA = "no CUDA device is available here; use --device cpu"
ASKED_WITHIN_S = 20.0


def parse_devices(text: str) -> tuple[str, ...]:
    """The devices of a comma-separated list; ValueError names the one that is none."""
    devices = tuple(part.strip() for part in text.split(",") if part.strip())
    if not devices:
        raise ValueError("no device is named; use cpu, cuda:N, mps or auto")
    for device in devices:
        if not _DEVICE.fullmatch(device):
            raise ValueError(f"{device!r} is no device; use cpu, cuda:N, mps or auto")
    return devices


def visible(device: str, environment: Mapping[str, str]) -> dict[str, str]:
    """What to add to a worker's environment so that it sees its own device and no other.

    `cuda:N` counts among the devices that are visible here already.
    """
    if device == "auto":
        return {}
    if not device.startswith("cuda"):
        return {"CUDA_VISIBLE_DEVICES": ""}
    index = int(device.partition(":")[2] or 0)
    outer = environment.get("CUDA_VISIBLE_DEVICES")
    if not outer:
        return {"CUDA_VISIBLE_DEVICES": str(index)}
    names = [name.strip() for name in outer.split(",")]
    return {"CUDA_VISIBLE_DEVICES": names[index] if index < len(names) else str(index)}


def inside(device: str) -> str:
    """What `device` is called in its own worker: the only GPU it sees is the first."""
    if device.startswith("cuda"):
        return "cuda:0"
    if device != "auto":
        return device
    if _may_have_cuda():
        names = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = names[0]
        torch = _torch(load=True)
        if torch is not None and torch.cuda.is_available():
            return "cuda:0"
        return "cpu"
    if sys.platform == "darwin":
        torch = _torch(load=True)
        if torch is not None and torch.backends.mps.is_available():
            return "mps"
    return "cpu"


def check(device: str) -> None:
    """ValueError, in one line, when `device` cannot be used in this process."""
    if device == "cpu":
        return
    if device.startswith("cuda") and sys.platform == "linux" and not any(map(exists, _DRIVERS)):
        raise ValueError(_NO_CUDA)  # before torch, whose import takes long
    torch = _torch(load=True)
    if torch is None:
        raise ValueError(f"device {device} needs torch, which is not installed")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(_NO_CUDA)
    if device == "mps" and not torch.backends.mps.is_available():
        raise ValueError("mps is not available here; use --device cpu")


def use_threads(count: int) -> None:
    """Lets torch compute with `count` CPU threads, if the model uses torch at all."""
    torch = _torch()
    if torch is not None and torch.get_num_threads() != count:
        torch.set_num_threads(count)


def enter_inference_mode() -> None:
    """From here on this thread records no gradients, if the model uses torch at all."""
    torch = _torch()
    if torch is not None:
        torch.inference_mode().__enter__()


@contextmanager
def beside(device: str) -> Iterator[Callable[[], None]]:
    """A place for a second thread to fill tensors in while the first computes.

    On CUDA that is a stream of its own, so that copies to the device do not queue behind the
    kernels of a batch; the function given waits until all of it is done, and is to be called
    before anybody else touches what was made. Elsewhere there is nothing to wait for.
    """
    torch = _torch()
    if torch is None or not device.startswith("cuda"):
        yield lambda: None
        return
    torch.cuda.synchronize()  # what `setup` loaded, on the stream of the first thread
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        yield stream.synchronize


def memory(device: str) -> tuple[int, int] | None:
    """(bytes in use, bytes in all) of a GPU; None where there is none."""
    torch = _torch()
    if torch is None or not device.startswith("cuda"):
        return None
    free, total = torch.cuda.mem_get_info()
    return total - free, total


def stack_tensors(tensors: Any) -> Any:
    """One tensor of `tensors`, in pinned memory where that speeds up the way to a GPU."""
    import torch

    first = tensors[0]
    if first.device.type == "cpu" and _cuda_in_use(torch):
        shape = (len(tensors), *first.shape)
        pinned = torch.empty(shape, dtype=first.dtype, pin_memory=True)
        return torch.stack(list(tensors), out=pinned)
    return torch.stack(list(tensors))


def _cuda_in_use(torch: Any) -> bool:
    return bool(torch.cuda.is_available() and torch.cuda.is_initialized())


def tensor_value(tensor: Any) -> Any:
    """`tensor` as a numpy array of the same shape, whatever device and type it has."""
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) == "torch.bfloat16":
        tensor = tensor.float()
    return tensor.numpy()


def _torch(load: bool = False) -> Any:
    """torch if it is loaded, or can be when `load`; else None."""
    if not load and "torch" not in sys.modules:
        return None
    try:
        import torch
    except ImportError:
        return None
    return torch


def _may_have_cuda() -> bool:
    """Whether a look at torch is worth its seconds of import."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return False
    return Path("/dev/nvidiactl").exists() or Path("/dev/dxg").exists()


def table(environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """The GPUs that are visible here, each with its `name`, `total` and `used` bytes: what
    `nvidia-smi` says, else what torch does; nothing where there is none."""
    listed = _listed()
    if listed is None:
        return _seen_by_torch()
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = [name.strip() for name in visible.split(",")]
        listed = [
            found[0]
            for name in names
            if (found := [one for one in listed if name and _is_called(one, name)])
        ]
    return [
        {"name": f"cuda:{index}", "total": int(total) * _MIB, "used": int(used) * _MIB}
        for index, (_, _, total, used) in enumerate(listed)
    ]


def _is_called(gpu: list[str], name: str) -> bool:
    return gpu[0] == name or (name.startswith("GPU-") and gpu[1].startswith(name))


def _listed() -> list[list[str]] | None:
    """Index, uuid, total and used MiB of each GPU as `nvidia-smi` has them; None: it cannot say,
    or not in whole numbers (a GPU in parts says nothing of its memory)."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        said = subprocess.run(  # noqa: S603 -- the driver's own tool
            [program, _QUERY, "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=ASKED_WITHIN_S, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    rows = [[part.strip() for part in line.split(",")] for line in said.splitlines() if line]
    if all(len(row) == 4 and row[2].isdigit() and row[3].isdigit() for row in rows):
        return rows
    return None


def _seen_by_torch() -> list[dict[str, Any]]:
    torch = _torch(load=True) if _may_have_cuda() else None
    if torch is None or not torch.cuda.is_available():
        return []
    found = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append({"name": f"cuda:{index}", "total": total, "used": total - free})
    return found


if __name__ == "__main__":
    print(json.dumps(table(os.environ)))
