"""Where are rollouts kept, so that they survive whatever dies, and who drives each?

One small file beside the store, written whole or not at all and synced. A rollout writes what it is
about to do before it does it: whoever comes after a crash finds the wish and makes it true. A file
that cannot be read is refused and left as it is: a rollout that nobody remembers would leave its
split as if somebody had wanted it so. While a rollout runs a second file holds room on the disk,
and the store room for an edit, so that one whose canary fails can go back where the disk is full.
What goes back is written over it: room that was given to the disk first would be anybody's.

Where several gateways have one table, whoever holds the word for a route drives its rollout: it
counts, judges and moves; the others show what it wrote down, and one of them goes on when it is
lost.
"""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import orjson

from gateway.controlplane.store.state_directory import sync_directory
from gateway.controlplane.store.store import DiskRefused, StateRefused
from gateway.core.rollout import BACK, LIVE

NAME = "rollouts.json"
VERSION = 1
ROOM = 256 << 10  # for the edit that goes back, and what is written of it


class Keeper(Protocol):
    """What keeps rollouts. Synchronous; one call at a time."""

    def load(self) -> dict[str, Any]:
        """Route → what was kept of its rollout."""

    def keep(self, rollouts: Mapping[str, Any]) -> None:
        """Makes these the rollouts there are, durably. DiskRefused, and then nothing changed."""

    def make_room(self) -> bool:
        """Lets what is written next, and the next edit, have what was held back for going back;
        whether there was any."""


class EditRoom(Protocol):
    """A store that can hold room on its disk."""

    def hold(self, size: int) -> None:
        """Holds so many bytes that no edit is to use, where the disk has them."""

    def release(self) -> None:
        """Lets edits use them."""


class Driver(Protocol):
    """What a gateway drives."""

    def drives(self, route: str) -> bool:
        """Whether this gateway drives the rollout of `route`."""

    def driver_of(self, route: str) -> str:
        """The gateway that drives it, by name; "" where none does or there is but one."""

    async def claim(self, route: str) -> None:
        """Has this gateway drive it from now on; Conflict where another one does."""


class Alone:
    """A `Driver` of a gateway that shares its table with nobody."""

    def drives(self, route: str) -> bool:
        return True

    def driver_of(self, route: str) -> str:
        return ""

    async def claim(self, route: str) -> None:
        """Returns at once: there is nobody to ask."""


class RolloutFile:
    """A `Keeper` in the file at `path`, which need not be there; what is there is `history`
    where the gateway went on with another store meanwhile. `edits` is asked to hold room too."""

    def __init__(self, path: Path, *, history: bool = False, edits: EditRoom | None = None) -> None:
        self._path, self._history, self._edits = path, history, edits
        self._scrap, self._room = path.with_suffix(".new"), path.with_suffix(".room")
        self._may_use_room = False

    def load(self) -> dict[str, Any]:
        """What was kept last; StateRefused when it is damaged."""
        if self._history:
            return {}
        try:
            found = orjson.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise self._refused(getattr(error, "strerror", None) or "it is no JSON") from None
        if not isinstance(found, dict) or found.get("version") != VERSION:
            raise self._refused(f"it is not of version {VERSION}")
        rollouts: dict[str, Any] = found.get("rollouts", {})
        if found.get("checksum") != _sum(orjson.dumps(rollouts)):
            raise self._refused("it does not match its checksum")
        return rollouts

    def keep(self, rollouts: Mapping[str, Any]) -> None:
        """Writes `rollouts`, synced, in the place of those before; DiskRefused as declared."""
        said, kept = orjson.dumps(rollouts), rollouts.values()
        body = {"version": VERSION, "checksum": _sum(said), "rollouts": orjson.Fragment(said)}
        text = orjson.dumps(body)
        try:
            self._write(text, "wb", self._scrap)
        except OSError as error:
            with suppress(OSError):
                self._scrap.unlink()
            goes_back = any(each["move"] and each["move"]["state"] in BACK for each in kept)
            if not (self._may_use_room and goes_back and self._is_written_over_room(text)):
                raise DiskRefused(f"the rollout could not be stored: {error.strerror}") from None
        if LIVE.isdisjoint(each["state"] for each in kept):
            self._give_back()
        elif not any(each["move"] for each in kept):  # which may need it
            self._hold_room(len(text))

    def _write(self, text: bytes, mode: str, scrap: Path) -> None:
        """Writes `text` to `scrap`, which takes the place of the file then."""
        with open(scrap, mode, opener=_private) as file:
            file.write(text)
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
        os.replace(scrap, self._path)
        sync_directory(self._path.parent)

    def _is_written_over_room(self, text: bytes) -> bool:
        """Whether `text` could be written where room was held for it, which takes none."""
        try:
            self._write(text, "r+b", self._room)
        except OSError:
            return False
        return True

    def _hold_room(self, size: int) -> None:
        """Takes it, where the disk has it to give: for what is `size` bytes now, and grows."""
        self._may_use_room = False
        if self._edits is not None:
            self._edits.hold(ROOM)
        try:
            with open(self._room, "ab", opener=_private) as file:
                while file.tell() < size + ROOM // 2:
                    file.write(os.urandom(ROOM))  # zeros take no room on a disk that compresses
        except OSError:
            return  # what was taken stays: it may do

    def make_room(self) -> bool:
        """As declared; the room of edits is not looked at."""
        self._may_use_room = self._room.exists()
        if self._edits is not None:
            self._edits.release()
        return self._may_use_room

    def _give_back(self) -> None:
        """Nothing runs that may need it."""
        self._may_use_room = False
        with suppress(OSError):
            self._room.unlink()
        if self._edits is not None:
            self._edits.release()

    def _refused(self, why: str) -> StateRefused:
        return StateRefused(f"{self._path} cannot be used ({why}); it was kept as it is")


def _sum(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
