"""What does it take to speak with a backend's instances, now that its files may change?

CAs, certificates and the values of header fields, read off the loop of whoever connects, and again
when a file changed. What can be used is taken over from the next connection on; what cannot is
told once, and what was there before stays. The values of headers are here and nowhere else: no
text that this module makes has one in it.
"""

import asyncio
import os
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from weakref import WeakValueDictionary

from gateway.core.credentials import SetHeader, Tls
from gateway.core.header_fields import is_header_value
from gateway.core.table import Backend
from gateway.processes.certificates import (
    CIPHERS,
    heed_revocations,
    mark,
    no_password,
    read_plain,
    words,
)
from gateway.processes.tasks import Tasks
from gateway.processes.trusting import trusting

LOOK_S = 1.0
MAX_BYTES = 64 << 10  # of a file with a value
NO_TLS = Tls()

Problem = tuple[tuple[str, ...], str]
"""Which field of a backend cannot be followed, and why not."""
Mark = tuple[int, ...]


class CredentialError(Exception):
    """Fields of a backend that lead to nothing that can be used; the text is one clear line."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = list(problems)
        super().__init__("; ".join(f"{'.'.join(place)}: {why}" for place, why in self.problems))


@dataclass(frozen=True, slots=True)
class Credential:
    """The context of connections by TLS, None where there are none; and the lines that are set in
    each head, each with its end."""

    context: ssl.SSLContext | None
    lines: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where what it takes comes from: equal ones are read together."""

    tls: Tls | None
    headers: tuple[SetHeader, ...]

    @classmethod
    def of(cls, backend: Backend) -> "Sources | None":
        """The sources of `backend`; None where plain HTTP and nothing more meets its instances."""
        is_secure = any(instance.secure for instance in backend.instances)
        if not is_secure and not backend.headers:
            return None
        tls, home = backend.tls or NO_TLS, os.path.expanduser
        # Names are of connections, not of contexts.
        files = Tls(home(tls.ca), "", home(tls.cert), home(tls.key)) if is_secure else None
        headers = tuple(replace(each, file=home(each.file)) for each in backend.headers)
        return cls(files, headers)

    @property
    def files(self) -> list[str]:
        """The files that are read for it."""
        tls = self.tls or NO_TLS
        named = [tls.ca, tls.cert, tls.key, *(header.file for header in self.headers)]
        return [path for path in named if path]


