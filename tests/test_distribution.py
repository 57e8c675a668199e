"""What `make dist` makes can be installed and runs outside the checkout, and says whose it is."""

import asyncio
import email
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.harness.gateway import ROOT, eventually
from tests.harness.load import Client
from tests.harness.ports import free_port

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BUILT_OF = (
    "setup.py", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "MANIFEST.in",
    "constraints.txt", "licenses", "gateway", "instance", "tests/__init__.py",
)  # fmt: skip
MODEL = """
class Doubler:
    def setup(self, device):
        pass

    def predict(self, request):
        return {"output": 2 * request["input"]}
"""


@pytest.mark.timeout(400)
async def test_what_is_shipped_is_whole_and_runs_outside_the_checkout(tmp_path: Path) -> None:
    """One test: what is built is looked at, and then installed."""
    dist = built(tmp_path / "tree")
    the_wheel_has_the_packages_and_every_licence_of_what_is_in_it(dist)
    the_sdist_has_what_it_takes_to_build_one_and_the_changes(dist)
    (tmp_path / "empty").mkdir()
    await what_is_installed_serves_a_model(dist, tmp_path / "empty")


def built(tree: Path) -> Path:
    """An sdist, and the wheel that is built from it and nothing else; not compiled."""
    for name in BUILT_OF:
        source = ROOT / name
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            unwanted = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(source, tree / name, ignore=unwanted)
        else:
            shutil.copy(source, tree / name)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tree / "dist"), "."],
        cwd=tree, env={**os.environ, "HEADGATE_COMPILE": "0"},
        capture_output=True, check=True, timeout=240,
    )  # fmt: skip
    return tree / "dist"


def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*-py3-none-any.whl")
    return found


def the_wheel_has_the_packages_and_every_licence_of_what_is_in_it(dist: Path) -> None:
    with zipfile.ZipFile(wheel(dist)) as archive:
        names = archive.namelist()
        info = f"headgate-{PROJECT['version']}.dist-info"
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
    assert {name.partition("/")[0] for name in names} == {"gateway", "instance", info}
    assert metadata["Version"] == PROJECT["version"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert sorted(metadata.get_all("License-File", [])) == ["LICENSE", "licenses/mypyc.txt"]
    here = {
        str(path.relative_to(ROOT))
        for package in ("gateway", "instance")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".so")
    }
    assert here <= set(names), "what lies beside the code is shipped with it"


def the_sdist_has_what_it_takes_to_build_one_and_the_changes(dist: Path) -> None:
    (found,) = dist.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        changes = archive.extractfile(f"headgate-{PROJECT['version']}/CHANGELOG.md")
        assert changes is not None
        text = changes.read().decode()
    assert {"LICENSE", "licenses/mypyc.txt", "setup.py", "pyproject.toml"} <= names
    assert not [name for name in names if name.startswith("tests/")]
    assert f"## {PROJECT['version']}" in text or "## Unreleased" in text


async def what_is_installed_serves_a_model(dist: Path, tmp_path: Path) -> None:
    """Headgate is installed as from an index; what it needs is taken from this environment."""
    there = tmp_path / "site-packages"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
         "--disable-pip-version-check", "--target", str(there), str(wheel(dist))],
        check=True, timeout=120,
    )  # fmt: skip
    (tmp_path / "doubler.py").write_text(MODEL)
    data, admin = free_port(), free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": str(there),
        "HEADGATE_LISTEN": f"127.0.0.1:{data}",
        "HEADGATE_ADMIN": f"127.0.0.1:{admin}",
        "HEADGATE_LAME_DUCK": "0s",
    }
    where = subprocess.run(
        [sys.executable, "-c", "import gateway, instance; print(gateway, instance)"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=True, timeout=120,
    ).stdout  # fmt: skip
    assert where.count(str(there)) == 2
    client = Client()
    with (tmp_path / "up.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(there / "bin" / "headgate"), "up", "doubler.py",
            cwd=tmp_path, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:

        async def is_answered() -> bool:
            assert process.returncode is None, (tmp_path / "up.log").read_text()
            url = f"http://127.0.0.1:{data}/predict"
            reply = await client.json("POST", url, {"input": 21}, timeout=2)
            return reply.status == 200 and reply.json() == {"output": 42}

        await eventually(is_answered, 60, "the model answers")
        page = await client.get(f"http://127.0.0.1:{admin}/")
        assert page.status == 200
        assert b"<title>" in page.body
    finally:
        await client.close()
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 30) == 0
