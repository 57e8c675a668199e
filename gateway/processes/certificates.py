"""With which certificate does a listener speak TLS, now that its files may change at any time?

The files are looked at every second by whoever listens, off its loop. What can be used is taken
over from the next connection on, and those that are open keep what they have; what cannot is
told, and the certificate before stays. Either is told once, by the first process that finds it so.

Files that are broken shall change nothing when a process dies, either. So the supervisor has a
piece of memory in which its children keep what they took over, and one that is started while the
files are broken shows that. It is no file, it is gone with the gateway, and a first start finds
nothing in it. Nobody waits for anybody over it: what was written by two at once, or by half, is as
if nothing had been.
"""

import asyncio
import json
import os
import ssl
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from hashlib import sha256
from typing import Any

LOOK_S = 1.0
# Whoever learns by what key a worker hides sessions in tickets reads what was said in those of TLS
# 1.2 since the key was made. OpenSSL makes one with each context, and none after it.
SAME_TICKETS_S = 12 * 3600.0
# Forward secrecy and authenticated encryption, as Mozilla's "intermediate" has them. Those of
# TLS 1.3 are OpenSSL's own to choose.
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

MAX_BYTES = 64 << 20  # of a file: all that may be in use is kept
_HEAD = 4096
_ROOM = _HEAD + 3 * MAX_BYTES  # for each listener; memory that is not written to takes none
_PLACES = {"tls": 0, "admin_tls": _ROOM}
"""Where what belongs to each listener begins: what its files are, and then they."""
_TOLD = 2 * _ROOM
"""And, in the same order, where what was told of it last."""


class CertificateError(Exception):
    """Files that make no certificate; the text is one clear line."""


class LastCertificates:
    """What is kept in the memory `descriptor` by the name of a listener; with None nothing is."""

    def __init__(self, descriptor: int | None) -> None:
        self._memory = descriptor

    def keep(self, listener: str, files: Mapping[str, bytes]) -> None:
        """Keeps the contents of the `files` of `listener` in place of what there was."""
        if self._memory is None:
            return
        said = json.dumps({name: _sign(content) for name, content in files.items()})
        head = f"{_sign(said.encode())[1]} {said}\n".encode().ljust(_HEAD)
        os.pwrite(self._memory, b"".join([head, *files.values()]), _PLACES[listener])

    def get(self, listener: str, *names: str) -> dict[str, bytes]:
        """The contents of its files that were kept last, of all or of those called `names`; empty
        if none were."""
        if self._memory is None:
            return {}
        place = _PLACES[listener]
        line, end, _ = os.pread(self._memory, _HEAD, place).partition(b"\n")
        digest, _, said = line.partition(b" ")
        if not end or digest.decode("latin-1") != _sign(said)[1]:
            return {}
        place += _HEAD
        found = dict[str, bytes]()
        for name, sign in json.loads(said).items():
            if not names or name in names:
                found[name] = os.pread(self._memory, sign[0], place)
                if _sign(found[name]) != sign:
                    return {}
            place += sign[0]
        return found

    def is_told(self, listener: str, news: str) -> bool:
        """Whether another process told `news` of `listener` as the last thing; else it is noted
        that this one does."""
        if self._memory is None:
            return False
        digest = sha256(news.encode()).digest()
        place = _TOLD + [*_PLACES].index(listener) * len(digest)
        if os.pread(self._memory, len(digest), place) == digest:
            return True
        os.pwrite(self._memory, digest, place)
        return False


def _sign(content: bytes) -> list[int | str]:
    """What only the same content has."""
    return [len(content), sha256(content).hexdigest()]


NOTHING_KEPT = LastCertificates(None)


