"""How is an instance asked what it says of itself?"""

import contextlib
from typing import Any

import aiohttp

from gateway.controlplane.watch.probing import Target
from gateway.processes.credentials import CredentialError

WITHIN_S = 5.0


async def fetch(target: Target, path: str, max_bytes: int) -> bytes | None:
    """What `path` of `target` holds, up to `max_bytes`; None when it holds nothing, or more."""
    scheme = "https" if target.server_name else "http"
    try:
        how: dict[str, Any] = {"allow_redirects": False, **await target.secure()}
        if target.held is not None:
            how["headers"] = read_lines(await target.lines())
        for each in (target.host, *target.others):
            host = f"[{each}]" if ":" in each else each
            with contextlib.suppress(aiohttp.ClientConnectorError):
                return await _read(f"{scheme}://{host}:{target.port}{path}", how, max_bytes)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, CredentialError):
        pass
    return None


async def _read(url: str, how: dict[str, Any], max_bytes: int) -> bytes | None:
    timeout = aiohttp.ClientTimeout(total=WITHIN_S)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        # Redirects are not followed: an instance must not be able to send us elsewhere.
        session.get(url, **how) as answer,
    ):
        if answer.status != 200:
            return None
        parts, size = [], 0
        async for part in answer.content.iter_any():
            parts.append(part)
            size += len(part)
            if size > max_bytes:
                return None
        return b"".join(parts)


def read_lines(lines: bytes) -> list[tuple[str, str]]:
    """Header lines as pairs of name and value."""
    pairs = (line.decode("latin-1").partition(": ") for line in lines.split(b"\r\n") if line)
    return [(name, value) for name, _, value in pairs]
