"""How is one instance asked for its health, and what does its answer say?"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from gateway.core.health import ProbeSignal, connect_signal
from gateway.core.table import Health
from gateway.processes.connecting import connect_any
from gateway.processes.credentials import CredentialError, Held, why_not_trusted
from gateway.processes.event_loop import LostAtOnce

HEAD_LIMIT = 32 << 10
CLOSED = (
    "closes the connection when TLS is agreed on, without a word; it may ask for a certificate"
    " (tls.cert and tls.key of its backend)"
)


@dataclass(frozen=True, slots=True)
class Target:
    """Where to ask and how: at `host`, or the first of the `others` that takes a connection; by TLS
    from whoever is called `server_name`, unless that is empty."""

    host: str
    port: int
    health: Health
    state: str = ""
    server_name: str = ""
    held: Held | None = None
    others: tuple[str, ...] = ()

    async def secure(self) -> dict[str, Any]:
        """What opens a connection to it, besides host and port; CredentialError if nothing does."""
        if self.held is None or not self.server_name:
            return {}
        context = (await self.held.get()).context
        return {"ssl": context, "server_hostname": self.server_name}

    async def lines(self) -> bytes:
        """The header lines that are set on what it is asked; CredentialError without them."""
        return b"" if self.held is None else (await self.held.get()).lines


class Untrusted(Exception):
    """Somebody listens with whom no TLS can be spoken. The text is the end of a sentence about
    the instance, `signal` what it says of its health."""

    def __init__(self, text: str, signal: ProbeSignal = "probe_untrusted") -> None:
        super().__init__(text)
        self.signal = signal


Probe = Callable[[Target], Awaitable[ProbeSignal | None]]


CONNECT: dict[str, ProbeSignal] = {
    "refused": "probe_refused", "unreachable": "probe_unreachable",
}  # fmt: skip


async def probe(
    target: Target, *, is_ours: Callable[[str, int], bool] = lambda _host, _port: False
) -> ProbeSignal | None:
    """What one health check over a connection of its own met.

    None when we could not even ask, for want of descriptors, ports or memory of our own: that
    says nothing about an instance.

    Redirects are not followed: an instance must not be able to send us elsewhere. Untrusted says
    why nothing can be asked of somebody who listens.
    """
    hosts = [each for each in (target.host, *target.others) if not is_ours(each, target.port)]
    if not hosts:
        return "probe_refused"  # a listener of the gateway's own is no instance, whatever it says
    limit_s, port = target.health.timeout_s, target.port
    try:
        async with asyncio.timeout(limit_s):
            secure, lines = await target.secure(), await target.lines()
            reader, writer = await connect_any(
                hosts,
                limit_s,
                lambda host: asyncio.open_connection(host, port, limit=HEAD_LIMIT, **secure),
            )
    except TimeoutError:
        return "probe_unreachable"
    except (ssl.SSLError, CredentialError) as error:
        raise Untrusted(why_not_trusted(error, target.server_name)) from None
    except LostAtOnce:
        raise Untrusted(CLOSED, "malformed") from None
    except OSError as error:
        signal = connect_signal(error.errno)
        return None if signal == "exhausted" else CONNECT[signal]
    is_silent = True
    try:
        async with asyncio.timeout(limit_s):
            writer.write(_request(target, lines))
            first = await reader.readexactly(1)
            is_silent = False
            return signal_of(first + await reader.readuntil(b"\r\n\r\n"))
    except TimeoutError:
        return "late"
    except ssl.SSLError as error:  # by TLS 1.3 it hears of the gateway's certificate only now
        raise Untrusted(why_not_trusted(error, target.server_name)) from None
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        if secure and is_silent:
            raise Untrusted(CLOSED, "malformed") from None
        return "malformed"
    finally:
        writer.close()


def _request(target: Target, lines: bytes) -> bytes:
    """What is asked of `target`; `lines` are the header lines that its backend sets."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    return (
        f"GET {target.health.path} HTTP/1.1\r\nHost: {host}:{target.port}\r\n".encode()
        + b"User-Agent: headgate-probe\r\nAccept: */*\r\n"
        + lines
        + b"Connection: close\r\n\r\n"
    )


def signal_of(head: bytes) -> ProbeSignal:
    """What the head of an answer says: a 2xx status line is `ready`, any other is `unready`."""
    parts = head.split(b"\r\n", 1)[0].split(b" ", 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/1.") or not parts[1].isdigit():
        return "malformed"
    return "ready" if parts[1][:1] == b"2" else "unready"
