"""What is told of handshakes that fail?

Why each did, in one of a few words (REASONS), to whoever counts them; and to people one line, and
no other within WITHIN_S: who sends garbage fills no log. Nothing that a client sent is in a line
or a word.
"""

import ssl
from collections.abc import Callable

WITHIN_S = 10.0
REASONS = {
    "no_certificate": "it showed no certificate",
    "certificate": "its certificate is none that client_ca vouches for",
    "revoked": "its certificate was revoked, as a list (CRL) in client_ca says",
    "no_crl": "client_ca has no list (CRL) of its CA that holds now",
    "alert": "it refused, as who does not trust the certificate that it is shown",
    "version": "it speaks no TLS from 1.2 on",
    "cipher": "it knows none of the ciphers",
    "no_tls": "what it sent is no TLS",
    "timeout": "it took too long",
    "other": "OpenSSL says no more",
}
_BY_OPENSSL = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
    "CERTIFICATE_VERIFY_FAILED": "certificate",
    "UNSUPPORTED_PROTOCOL": "version",
    "UNKNOWN_PROTOCOL": "version",
    "VERSION_TOO_LOW": "version",
    "NO_SHARED_CIPHER": "cipher",
    "HTTP_REQUEST": "no_tls",
    "HTTPS_PROXY_REQUEST": "no_tls",
    "WRONG_VERSION_NUMBER": "no_tls",
    "PACKET_LENGTH_TOO_LONG": "no_tls",
    "RECORD_LAYER_FAILURE": "no_tls",
}

_BY_VERIFICATION = {3: "no_crl", 11: "no_crl", 12: "no_crl", 23: "revoked"}  # X509_V_ERR_…


def reason_of(fault: ssl.SSLError) -> str:
    """Which of REASONS it is that OpenSSL calls `fault`."""
    if isinstance(fault, ssl.SSLCertVerificationError):
        return _BY_VERIFICATION.get(fault.verify_code, "certificate")
    said = getattr(fault, "reason", None) or ""  # an SSLError of Python's own has none
    return _BY_OPENSSL.get(said) or ("alert" if "_ALERT_" in said else "other")


class FailedHandshakes:
    """The failures at one `listener`. Each is told to `count` by its reason; `now` is monotonic."""

    def __init__(
        self,
        listener: str,
        say: Callable[[str], None],
        now: Callable[[], float],
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._listener, self._say, self._now, self._count = listener, say, now, count
        self._said_at: float | None = None
        self._untold = 0

    def note(self, reason: str, peer: str) -> None:
        """One with `peer` failed, for one of REASONS."""
        self._count(reason)
        now = self._now()
        if self._said_at is not None and now - self._said_at < WITHIN_S:
            self._untold += 1
            return
        others = f"; {self._untold} more failed since it was last said" if self._untold else ""
        self._said_at, self._untold = now, 0
        self._say(f"{self._listener}: TLS with {peer} failed: {REASONS[reason]} ({reason}){others}")
