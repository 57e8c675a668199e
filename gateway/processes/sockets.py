"""Which sockets does the gateway listen on, and who owns them?

The supervisor binds every listening socket once and keeps it; the processes that serve
inherit them. A worker that dies leaves its connections waiting in the backlog of a socket that
is still open, and its replacement accepts them: no connection is refused. Each worker slot
has a socket of its own on the shared port (SO_REUSEPORT), so that the kernel deals
connections out and no worker wakes for another's. This module accepts nothing.
"""

import errno
import ipaddress
import os
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

BACKLOG = 4096


class ListenError(Exception):
    """An address that cannot be listened on; the text is one clear line."""


def parse_listen(text: str) -> tuple[str, int]:
    """Host and port of `host:port`, `[v6]:port` or `:port` (all addresses)."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65535:
        raise ListenError(f"{text!r} is no address to listen on; write it like 127.0.0.1:8080")
    return host.strip("[]"), int(port)


def bind(address: str, slots: int = 1) -> list[socket.socket]:
    """`slots` bound sockets that share `address` (port 0: any free one, the same for all).

    The port is ours from now on; whoever connects is refused until `listen` is called.

    Raises ListenError when the address is taken, not ours or not allowed.
    """
    host, port = parse_listen(address)
    sockets: list[socket.socket] = []
    try:
        # SO_REUSEPORT would let us in beside another gateway of the same user, and half of
        # the connections would go there. A plain bind first finds out.
        _bind(host, port, shared=False).close()
        for _ in range(slots):
            sockets.append(_bind(host, port, shared=True))
            port = port or sockets[0].getsockname()[1]
    except OSError as error:
        for bound in sockets:
            bound.close()
        raise ListenError(_explain(address, error)) from None
    return sockets


def bind_more(address: str, slots: int, there: Sequence[socket.socket]) -> list[socket.socket]:
    """As `bind`, where `there` are sockets that listen: the result has those at `address`, all of
    them, for clients wait in the backlog of each; the others are closed."""
    kept = [bound for bound in there if _is_at(bound, address)]
    for bound in there:
        if bound not in kept:
            bound.close()
    if not kept:
        return bind(address, slots)
    host, port = kept[0].getsockname()[:2]
    try:
        while len(kept) < slots and kept[0].getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT):
            kept.append(_bind(host, port, shared=True))
    except OSError as error:
        for bound in kept:
            bound.close()
        raise ListenError(_explain(address, error)) from None
    return kept


def dealt(sockets: Sequence[socket.socket], slots: int) -> list[list[socket.socket]]:
    """The sockets of each worker slot: at least one, and each is somebody's."""
    if len(sockets) < slots:
        return [[sockets[slot % len(sockets)]] for slot in range(slots)]
    return [[*sockets[slot::slots]] for slot in range(slots)]


def _is_at(bound: socket.socket, address: str) -> bool:
    host, port = parse_listen(address)
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError:
        return False
    here, there = bound.getsockname()[:2], found[0][4][:2]
    return bool(here[0] == there[0] and port in (0, here[1]))


def listen(sockets: Iterable[socket.socket]) -> None:
    """Lets clients connect; they wait until somebody accepts them."""
    for bound in sockets:
        bound.listen(BACKLOG)


def listen_unix(path: Path) -> socket.socket:
    """A socket at `path` that others may connect to; they wait until somebody accepts them."""
    bound = socket.socket(socket.AF_UNIX)
    bound.setblocking(False)
    bound.bind(str(path))
    bound.listen(128)
    return bound


def is_here(host: str) -> bool:
    """Whether `host`, an IP address, is one of this machine's own: one can listen there."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, 0))
    except OSError as error:
        # Without a descriptor to ask with nobody knows, and what may be ours is treated so.
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return True


def url_of(bound: socket.socket, scheme: str = "http") -> str:
    """The URL by which this machine reaches `bound`; a wildcard is shown as loopback."""
    host, port = parse_listen(address_of(bound))
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def address_of(bound: socket.socket) -> str:
    """`host:port` of what was really bound."""
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bind(host: str, port: int, *, shared: bool) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # "[::]" means every address, IPv4 too; "::1" is not changed by it.
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind(address)
        bound.setblocking(False)
    except BaseException:
        bound.close()
        raise
    return bound


def _explain(address: str, error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return f"cannot listen on {address}: the host is not known"
    if error.errno == errno.EADDRINUSE:
        return f"cannot listen on {address}: the port is taken by another program"
    reason = os.strerror(error.errno) if error.errno else str(error)
    return f"cannot listen on {address}: {reason.lower()}"
