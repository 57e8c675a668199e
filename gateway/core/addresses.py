"""May the gateway connect to this address, and who is behind one that connects to it?

Some addresses are never an instance: those where clouds keep their metadata service (link-local
ones and a few others), multicast, the unspecified address, IPv4 in IPv6 clothes, and the
gateway's own listeners. Beyond that the operator may name the networks instances live in. Names
are judged when they are resolved, each time, so that a name cannot turn from a good address to
a bad one. Who connects is told apart only as far as one cannot pretend to be many.
"""

import ipaddress
from collections.abc import Callable, Sequence

Listener = tuple[str, int]
"""Host and port that the gateway itself listens on; a host may be a wildcard."""

# Services that a cloud offers to its machines alone, credentials among them, at addresses that
# are not link-local. As the clouds document them and their agents ask them.
METADATA = frozenset(
    map(
        ipaddress.ip_address,
        (
            "168.63.129.16",  # Azure: the host's agent
            "100.100.100.200",  # Alibaba Cloud
            "192.0.0.192",  # Oracle Cloud, classic
            "fd20:ce::254",  # Google Cloud
            "fd00:c1::a9fe:a9fe",  # Oracle Cloud
            "fd00:42::42",  # Scaleway
            "fd00:a9fe:a9fe::1",  # Akamai (Linode)
            "fd00:100::100:200",  # Alibaba Cloud
        ),
    )
)
METADATA_NETWORKS = (ipaddress.ip_network("fd00:ec2::/32"),)
"""AWS: metadata at ::254, credentials of pods at ::23, and others."""


MAX_HOPS = 32
"""Of how many proxies in a row the word is heard: a client may have written thousands."""


def refusal(host: str, networks: Sequence[str] = ()) -> str:
    """Why `host` may not be connected to, as the end of a sentence; "" if it may, or is a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.scope_id):
        return "is an IPv4 address written as IPv6, or has a zone"
    if isinstance(address, ipaddress.IPv6Address) and (inner := address.sixtofour):
        return refusal(str(inner), ())
    if address.is_link_local:
        return "is a link-local address"
    if address in METADATA or any(address in network for network in METADATA_NETWORKS):
        return "is where a cloud keeps its metadata"
    if address.is_multicast:
        return "is a multicast address"
    if address.is_unspecified or (address.is_reserved and not address.is_loopback):
        return "is no address of one machine"
    if networks and not any(
        address in network
        for network in map(ipaddress.ip_network, networks)
        if network.version == address.version
    ):
        return "is outside gateway.instance_networks"
    return ""


def is_listener(
    host: str, port: int, listeners: Sequence[Listener], is_here: Callable[[str], bool]
) -> bool:
    """Whether a connection to `host`, an IP address, and `port` would end at one of `listeners`.

    `is_here(host)` says whether an address is this machine's own: one that listens on every
    address is reached by each of them. It is asked only where the port is ours.
    """
    for listening, at in listeners:
        if at != port:
            continue
        try:
            there, ours = map(_plain, (host, listening))
        except ValueError:
            continue
        if there == ours or there.is_unspecified:
            return True
        if ours.is_unspecified and is_here(str(there)):
            return True
    return False


def _plain(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address that `host` writes, IPv4 in IPv6 clothes undressed, its zone left out."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address
    return address


def client_of(peer: bytes, hops: bytes, trusts: Callable[[str], bool]) -> bytes:
    """Who asked, where `peer`, a proxy that is trusted, says for whom (`hops`, an X-Forwarded-For):
    the last address that is none that is trusted itself, or the first of all. What is no address is
    believed of nobody: then it is who said that."""
    found = peer
    for part in reversed(hops.rsplit(b",", MAX_HOPS)):
        hop = part.strip(b" \t")
        if not hop:
            continue
        try:
            address = str(_plain(_without_port(hop.decode("latin-1"))))
        except ValueError:
            break
        found = address.encode()
        if not trusts(address):
            break
    return found


def _without_port(host: str) -> str:
    """`host` of `host`, `host:port`, `[host]` and `[host]:port`: some proxies say all of it."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, _, port = host.partition(":")
    return name if port.isdigit() and "." in name else host


def behind(host: str) -> str:
    """Whom to count what comes from `host` against: one name for all that one site can call from.

    An IPv6 host chooses freely within its /64, so all of that is one; IPv4 in IPv6 clothes is
    the IPv4 address. What is no address stands for itself.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address) or address.is_loopback:
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, 64), strict=False))
