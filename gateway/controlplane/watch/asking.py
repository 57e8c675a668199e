"""How is an instance asked what it says of itself?"""

import aiohttp

from gateway.controlplane.watch.prober import Target

WITHIN_S = 5.0


async def fetch(target: Target, path: str, max_bytes: int) -> bytes | None:
    """What `path` of `target` holds, up to `max_bytes`; None when it holds nothing, or more."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    timeout = aiohttp.ClientTimeout(total=WITHIN_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            # Redirects are not followed: an instance must not be able to send us elsewhere.
            session.get(f"http://{host}:{target.port}{path}", allow_redirects=False) as answer,
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
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
        return None
