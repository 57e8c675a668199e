"""Whose live edits are in a folder: those of one file, and of no other."""

from pathlib import Path

import pytest

from gateway.controlplane.store.sqlite_store import SqliteStore
from gateway.controlplane.store.state_directory import StateDirectory
from gateway.controlplane.store.state_owner import claim, directory_for, owner_of
from gateway.controlplane.store.store import Revision


def started(folder: Path, name: str) -> str:
    """What a start with the file `name` has to say."""
    file = folder / name
    state = StateDirectory(directory_for(file))
    try:
        return claim(state.path, file)
    finally:
        state.close()


def test_the_first_file_of_a_folder_has_the_state_beside_it(tmp_path: Path) -> None:
    assert directory_for(tmp_path / "a.yaml") == tmp_path / ".headgate"
    assert started(tmp_path, "a.yaml") == ""
    assert started(tmp_path, "a.yaml") == ""
    assert directory_for(tmp_path / "a.yaml") == tmp_path / ".headgate"


def test_another_file_beside_it_inherits_nothing_and_is_told_so_once(tmp_path: Path) -> None:
    started(tmp_path, "a.yaml")
    note = started(tmp_path, "b.yaml")
    assert "belongs to a.yaml" in note
    assert "\n" not in note
    assert directory_for(tmp_path / "b.yaml") == tmp_path / ".headgate" / "files" / "b.yaml"
    assert directory_for(tmp_path / "a.yaml") == tmp_path / ".headgate"
    assert started(tmp_path, "b.yaml") == ""


def test_a_directory_that_was_named_is_one_state_for_any_file(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    assert claim(state, Path("a.yaml")) == ""
    assert "last used with a.yaml" in claim(state, Path("b.yaml"))
    assert owner_of(state) == "b.yaml"


@pytest.mark.parametrize(("why", "owner"), [("start with ./some/a.yaml", "a.yaml"), ("", None)])
def test_a_state_of_before_goes_on_with_the_file_that_it_was_started_with(
    tmp_path: Path, why: str, owner: str | None
) -> None:
    state = StateDirectory(tmp_path / ".headgate")
    store = SqliteStore(state.database)
    store.commit(Revision(1, "2026", "file", why, "file", [], {"routes": {}}))
    store.close()
    state.close()
    assert owner_of(state.path) == owner
    assert directory_for(tmp_path / "a.yaml") == state.path
    own = state.path / "files" / "b.yaml"
    assert directory_for(tmp_path / "b.yaml") == (own if owner else state.path)


def test_all_files_of_a_folder_share_the_admin_token(tmp_path: Path) -> None:
    started(tmp_path, "a.yaml")
    first = StateDirectory(directory_for(tmp_path / "a.yaml"))
    other = StateDirectory(directory_for(tmp_path / "b.yaml"))
    assert first.token == other.token
    assert first.database != other.database
    first.close()
    other.close()
