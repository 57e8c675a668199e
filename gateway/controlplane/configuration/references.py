"""Do the files and variables that a configuration names lead to something?

Asked where a gateway starts and where somebody edits what they are, which is refused then; not of
what was sound when it was edited and is not any more. `headgate check` says it and refuses nothing:
a file may be checked on another machine than it is for.
"""

import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway.controlplane.configuration.settings import FromEnvironment, Settings
from gateway.core.faults import Fault, pointer
from gateway.core.table import TableError, make_backend
from gateway.processes.certificates import Certificate, CertificateError, read_plain
from gateway.processes.credentials import problems_of
from gateway.processes.outlet import open_file

Json = Any
MAX_BYTES = 64 << 10  # of a file with certificates
_ABOUT = ("tls", "headers")


def missing(backends: Mapping[str, Json], before: Mapping[str, Json] = {}) -> Iterator[Fault]:
    """What cannot be read of what `backends` name otherwise than they did `before`. Reads it."""
    for name, spec in backends.items():
        old = before.get(name)
        known = old if isinstance(old, Mapping) else {}
        if not isinstance(spec, Mapping) or not any(spec.get(key) for key in _ABOUT):
            continue
        if all(spec.get(key) == known.get(key) for key in _ABOUT):
            continue
        try:
            backend = make_backend(name, spec)
        except TableError:
            continue  # what is wrong with it is said already
        for place, why in problems_of(backend):
            yield Fault(pointer("backends", name, *place), "unreadable", why)


def unusable(settings: Settings, *, makes: bool = True) -> Iterator[Fault]:
    """What of the files and variables that `settings` name cannot be used. The access log is made
    where it is not there, unless `makes` is not set."""
    if why := _no_log(settings.access_log, makes):
        yield Fault("/gateway/access_log", "unreadable", why)
    for name, said in (("tls", settings.tls), ("admin_tls", settings.admin_tls)):
        try:
            if said is not None:
                Certificate(said.files, lambda _: None)
        except CertificateError as error:
            yield Fault(pointer("gateway", name), "unreadable", str(error))


def unreachable(settings: Settings, environment: Mapping[str, str]) -> Iterator[Fault]:
    """What of the files and variables by which etcd is asked cannot be read; a gateway that starts
    meets it as it asks."""
    spec = settings.etcd
    if settings.store != "etcd" or spec is None:
        return
    for key in ("ca", "cert", "key"):
        try:
            if path := getattr(spec, key):
                read_plain(path, MAX_BYTES)
        except ValueError as error:
            yield Fault(pointer("gateway", "etcd", key), "unreadable", str(error))
    for key in ("user", "password"):
        value = getattr(spec, key)
        try:
            if isinstance(value, FromEnvironment):
                value.read(environment)
        except ValueError as error:
            yield Fault(pointer("gateway", "etcd", key), "unreadable", str(error))


def _no_log(access_log: str, makes: bool) -> str | None:
    """Why the access log cannot be written. Each worker opens it; one line says it for all."""
    if access_log in ("-", "off"):
        return None
    mend = "name a file in a directory that is there"
    try:
        if makes or os.path.exists(access_log):
            os.close(open_file(access_log))
        elif not (folder := Path(access_log).absolute().parent).is_dir():
            return f"{access_log}: {os.strerror(errno.ENOENT)}; {mend}"
        elif not os.access(folder, os.W_OK | os.X_OK):
            return f"{access_log}: {os.strerror(errno.EACCES)}; {mend}"
    except OSError as error:
        if error.errno == errno.ENXIO:
            return f"{access_log}: nobody reads this pipe; start its reader first"
        return f"{access_log}: {error.strerror}; {mend}"
    return None