class Certificate:
    """The certificate of one listener.

    `files` names `cert`, `key` and, where clients have to show one of their own, `client_ca`.
    Raises CertificateError where they cannot be used and nothing was kept in `last`, by the name of
    the listener, of who had its place before.
    """

    def __init__(
        self,
        files: Mapping[str, str],
        say: Callable[[str], None],
        last: LastCertificates = NOTHING_KEPT,
        listener: str = "tls",
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files, self._now, self._made_at = files, now, now()
        self._say = say
        self._last, self._listener = last, listener
        self._marks = self._looked_at()
        try:
            self._current = self._read()
        except CertificateError as error:
            kept = last.get(listener)
            if not kept:
                raise
            self._tell(f"{error}; the certificate before is kept")
            self._current = _of(kept)

    @property
    def context(self) -> ssl.SSLContext:
        """The context of the next connection. Sessions are resumed with the one that they began
        with and with no other: who was let in by a CA that is not asked for any more has to show
        itself."""
        return self._current

    async def watch(self) -> None:
        """Takes over what changes, until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Takes over the files if they are others than before. Twice a day it does so anyway."""
        marks, now = self._looked_at(), self._now()
        if marks == self._marks:
            if now - self._made_at > SAME_TICKETS_S:
                self._made_at = now
                with suppress(CertificateError):  # of which it is known already
                    self._current = self._read()
            return
        self._marks = marks
        try:
            self._current = self._read()
        except CertificateError as error:
            self._tell(f"{error}; the certificate before is kept")
        else:
            self._made_at = now
            self._tell(f"{self._files['cert']}: took over a new certificate")

    def _tell(self, news: str) -> None:
        """Says `news` of the files as they are now, unless another process did."""
        if not self._last.is_told(self._listener, f"{news} {self._marks}"):
            self._say(news)

    def _looked_at(self) -> list[tuple[int, ...]]:
        """What is another thing once a file was written or replaced."""
        return [mark(path) for path in self._files.values()]

    def _read(self) -> ssl.SSLContext:
        files = self._files
        context, marks = _bare(), self._looked_at()
        contents: dict[str, bytes] = {}
        for name, path in files.items():
            try:
                contents[name] = read_plain(path, MAX_BYTES + 1)
            except ValueError as error:
                raise CertificateError(f"{name} {error}") from None
            if len(contents[name]) > MAX_BYTES:
                said = f"is larger than {MAX_BYTES >> 20} MiB"
                raise CertificateError(f"{name} {path}: {said}")
        try:
            context.load_cert_chain(files["cert"], files["key"], password=no_password)
        except (ssl.SSLError, OSError, ValueError) as error:
            said = f"cert {files['cert']} and key {files['key']}: {words(error)}"
            raise CertificateError(said) from None
        if "client_ca" in files:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(files["client_ca"])
            except (ssl.SSLError, OSError) as error:
                raise CertificateError(f"client_ca {files['client_ca']}: {words(error)}") from None
            heed_revocations(context)
        if marks == self._looked_at():  # what was used is what was read
            self._last.keep(self._listener, contents)
        return context


def _of(contents: Mapping[str, bytes]) -> ssl.SSLContext:
    """The context of files that had these `contents` when they could be used."""
    context = _bare()
    with as_path(contents["cert"]) as cert, as_path(contents["key"]) as key:
        context.load_cert_chain(cert, key, password=no_password)
    if "client_ca" in contents:
        context.verify_mode = ssl.CERT_REQUIRED
        with as_path(contents["client_ca"]) as ca:
            context.load_verify_locations(ca)
        heed_revocations(context)
    return context


def heed_revocations(context: ssl.SSLContext) -> None:
    """Has `context` believe nobody whom a list among its CAs has revoked (a CRL, RFC 5280). Where
    there is one, each CA that others are of needs one that has not ended."""
    if context.cert_store_stats()["crl"]:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


ON_FAULT: ContextVar[Callable[[ssl.SSLError], None]] = ContextVar("on_fault")
"""Who is told why a handshake fails: as OpenSSL says it, which no event loop passes on once the
client has left. Set in the context in which a connection is accepted."""


class _Handshake(ssl.SSLObject):
    """One of a server, which tells its client why it fails. The event loop closes a connection on
    whose handshake OpenSSL raises, and what is to be sent of the alert is lost; so that is sent
    first, as anything else of a handshake, and it fails at the next thing that comes."""

    outgoing: ssl.MemoryBIO
    tell: Callable[[ssl.SSLError], None]
    _fault: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        """A step of it; ssl.SSLError where it fails, once the client has been sent why."""
        if self._fault is not None:
            raise self._fault
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as fault:
            self.tell(fault)
            if not self.outgoing.pending:
                raise
            self._fault = fault
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "its alert is to be sent") from None


class _Answering(ssl.SSLContext):
    """A context whose handshakes are those."""

    sslobject_class = _Handshake

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *more: Any, **named: Any
    ) -> ssl.SSLObject:
        made = super().wrap_bio(incoming, outgoing, *more, **named)
        assert isinstance(made, _Handshake)
        made.outgoing = outgoing
        made.tell = ON_FAULT.get(_tell_nobody)
        return made


def _tell_nobody(fault: ssl.SSLError) -> None:
    pass


def _bare() -> ssl.SSLContext:
    """What is spoken, without a certificate yet."""
    context = _Answering(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a CA that is named need be no root
    context.num_tickets = 1  # to resume by; each is a fourteenth of what a handshake costs
    return context


def mark(path: str) -> tuple[int, ...]:
    """What is another thing once the file was written or replaced."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def read_plain(path: str, most: int) -> bytes:
    """The first `most` bytes of the file; ValueError for one that cannot be read, or is none that
    ends: who opened a pipe would wait for ever for somebody to write to it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ValueError(f"{path}: is no plain file")
            return file.read(most)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror or error}") from None


def no_password() -> str:
    """What OpenSSL gets that asks for the password of a key; by default it asks the terminal."""
    raise ValueError("the key is encrypted, and nobody is here to ask for its password")


def words(error: Exception) -> str:
    """Why files are no certificate, for people."""
    reason = getattr(error, "reason", None)
    if reason == "KEY_VALUES_MISMATCH":
        return "the key is not the certificate's"
    if isinstance(error, ssl.SSLError):
        return f"no PEM that can be used ({(reason or 'unknown').replace('_', ' ').lower()})"
    return str(error)


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
