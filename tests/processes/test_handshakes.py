"""Handshakes that fail are counted, each, and told, seldom."""

import ssl

import pytest

from gateway.processes.handshakes import FailedHandshakes, reason_of


def test_many_that_fail_are_counted_each_and_said_once_in_a_while() -> None:
    said: list[str] = []
    counted: list[str] = []
    clock = [100.0]
    failed = FailedHandshakes("gateway.tls", said.append, lambda: clock[0], counted.append)
    failed.note("alert", "192.0.2.1")
    for _ in range(1000):
        clock[0] += 0.005
        failed.note("no_tls", "192.0.2.2")
    assert len(said) == 1
    clock[0] = 110.0
    failed.note("timeout", "192.0.2.3")
    assert counted == ["alert", *["no_tls"] * 1000, "timeout"]
    assert said[0].startswith("gateway.tls: TLS with 192.0.2.1 failed: it refused")
    assert said[1].startswith("gateway.tls: TLS with 192.0.2.3 failed: it took too long (timeout)")
    assert said[1].endswith("; 1000 more failed since it was last said")
    assert len(said) == 2


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "no_certificate"),
        ("TLSV1_ALERT_UNKNOWN_CA", "alert"),
        ("SSLV3_ALERT_BAD_CERTIFICATE", "alert"),
        ("HTTP_REQUEST", "no_tls"),
        ("SOMETHING_NEW", "other"),
        (None, "other"),
    ],
)
def test_a_reason_is_one_of_a_few_words(said: str | None, reason: str) -> None:
    fault = ssl.SSLError(1, "x")
    if said is not None:
        fault.reason = said
    assert reason_of(fault) == reason
