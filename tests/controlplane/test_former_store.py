"""What a file must have that is started with another store than the one before."""

from pathlib import Path
from typing import Any

import pytest

from gateway.controlplane.store.former import Former
from gateway.controlplane.store.store import Revision, StateRefused, Stored


def split(weight: int, **more: Any) -> dict[str, Any]:
    return {"backends": {"b": {}}, "routes": {"r": {"split": {"b": weight}}}, **more}


KEYS = {"keys": {"acme": {"hashes": ["sha256:" + 64 * "0"]}}}
APPLIED = split(1)


@pytest.mark.parametrize(
    ("live", "file", "lacks"),
    [
        (split(1, **KEYS), APPLIED, "/keys/acme"),
        (split(2), APPLIED, "/routes/r/split/b"),
        (APPLIED, split(1, **KEYS), ""),  # the file's own news
        (split(2), split(3), ""),  # what the file changed wins, as ever
        (split(2, **KEYS), split(2, **KEYS), ""),
    ],
)
def test_a_file_must_have_what_was_edited_in_the_store_before(
    live: dict[str, Any], file: dict[str, Any], lacks: str
) -> None:
    newest = Revision(7, "2026-01-01T00:00:00Z", "me", "", "api", [], live)
    former = Former(Stored(newest, APPLIED), Path("state.db"), "sqlite", is_newer=False)
    if not lacks:
        former.refuse_without(file)
        return
    with pytest.raises(StateRefused, match=lacks):
        former.refuse_without(file)


def test_a_rollout_that_ran_in_the_store_before_is_named_as_it_does_not_go_along() -> None:
    newest = Revision(7, "2026-01-01T00:00:00Z", "me", "", "api", [], APPLIED)
    former = Former(
        Stored(newest, APPLIED), Path("state.db"), "sqlite", is_newer=False, rollouts=("r",)
    )
    with pytest.raises(StateRefused, match="a rollout ran on route r with `store: sqlite`"):
        former.refuse_without(APPLIED)
