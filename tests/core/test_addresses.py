"""Who is behind an address that calls."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.addresses import behind


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::FFFF:c000:207", "192.0.2.7"),
        ("2001:db8:1:2::7", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::7", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::1"),
        ("::5", "::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_r59_one_site_is_counted_as_one(host: str, counted: str) -> None:
    assert behind(host) == counted


@given(st.ip_addresses(v=4))
def test_r59_an_ipv4_address_is_itself_however_it_is_dressed(
    address: ipaddress.IPv4Address,
) -> None:
    assert behind(f"::ffff:{address}") == behind(str(address)) == str(address)


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_r59_no_choice_of_interface_makes_an_ipv6_host_another(
    address: ipaddress.IPv6Address, interface: int
) -> None:
    other = ipaddress.IPv6Address(int(address) >> 64 << 64 | interface)
    if not any(one.ipv4_mapped or one.is_loopback for one in (address, other)):
        assert behind(str(other)) == behind(str(address))