class Held:
    """The credential of some backends, for as long as one of them is there. `listeners` are called
    on the loop when it became another one."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self.users = 0
        self.current: Credential | None = None
        self.fault = ""
        self.listeners: dict[str, Callable[[], None]] = {}
        self.marks: list[Mark] | None = None
        self._looked = asyncio.Event()

    async def get(self) -> Credential:
        """The credential, once it was read; CredentialError if there is none."""
        await self._looked.wait()
        if self.current is None:
            raise CredentialError([(("credentials",), self.fault)])
        return self.current

    def take(self, outcome: "Credential | CredentialError") -> None:
        """Takes over what was read, or notes why it cannot be."""
        if isinstance(outcome, CredentialError):
            self.fault = str(outcome)
        else:
            self.current, self.fault = outcome, ""
        self._looked.set()
        for listener in list(self.listeners.values()):
            listener()


class Credentials:
    """The credentials of all backends in one process. `own` keeps the task that reads; `say` is
    told what changed, in one line."""

    def __init__(self, own: Tasks, say: Callable[[str], None] = lambda _: None) -> None:
        self._own, self._say = own, say
        self._held: dict[Sources, Held] = {}
        self._stirred = asyncio.Event()
        self._is_watching = False
        self._contexts: WeakValueDictionary[object, ssl.SSLContext] = WeakValueDictionary()

    def swap(self, before: Held | None, backend: Backend | None) -> Held | None:
        """What `backend` is met with, whoever had `before` until now; None: nothing more than
        plain HTTP takes."""
        sources = None if backend is None else Sources.of(backend)
        if before is not None:
            if before.sources == sources:
                return before
            before.users -= 1
            if not before.users:
                del self._held[before.sources]
                self._stirred.set()
        if sources is None:
            return None
        held = self._held.get(sources)
        if held is None:
            held = self._held[sources] = Held(sources)
            self._stirred.set()
        held.users += 1
        if not self._is_watching:
            self._is_watching = True
            self._own.keep("the watch over credentials", self._watch)
        return held

    async def _watch(self) -> None:
        """Reads what is new, until nobody needs anything."""
        while self._held:
            self._stirred.clear()
            held = list(self._held.values())
            for each, outcome in await asyncio.to_thread(self._look, held):
                self._note(each, outcome)
            is_looking = any(each.sources.files for each in held)
            try:
                async with asyncio.timeout(LOOK_S if is_looking else None):
                    await self._stirred.wait()
            except TimeoutError:
                pass
        self._is_watching = False

    def _note(self, held: Held, outcome: Credential | CredentialError) -> None:
        is_first = held.current is None
        if isinstance(outcome, CredentialError):
            self._say(f"{outcome}; {'no request can be sent' if is_first else 'nothing changes'}")
        elif not is_first:
            self._say(f"took over {', '.join(held.sources.files)}")
        held.take(outcome)

    def _look(self, held: Iterable[Held]) -> list[tuple[Held, Credential | CredentialError]]:
        """What has to be taken over; in a thread."""
        found: list[tuple[Held, Credential | CredentialError]] = []
        for each in held:
            marks = [mark(path) for path in each.sources.files]
            if marks == each.marks:
                continue
            each.marks = marks
            try:
                found.append((each, self._read(each.sources)))
            except CredentialError as error:
                found.append((each, error))
        return found

    def _read(self, sources: Sources) -> Credential:
        tls, context = sources.tls, None
        lines, problems = header_lines(sources.headers)
        if tls is not None:
            # Many backends trust the same CA, and reading the system's takes a while.
            key = (tls, tuple(mark(path) for path in (tls.ca, tls.cert, tls.key) if path))
            context = self._contexts.get(key)
            if context is None:
                try:
                    context = self._contexts[key] = client_context(tls)
                except CredentialError as error:
                    problems += error.problems
        if problems:
            raise CredentialError(problems)
        return Credential(context, lines)


def client_context(tls: Tls) -> ssl.SSLContext:
    """The context for connections to instances; CredentialError if files cannot be used."""
    problems = _unreadable(tls)
    if problems:
        raise CredentialError(problems)
    try:
        context = trusting(tls.ca or None)
    except (ssl.SSLError, OSError) as error:
        raise CredentialError([(("tls", "ca"), f"{tls.ca}: {words(error)}")]) from None
    heed_revocations(context)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.set_alpn_protocols(["http/1.1"])
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if tls.cert:
        try:
            context.load_cert_chain(tls.cert, tls.key, password=no_password)
        except (ssl.SSLError, OSError, ValueError) as error:
            said = f"{tls.cert} and key {tls.key}: {words(error)}"
            raise CredentialError([(("tls", "cert"), said)]) from None
    return context


def header_lines(headers: Iterable[SetHeader]) -> tuple[bytes, list[Problem]]:
    """The lines of `headers`, and which of them lead to nothing."""
    lines = b""
    problems: list[Problem] = []
    for header in headers:
        try:
            value = header_value(header)
        except ValueError as error:
            problems.append((("headers", header.name), str(error)))
        else:
            lines += b"%b: %b\r\n" % (header.name.encode(), value)
    return lines, problems


def header_value(header: SetHeader) -> bytes:
    """The value of `header`; ValueError says why there is none, and never what it is."""
    text, where = header.text, "the value"
    if header.env:
        where = f"the variable {header.env}"
        if header.env not in os.environ:
            raise ValueError(f"{where} is not set")
        text = os.environ[header.env]
    elif header.file:
        where, text = header.file, _text(header.file)
    text = text.strip(" \t\r\n")
    if not text:
        raise ValueError(f"{where} is empty")
    try:
        value = text.encode("latin-1")
    except UnicodeEncodeError:
        value = b""
    if not value or not is_header_value(text):
        raise ValueError(f"{where} is no value of one line, or longer than 4096 characters")
    return value


def problems_of(backend: Backend) -> list[Problem]:
    """What of the files and variables that `backend` names leads to nothing. Reads them."""
    sources = Sources.of(backend)
    if sources is None:
        return []
    _, problems = header_lines(sources.headers)
    if sources.tls is not None and sources.tls != NO_TLS:
        try:
            client_context(sources.tls)
        except CredentialError as error:
            problems += error.problems
    return problems


def why_not_trusted(error: BaseException, name: str = "") -> str:
    """What went wrong while TLS was agreed on with an instance, whose certificate has to be for
    `name`: the end of a sentence that begins with it."""
    if isinstance(error, CredentialError):
        return f"cannot be met: {error}"
    if isinstance(error, ssl.SSLCertVerificationError):
        why = _VERIFY.get(error.verify_code)
        whose = f", not for {name}" if name and error.verify_code in _OTHER_HOST else ""
        return f"is not trusted: its certificate {why or error.verify_message}{whose}"
    if isinstance(error, ssl.SSLError):
        said = (error.reason or "").replace("_", " ").lower()
        if "WRONG_VERSION" in (error.reason or "") or "HTTP_REQUEST" in (error.reason or ""):
            return "speaks no TLS"
        if "CERTIFICATE_REQUIRED" in (error.reason or ""):
            return "asks for a certificate (tls.cert and tls.key of its backend)"
        return f"and the gateway agreed on no TLS ({said or 'broken off'})"
    return "broke off the handshake of TLS"


_OTHER_HOST = frozenset({62, 64})
_VERIFY = {  # by OpenSSL's X509_V_ERR_…
    3: "is of a CA that has no list of those it revoked (CRL) beside the others'",
    9: "is not valid yet",
    10: "has expired",
    12: "is of a CA whose list of those it revoked (CRL) has expired",
    18: "is signed by itself and no CA that is trusted",
    19: "is of no CA that is trusted",
    20: "is of no CA that is trusted",
    21: "is of no CA that is trusted",
    23: "was revoked",
    62: "is for another host",
    64: "is for another address",
}


def _unreadable(tls: Tls) -> list[Problem]:
    problems: list[Problem] = []
    for name, path in (("ca", tls.ca), ("cert", tls.cert), ("key", tls.key)):
        try:
            if path:
                read_plain(path, MAX_BYTES)
        except ValueError as error:
            problems.append((("tls", name), str(error)))
    return problems


def _text(path: str) -> str:
    found = read_plain(path, MAX_BYTES)
    try:
        return found.decode()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is no text") from None
