"""What does a cluster get of `deploy/kubernetes`? `python -m tests.kubernetes.renders` writes it.

By kustomize itself, of its own or of kubectl (of Debian's it is too old).
"""

import functools
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.harness.gateway import ROOT

DEPLOY = ROOT / "deploy" / "kubernetes"
GOLDEN = Path(__file__).parent / "golden"
FOLDERS = [
    str(path.parent.relative_to(DEPLOY)) for path in sorted(DEPLOY.rglob("kustomization.yaml"))
]


@functools.cache
def kustomize() -> tuple[str, ...] | None:
    """The command that renders a folder, or None where there is none."""
    if shutil.which("kustomize"):
        return ("kustomize", "build")
    if shutil.which("kubectl"):
        said = subprocess.run(
            ["kubectl", "version", "--client"], capture_output=True, text=True, check=False
        ).stdout
        if "Kustomize Version: v5" in said:
            return ("kubectl", "kustomize")
    return None


def render(folder: str) -> str:
    """What kustomize makes of a folder."""
    command = kustomize()
    assert command is not None
    return subprocess.run(
        [*command, str(DEPLOY / folder)], capture_output=True, text=True, check=True
    ).stdout


def golden(folder: str) -> Path:
    """Where the render of a folder is kept."""
    return GOLDEN / f"{folder.replace('/', '-')}.yaml"


def objects(folder: str) -> list[dict[str, Any]]:
    """The objects of a folder, as they are kept."""
    return [one for one in yaml.safe_load_all(golden(folder).read_text()) if one]


if __name__ == "__main__":
    for name in FOLDERS:
        golden(name).write_text(render(name))
