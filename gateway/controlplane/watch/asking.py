"""How is an instance asked what it says of itself?"""

from typing import Any

import aiohttp

from gateway.controlplane.watch.probing import Target
from gateway.processes.credentials import CredentialError

WITHIN_S = 5.0


async def fetch(target: Target, path: str, max_bytes: int) -> bytes | None:
    """What `path` of `target` holds, up to `max_bytes`; None when it holds nothing, or more."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    timeout = aiohttp.ClientTimeout(total=WITHIN_S)
    scheme = "https" if target.server_name else "http"
    try:
        how: dict[str, Any] = {"allow_redirects": False, **await target.secure()}
        if target.held is not None:
            how["headers"] = read_lines(await target.lines())
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            # Redirects are not followed: an instance must not be able to send us elsewhere.
            session.get(f"{scheme}://{host}:{target.port}{path}", **how) as answer,
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
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError, CredentialError):
        return None


def read_lines(lines: bytes) -> list[tuple[str, str]]:
    """Header lines as pairs of name and value."""
    pairs = (line.decode("latin-1").partition(": ") for line in lines.split(b"\r\n") if line)
    return [(name, value) for name, _, value in pairs]
