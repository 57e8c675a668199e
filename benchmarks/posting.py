"""How many large posts per second, and how late, where wrk would not do or is not there?

A closed loop: `python -m benchmarks.posting URL FILE CONNECTIONS SECONDS` posts the bytes of
FILE on each connection again and again, and prints one line of JSON: every latency in
milliseconds, how many of those answers came within SECONDS, and how many others were not 200.
Start several for more than one core.
"""

import argparse
import asyncio
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.parse import urlsplit


@dataclass
class Seen:
    """Latencies of what was answered, how many of them in time, and failures."""

    took: list[float] = field(default_factory=list)
    in_time: int = 0
    failed: int = 0


async def _one(host: str, port: int, asked: bytes, ends: float, seen: Seen) -> None:
    """Posts until `ends`, and waits for the last answer."""
    reader, writer = await asyncio.open_connection(host, port)
    while (began := time.monotonic()) < ends:
        writer.write(asked)
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(x[15:]) for x in lines if x.startswith(b"content-length:"))
        await reader.readexactly(length)
        if head.split(b" ", 2)[1] != b"200":
            seen.failed += 1
            continue
        answered = time.monotonic()
        seen.took.append(1000 * (answered - began))
        seen.in_time += answered <= ends
    writer.close()


async def post(url: str, body: bytes, connections: int, seconds: float) -> Seen:
    """What came of `connections` that posted `body` for `seconds`."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    seen, ends, asked = Seen(), time.monotonic() + seconds, head.encode() + body
    await asyncio.gather(*(_one(host, port, asked, ends, seen) for _ in range(connections)))
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.posting", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("file", type=Path)
    parser.add_argument("connections", type=int)
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    try:
        body = options.file.read_bytes()
    except OSError as error:
        parser.error(f"{options.file}: {error.strerror}")
    seen = asyncio.run(post(options.url, body, options.connections, options.seconds))
    print(json.dumps(asdict(seen)))


if __name__ == "__main__":
    main()
