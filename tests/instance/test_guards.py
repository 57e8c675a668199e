"""R66, as far as it is an instance's: how it must not be started, and what it must not load."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from instance.guards import installed_torch, start_refusals
from tests.instance.conftest import ROOT, Serve

LOADS = """
    import torch

    class Model:
        options = {}
        def setup(self, device):
            self.weight = torch.load("weights.pt", **self.options)["weight"]
        def predict(self, x):
            return x * self.weight

    class Trusting(Model):
        options = {"weights_only": False}
"""


@pytest.mark.parametrize(
    ("circumstances", "words"),
    [
        ({"optimize": 1}, "python -O"),
        ({"host": "0.0.0.0", "dev_mode": True}, "loopback addresses only"),
        ({"host": "::", "environment": {"PYTHONASYNCIODEBUG": "1"}}, "loopback addresses only"),
        ({"torch_version": "2.5.1"}, "install 2.6 or newer"),
    ],
)
def test_r66_an_instance_does_not_start_without_its_guarantees(
    circumstances: dict[str, Any], words: str
) -> None:
    sound: dict[str, Any] = {
        "host": "127.0.0.1",
        "environment": {},
        "optimize": 0,
        "dev_mode": False,
        "torch_version": "2.10.0+cpu",
    }
    assert start_refusals(**sound) == []
    assert start_refusals(**{**sound, "host": "::1", "dev_mode": True}) == []
    assert start_refusals(**{**sound, "torch_version": None}) == []
    (refusal,) = start_refusals(**{**sound, **circumstances})
    assert words in refusal


def test_r66_this_very_installation_may_start() -> None:
    assert start_refusals("0.0.0.0", {}, torch_version=installed_torch()) == []


def test_r66_switched_off_checks_stop_the_start() -> None:
    command = [sys.executable, "-O", "-m", "instance", "x:Y", "--port", "0"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert ran.stderr.strip().startswith("headgate instance: python -O switches off checks")


class Payload:
    """Pickled, it is a call that makes a file."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (str(self.made), "w")


@pytest.mark.parametrize(("name", "options"), [("Model", []), ("Trusting", ["--weights-only"])])
def test_r66_weights_that_would_run_code_are_refused_and_do_not_run(
    serve: Serve, tmp_path: Path, name: str, options: list[str]
) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"weight": Payload(tmp_path / "was_run")}, tmp_path / "weights.pt")
    instance = serve(LOADS, name, "--device", "cpu", *options, wait=False)
    assert "setup of" in instance.refused()
    assert not (tmp_path / "was_run").exists()


def test_r66_plain_weights_are_loaded(serve: Serve, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"weight": torch.tensor(3.0)}, tmp_path / "weights.pt")
    instance = serve(LOADS, "Trusting", "--device", "cpu", "--weights-only")
    assert instance.post(2).json() == 6.0
