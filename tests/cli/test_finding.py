"""Which gateway a command means when nobody says where it is."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.cli import finding
from gateway.controlplane.store.state_directory import StateDirectory
from gateway.controlplane.store.state_owner import claim, directory_for
from tests.cli.admin_player import TABLE, AdminPlayer
from tests.cli.conftest import Ran

ROOT = Path(__file__).parents[2]
Headgate = Callable[..., Ran]


def headgate(*words: str, cwd: Path) -> Ran:
    """`headgate` as a process of its own, without a URL in its environment."""
    ran = subprocess.run(
        [sys.executable, "-m", "gateway", *words], cwd=cwd, capture_output=True, text=True,
        timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def runs(folder: Path, name: str, url: str) -> StateDirectory:
    """What a gateway of the file `name` in `folder` leaves there while it runs."""
    state = StateDirectory(directory_for(folder / name))
    claim(state.path, folder / name)
    state.tell(url)
    return state


def player_of(route: str) -> AdminPlayer:
    return AdminPlayer(table={**TABLE, "routes": {route: TABLE["routes"]["square"]}})


def test_the_gateway_of_the_nearest_state_directory_is_meant(player, tmp_path: Path) -> None:
    runs(tmp_path, "a.yaml", player.url)
    below = tmp_path / "deep" / "er"
    below.mkdir(parents=True)
    for folder in (tmp_path, below):
        ran = headgate("routes", cwd=folder)
        assert (ran.code, ran.err) == (0, "")
        assert "digits" in ran.out
    assert "digits" in headgate("routes", "--state-dir", str(tmp_path / ".headgate"), cwd=ROOT).out


def test_a_gateway_of_another_file_is_not_upgraded_in_its_place(player, tmp_path: Path) -> None:
    runs(tmp_path, "a.yaml", player.url)
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("{}\n")
    ran = headgate("upgrade", "b.yaml", cwd=tmp_path)
    assert ran.code == 1
    assert ran.err.startswith("headgate: no gateway of b.yaml runs here, but one of a.yaml: ")
    ran = headgate("upgrade", "c.yaml", cwd=tmp_path)
    assert (ran.code, ran.err) == (1, "headgate: there is no file c.yaml\n")
    for words in (("a.yaml",), ()):  # it is meant; the player has no successors
        ran = headgate("upgrade", *words, cwd=tmp_path)
        assert "the gateway that runs is of a version that has no successors" in ran.err


def test_the_file_of_a_command_says_whose_gateway_is_meant(tmp_path: Path) -> None:
    with player_of("of-a") as a, player_of("of-b") as b:
        runs(tmp_path, "a.yaml", a.url)
        runs(tmp_path, "b.yaml", b.url)
        for file in ("a", "b"):
            (tmp_path / f"{file}.yaml").write_text("gateway: {expose: false}\n")
            ran = headgate("export", str(tmp_path / f"{file}.yaml"), cwd=ROOT)
            assert (ran.code, ran.err) == (0, "")
            assert f"of-{file}" in ran.out
            assert "expose: false" in ran.out
        ran = headgate("routes", cwd=tmp_path)
        assert ran.code == 1
        assert len(ran.err.splitlines()) == 1
        assert all(
            f"{url} ({name})" in ran.err for url, name in ((a.url, "a.yaml"), (b.url, "b.yaml"))
        )
        assert "say which with --url" in ran.err


def test_a_gateway_that_ended_is_not_meant(player, tmp_path: Path) -> None:
    state = runs(tmp_path, "a.yaml", player.url)
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True)  # fmt: skip
    (state.path / "lock").write_text(gone.stdout)
    assert finding.running(finding_options()) is None


@pytest.mark.parametrize("url", ["http://192.0.2.7:8081", "http://headgate.example:8081", "", "x"])
def test_what_lies_about_leads_to_this_machine_only(tmp_path: Path, url: str) -> None:
    runs(tmp_path, "a.yaml", url)
    assert finding.running(finding_options()) is None


def test_a_state_directory_that_is_not_there_leads_to_no_other_gateway(tmp_path: Path) -> None:
    for words in (("routes",), ("weights", "digits", "digits-cnn=1")):
        ran = headgate(*words, "--state-dir", "typo", cwd=tmp_path)
        said = "headgate: there is no state directory typo, or none that may be read\n"
        assert (ran.code, ran.err) == (1, said)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a directory to somebody else")
def test_a_state_directory_of_somebody_else_is_not_believed(
    player, tmp_path: Path, monkeypatch
) -> None:
    state = runs(tmp_path, "a.yaml", player.url)
    os.chown(state.path, 4711, -1)
    assert finding.running(finding_options()) is None
    monkeypatch.setenv("SUDO_UID", "4711")  # who called this
    assert finding.running(finding_options()) is not None


def finding_options() -> SimpleNamespace:
    return SimpleNamespace(url=None, token=None, state_dir=None)
