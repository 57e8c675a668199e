"""Which GPUs an instance's side sees, told by a driver's tool that is only a script."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from instance.devices import table

GIB = 1 << 30
DRIVERS = ("/dev/nvidiactl", "/dev/nvmap", "/dev/dxg", "/dev/kfd")
TOOL = """#!/bin/sh
echo "0, GPU-aaaa-1, 24576, 1024"
echo "1, GPU-bbbb-2, 8192, 0"
"""


def tool(folder: Path, text: str) -> str:
    program = folder / "nvidia-smi"
    program.write_text(text)
    program.chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def test_gpus_are_named_as_a_program_here_sees_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", tool(tmp_path, TOOL))
    both = [
        {"name": "cuda:0", "total": 24 * GIB, "used": GIB},
        {"name": "cuda:1", "total": 8 * GIB, "used": 0},
    ]
    assert table({}) == both
    small = [{"name": "cuda:0", "total": 8 * GIB, "used": 0}]
    assert table({"CUDA_VISIBLE_DEVICES": "1"}) == small
    assert table({"CUDA_VISIBLE_DEVICES": "GPU-bbbb"}) == small
    assert [each["total"] // GIB for each in table({"CUDA_VISIBLE_DEVICES": "1,0"})] == [8, 24]
    assert table({"CUDA_VISIBLE_DEVICES": ""}) == []


@pytest.mark.parametrize("said", ["exit 9", 'echo "0, GPU-a, [N/A], [N/A]"'])
def test_a_tool_that_cannot_say_is_no_table(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", tool(tmp_path, f"#!/bin/sh\n{said}\n"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # nor is torch asked
    assert table(os.environ) == []


def test_it_is_asked_as_a_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "instance.devices"],
        env={**os.environ, "PATH": tool(tmp_path, TOOL)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [each["name"] for each in json.loads(done.stdout)] == ["cuda:0", "cuda:1"]


@pytest.mark.skipif(
    sys.platform != "linux" or any(map(os.path.exists, DRIVERS)), reason="there is no telling here"
)
def test_a_model_for_cuda_is_refused_before_torch_is_imported_where_no_gpu_is() -> None:
    code = (
        "import sys; from instance.devices import check\n"
        "try: check('cuda:0')\n"
        "except ValueError as error: print(error, 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "no CUDA device is available here; use --device cpu False\n"
