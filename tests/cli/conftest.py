"""A played admin API, and `headgate` run inside the test."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from gateway.cli import main
from tests.cli.admin_player import AdminPlayer


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


Headgate = Callable[..., Ran]


@pytest.fixture(autouse=True)
def _no_gateway_of_this_machine(monkeypatch, tmp_path) -> None:
    for name in ("HEADGATE_URL", "HEADGATE_TOKEN", "HEADGATE_STATE_DIR", "HEADGATE_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def player() -> Iterator[AdminPlayer]:
    with AdminPlayer() as player:
        yield player


@pytest.fixture
def headgate(capsys: pytest.CaptureFixture[str], monkeypatch, player: AdminPlayer) -> Headgate:
    """Runs a command against the player; its exit code, stdout and stderr."""
    monkeypatch.setenv("HEADGATE_URL", player.url)

    def run(*arguments: str) -> Ran:
        code = main(list(arguments))
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err
        return Ran(code, printed.out, printed.err)

    return run
