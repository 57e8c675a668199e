"""A read-only copy of what is in etcd, to start from while nobody there answers.

One small file in the state directory, written whole or not at all by a thread of its own: no edit
waits for it. It is never what is edited.
"""

import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import orjson

from gateway.controlplane.store.etcd.layout import (
    Head,
    packed_file,
    sum_of,
    unpacked,
    unpacked_file,
)
from gateway.controlplane.store.state_directory import refuse_shared_file
from gateway.controlplane.store.store import StateRefused, Stored, StoreError
from gateway.core.table import Document
from gateway.processes.tasks import told

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy says: what to start from, and the head that etcd had with it, whose checksum is
    empty where an older gateway made the copy; the routes on which rollouts ran; and how many
    gateways there were."""

    stored: Stored
    head: Head
    rollouts: Sequence[str] = ()
    gateways: int = 1


class Copy:
    """The copy at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="copy")
        self._next: tuple[int, bytes, Document | None] | None = None
        self._newest: tuple[int, bytes, Document | None] | None = None
        self._rollouts: Sequence[str] = ()
        self._gateways = 1
        self._is_old = False  # it could not be written last time

    def read(self) -> Copied | None:
        """What was there last; None without a copy, StateRefused when it is damaged."""
        if not os.path.lexists(self._path):
            return None
        refuse_shared_file(self._path)
        first, _, rest = self._path.read_bytes().partition(b"\n")
        try:
            said = orjson.loads(first)
            length = int(said["length"])
            if sum_of(rest) != said["checksum"]:
                raise ValueError
            head = Head(int(said["number"]), str(said.get("head", "")))
            newest = unpacked(rest[:length], head.number).whole()
            applied = unpacked_file(rest[length:]) if rest[length:] else None
            rollouts = tuple(map(str, said.get("rollouts", ())))
            gateways = int(said.get("gateways", 1))
        except (ValueError, KeyError, TypeError, StateRefused):
            raise StateRefused(f"{self._path} is damaged; it was kept as it is") from None
        return Copied(Stored(newest, applied, is_copy=True), head, rollouts, gateways)

    def keep(self, number: int, value: bytes, applied: Document | None) -> None:
        """Has the copy replaced, soon: by revision `number`, which is `value` in etcd."""
        is_waiting, self._next = self._next is not None, (number, value, applied)
        self._newest = self._next
        if not is_waiting:
            self._thread.submit(self._write)

    def note(self, routes: Sequence[str], gateways: int) -> None:
        """Has it say that rollouts run on `routes`, and how many gateways there are."""
        if (routes, gateways) != (self._rollouts, self._gateways):
            self._rollouts, self._gateways = routes, gateways
            if self._newest is not None:
                self.keep(*self._newest)

    def _write(self) -> None:
        due, self._next = self._next, None
        assert due is not None
        number, value, applied = due
        try:
            rest = value + (b"" if applied is None else packed_file(applied))
            said = {"number": number, "length": len(value), "checksum": sum_of(rest)}
            said |= {"head": sum_of(value), "rollouts": self._rollouts, "gateways": self._gateways}
            scrap = self._path.with_suffix(".new")
            with open(scrap, "wb", opener=_private) as file:
                file.write(orjson.dumps(said) + b"\n" + rest)
            os.replace(scrap, self._path)
        except (OSError, StoreError) as error:
            if not self._is_old:  # the one before stands
                log.warning(
                    f"{self._path} cannot be written ({told(error)}): while etcd is away, a start"
                    f" begins with an older revision than {number}, or not at all"
                )
            self._is_old = True
        else:
            if self._is_old:
                log.warning(f"{self._path} is written again: it has revision {number}")
            self._is_old = False

    def close(self) -> None:
        """Returns when it is written."""
        self._thread.shutdown()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
