"""Who is behind an address that calls."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.addresses import behind, client_of, is_listener, refusal


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254", "169.254.170.2", "fe80::a9fe:a9fe", "168.63.129.16", "100.100.100.200",
        "192.0.0.192", "fd00:ec2::254", "fd00:ec2::23", "fd00:ec2:0:0::fe", "fd20:ce::254",
        "fd00:c1::a9fe:a9fe", "fd00:42::42", "fd00:100::100:200", "fd00:a9fe:a9fe::1",
        "::ffff:100.100.100.200", "::ffff:169.254.169.254", "2002:a9fe:a9fe::1",
        "64:ff9b::a9fe:a9fe", "::169.254.169.254", "0.0.0.0", "::", "255.255.255.255",
    ],
)  # fmt: skip
def test_r61_no_instance_is_where_a_cloud_keeps_its_metadata(host: str) -> None:
    assert refusal(host)
    assert refusal(host, ["0.0.0.0/0", "::/0"]), "and no network that is named permits it"


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::1", "10.1.2.3", "100.64.0.1", "fd00:ed::1", "2001:db8::7", "a.test"]
)
def test_r61_an_instance_may_be_anywhere_else(host: str) -> None:
    assert refusal(host) == ""


@pytest.mark.parametrize(
    ("host", "listener", "ours"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "0.0.0.0", True),
        ("127.0.0.1", "::", True),
        ("::1", "::", True),
        ("192.0.2.5", "0.0.0.0", True),  # this machine's own
        ("::ffff:192.0.2.5", "::", True),
        ("0.0.0.0", "127.0.0.1", True),
        ("::", "127.0.0.1", True),
        ("192.0.2.6", "0.0.0.0", False),  # another machine
        ("127.0.0.2", "127.0.0.1", False),  # another program may listen there
        ("192.0.2.5", "127.0.0.1", False),
    ],
)
def test_r61_the_gateways_own_listeners_are_known_by_all_their_addresses(
    host: str, listener: str, ours: bool
) -> None:
    here = {"127.0.0.1", "127.0.0.2", "::1", "192.0.2.5"}
    assert is_listener(host, 8081, [(listener, 8081)], here.__contains__) is ours
    assert not is_listener(host, 8082, [(listener, 8081)], here.__contains__)


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


@pytest.mark.parametrize(
    ("hops", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("6.6.6.6, 203.0.113.7", "203.0.113.7"),  # the first is what the client itself wrote
        ("203.0.113.7, 10.0.0.9", "203.0.113.7"),
        ("203.0.113.7,10.0.0.9 ,\t10.0.0.8", "203.0.113.7"),
        ("10.0.0.9, 10.0.0.8", "10.0.0.9"),
        ("203.0.113.7:4711", "203.0.113.7"),
        ("2001:DB8::7", "2001:db8::7"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, unknown", "10.0.0.1"),
        ('203.0.113.7, x"}', "10.0.0.1"),
        ("203.0.113.7, unknown, 10.0.0.9", "10.0.0.9"),
        (", ".join(["10.0.0.9"] * 9000), "10.0.0.9"),
        ("", "10.0.0.1"),
        ("203.0.113.7,, 10.0.0.9, ", "203.0.113.7"),  # members of a list may be empty (RFC 9110)
    ],
)
def test_a_client_behind_proxies_is_the_last_address_that_none_of_them_has(
    hops: str, client: str
) -> None:
    assert client_of(b"10.0.0.1", hops.encode(), lambda host: host.startswith("10.")) == (
        client.encode()
    )


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
