"""What is settled before anything starts: ports, state, and how long a drain may take."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.app import CannotStart, Prepared, prepare
from gateway.processes.private_directory import MAX_SOCKET_NAME, NoPlace, place
from gateway.wire.messages import HAND_OVER_S
from tests.harness.gateway import complete, one_backend
from tests.harness.ports import free_port


def prepared(folder: Path, **settings: Any) -> Prepared:
    file = folder / "headgate.yaml"
    file.write_text(yaml.safe_dump(complete(one_backend("http://127.0.0.1:9"), settings)))
    return prepare(file, folder / "state")


def test_r68_a_drain_has_its_whole_time_even_where_nobody_takes_over_from_the_workers(
    tmp_path: Path,
) -> None:
    made = prepared(tmp_path, lame_duck="3s", drain="20s")
    made.close()
    assert made.plan.drain_timeout_s > 3 + HAND_OVER_S + 20


def test_what_is_not_started_after_all_gives_everything_back(tmp_path: Path) -> None:
    made = prepared(tmp_path)
    with pytest.raises(CannotStart, match="in use by another gateway"):
        prepared(tmp_path)
    made.close()
    prepared(tmp_path).close()


def test_what_runs_is_what_was_read_also_out_of_a_pipe(tmp_path: Path) -> None:
    """As `headgate gateway <(make-it)`, whose file can be read once."""
    text = yaml.safe_dump(complete(one_backend("http://127.0.0.1:9"), {}))
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    made = prepare(Path(f"/dev/fd/{reading}"), tmp_path / "state")
    made.close()
    os.close(reading)
    assert made.plan.configuration.decode() == text


def test_the_ports_of_the_gateway_that_has_the_state_are_not_called_another_programs(
    tmp_path: Path,
) -> None:
    listen = f"127.0.0.1:{free_port()}"
    made = prepared(tmp_path, listen=listen)
    made.plan.data[0].listen()
    with pytest.raises(CannotStart, match=r"in use by another gateway \(process \d+\)$"):
        prepared(tmp_path, listen=listen)
    made.close()
    prepared(tmp_path, listen=listen).close()


def test_where_every_path_is_too_long_for_a_socket_it_is_said(tmp_path: Path) -> None:
    long = tmp_path / ("x" * MAX_SOCKET_NAME)
    with pytest.raises(NoPlace, match="too long for a socket: set TMPDIR to a directory with"):
        place(long / "state", [long])
