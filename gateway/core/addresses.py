"""May the gateway connect to this address, and who is behind one that connects to it?

Some addresses are never an instance: link-local ones (where clouds keep their metadata
service), multicast, the unspecified address, and IPv4 in IPv6 clothes. Beyond that the
operator may name the networks instances live in. Names are judged when they are resolved,
each time, so that a name cannot turn from a good address to a bad one. Who connects is told
apart only as far as one cannot pretend to be many.
"""

import ipaddress
from collections.abc import Sequence


def refusal(host: str, networks: Sequence[str] = ()) -> str:
    """Why `host` may not be connected to, as the end of a sentence; "" if it may, or is a name."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped or address.scope_id):
        return "is an IPv4 address written as IPv6, or has a zone"
    if address.is_link_local:
        return "is a link-local address"
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
