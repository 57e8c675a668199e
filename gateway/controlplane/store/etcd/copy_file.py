"""A read-only copy of what is in etcd, to start from while nobody there answers.

One small file in the state directory, written whole or not at all by a thread of its own: no edit
waits for it. It is never what is edited.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson

from gateway.controlplane.store.etcd.layout import (
    packed,
    packed_file,
    sum_of,
    unpacked,
    unpacked_file,
)
from gateway.controlplane.store.state_directory import refuse_shared_file
from gateway.controlplane.store.store import Revision, StateRefused, Stored, StoreError
from gateway.core.table import Document

NAME = "etcd-copy"


class Copy:
    """The copy at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="copy")
        self._next: tuple[Revision, Document | None] | None = None

    def read(self) -> Stored | None:
        """What was there last; None without a copy, StateRefused when it is damaged."""
        if not os.path.lexists(self._path):
            return None
        refuse_shared_file(self._path)
        head, _, rest = self._path.read_bytes().partition(b"\n")
        try:
            said = orjson.loads(head)
            length = int(said["length"])
            if sum_of(rest) != said["checksum"]:
                raise ValueError
            newest = unpacked(rest[:length], int(said["number"])).whole()
            applied = unpacked_file(rest[length:]) if rest[length:] else None
        except (ValueError, KeyError, TypeError, StateRefused):
            raise StateRefused(f"{self._path} is damaged; it was kept as it is") from None
        return Stored(newest, applied)

    def keep(self, newest: Revision, applied: Document | None) -> None:
        """Has the copy replaced, soon."""
        is_waiting, self._next = self._next is not None, (newest, applied)
        if not is_waiting:
            self._thread.submit(self._write)

    def _write(self) -> None:
        due, self._next = self._next, None
        assert due is not None
        newest, applied = due
        try:
            value = packed(newest)
            rest = value + (b"" if applied is None else packed_file(applied))
            said = {"number": newest.number, "length": len(value), "checksum": sum_of(rest)}
            scrap = self._path.with_suffix(".new")
            with open(scrap, "wb", opener=_private) as file:
                file.write(orjson.dumps(said) + b"\n" + rest)
            os.replace(scrap, self._path)
        except (OSError, StoreError):
            return  # the one before stands; a start with it says which revision it is

    def close(self) -> None:
        """Returns when it is written."""
        self._thread.shutdown()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
