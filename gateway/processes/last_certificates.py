"""What was the last certificate that could be used, for whoever takes a process's place?

Files that are broken change nothing while a process runs (`certificates`), and shall change nothing
when one dies. So the supervisor has a piece of memory in which its children keep what they took
over, and one that is started while the files are broken shows that. It is no file, it is gone with
the gateway, and a first start finds nothing in it. Nobody waits for anybody over it: what was
written by two at once, or by half, is as if nothing had been.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256

_ROOM = 4 << 20
_PLACES = {"tls": 0, "admin_tls": _ROOM}
"""Where what belongs to each listener begins."""


class LastCertificates:
    """What is kept in the memory `descriptor` by the name of a listener; with None nothing is."""

    def __init__(self, descriptor: int | None) -> None:
        self._memory = descriptor

    def keep(self, listener: str, files: Mapping[str, bytes]) -> None:
        """Keeps the contents of the `files` of `listener` in place of what there was."""
        said = json.dumps({name: content.decode("latin-1") for name, content in files.items()})
        line = f"{sha256(said.encode()).hexdigest()} {said}\n".encode()
        if self._memory is not None and len(line) <= _ROOM:
            os.pwrite(self._memory, line, _PLACES[listener])

    def get(self, listener: str) -> dict[str, bytes]:
        """The contents of its files that were kept last; empty if none were."""
        if self._memory is None:
            return {}
        line, end, _ = os.pread(self._memory, _ROOM, _PLACES[listener]).partition(b"\n")
        digest, _, said = line.partition(b" ")
        if not end or digest.decode("latin-1") != sha256(said).hexdigest():
            return {}
        return {name: content.encode("latin-1") for name, content in json.loads(said).items()}


@contextmanager
def as_path(content: bytes) -> Iterator[str]:
    """A path at which OpenSSL reads `content`, which is in no folder."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("headgate-certificate")
    else:
        descriptor, path = tempfile.mkstemp()
        os.unlink(path)
    try:
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield f"/dev/fd/{descriptor}"
    finally:
        os.close(descriptor)
