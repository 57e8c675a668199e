"""May the gateway connect to this address at all?

Some addresses are never an instance: link-local ones (where clouds keep their metadata
service), multicast, the unspecified address, and IPv4 in IPv6 clothes. Beyond that the
operator may name the networks instances live in. Names are judged when they are resolved,
each time, so that a name cannot turn from a good address to a bad one.
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
