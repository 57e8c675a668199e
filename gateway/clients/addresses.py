"""Where is the gateway that a client asks, whose certificate does it trust, and who says it asks?

It looks at nothing but what it is given: nobody is asked, no name is resolved.
"""

import ssl
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from gateway.clients.errors import words
from gateway.processes.trusting import trusting

DEFAULT_URL = "http://127.0.0.1:8081"  # of a gateway that nobody said anything of


class Address(NamedTuple):
    """An http:// or https:// URL in its parts; `base` is what comes before each path."""

    url: str
    secure: bool
    host: str
    port: int
    base: str


def address_of(url: str, whose: str) -> Address:
    """The parts of `url`, of which ValueError says that it is not that of `whose`."""
    parts, port = _split(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not the http:// or https:// URL of {whose}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"{url!r} must be just a scheme, a host, a port and perhaps a path")
    secure = parts.scheme == "https"
    base = parts.path.rstrip("/")
    whole = f"{parts.scheme}://{parts.netloc}{base}"
    return Address(whole, secure, parts.hostname, port or (443 if secure else 80), base)


def _split(url: str) -> tuple[SplitResult, int | None]:
    try:
        if not url.isprintable() or " " in url:
            raise ValueError(url)
        parts = urlsplit(url if "://" in url else f"http://{url}")
        return parts, parts.port
    except ValueError:
        return urlsplit(""), None


def bearer(secret: str | None, what: str) -> str | None:
    """What `Authorization` says of who has `secret`, without what a file leaves around it; None for
    who has none. ValueError, which does not repeat it, where no header can hold it."""
    secret = (secret or "").strip()
    if not secret.isprintable():
        raise ValueError(f"{what} is one line of printable characters")
    return f"Bearer {secret}" if secret else None


def trust(
    ca: str | None = None, cert: str | None = None, key: str | None = None, *, is_own: bool = False
) -> ssl.SSLContext:
    """The context for a client that trusts what is in the file `ca` (left out: what the
    system trusts) and shows the certificate in `cert` with its `key` where one is asked for. What
    is in `ca` `is_own`: the very certificate that the gateway shows, whoever signed it and whatever
    name is in it. ValueError names the file that cannot be used."""
    try:
        context = trusting(ca)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"{ca} holds no certificates: {_of_file(error)}") from None
    if is_own:
        context.check_hostname = False
    if cert:
        try:
            context.load_cert_chain(cert, key)
        except (OSError, ssl.SSLError) as error:
            said = f"{cert} and its key cannot be used"
            raise ValueError(f"{said}: {_of_file(error)}") from None
    return context


def _of_file(error: Exception) -> str:
    """What is wrong with a file of certificates: nobody was met yet, of whom it could be said."""
    if not isinstance(error, ssl.SSLError):
        return words(error)
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key is not the certificate's"
    return f"no PEM that can be used ({(error.reason or 'unknown').replace('_', ' ').lower()})"
