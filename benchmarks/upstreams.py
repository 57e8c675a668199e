"""What stands behind the proxies: nginx with a static answer, a sink for big bodies, stubs.

`python -m benchmarks.upstreams sink`, `… mirror` and `… stubs` print their ports on one line.
"""

import argparse
import asyncio
import contextlib
import gc
import json
import math
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.machine import LOAD_CORE, new_folder, on_core, start, wait_for
from tests.harness.origins import Origin, served
from tests.harness.ports import free_port

ANSWER = json.dumps({"output": 16.0, "model": "square"})
# The number of the connection and of the request on it, as a fraction of a millisecond.
REPORT = (
    'JSON {"named_metrics": {"queue": 0, "running": 1, "slots": 256, '
    '"wait_ms": 0.$connection$connection_requests}}'
)


@contextmanager
def nginx_upstreams(count: int = 2) -> Iterator[list[int]]:
    """`count` ports of one nginx worker that answers a small static JSON, read body or not.

    Who says which user asks gets an ORCA load report with the answer, and no two reports are
    alike; a Date is in every answer, as nginx gives it.
    """
    folder, ports = new_folder(), [free_port() for _ in range(count)]
    listens = " ".join(f"listen 127.0.0.1:{port} backlog=4096;" for port in ports)
    (folder / "nginx.conf").write_text(
        f"""worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 100000000; default_type application/json;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  map $http_x_user_id $load {{ default '{REPORT}'; '' ''; }}
  server {{ {listens} location / {{
    add_header endpoint-load-metrics $load; return 200 '{ANSWER}';
  }} }}
}}
"""
    )
    command = ["nginx", "-c", str(folder / "nginx.conf"), "-p", str(folder)]
    running = start(on_core(LOAD_CORE, command), folder)
    try:
        wait_for(f"http://127.0.0.1:{ports[0]}/", running)
        yield ports
    finally:
        running.stop()


def _head(client: socket.socket) -> tuple[bytes, int, bytes]:
    """The request's first line, its body's length and what came of the body; b"" at the end."""
    rest = b""
    while b"\r\n\r\n" not in rest:
        data = client.recv(1 << 16)
        if not data:
            return b"", 0, b""
        rest += data
    head, _, rest = rest.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in lines)
    return first, int(fields.get(b"content-length", b"0")), rest


def _sink_one(client: socket.socket) -> None:
    """GET /N answers N bytes; a POST is read to its end and answered with its length."""
    buffer, zeros = bytearray(1 << 20), bytes(1 << 20)
    with client, contextlib.suppress(OSError):
        while True:
            first, length, rest = _head(client)
            if not first:
                return
            left = length - len(rest)
            while left > 0:
                left -= client.recv_into(buffer)
            word = first.split()[1].strip(b"/").partition(b"?")[0]
            size = int(word) if word.isdigit() else 2
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            for start_at in range(0, size, len(zeros)):
                client.sendall(zeros[: size - start_at])


def _mirror_one(client: socket.socket) -> None:
    """A request's body is parsed into memory, copied once and sent back."""
    with client, contextlib.suppress(OSError):
        while True:
            first, length, rest = _head(client)
            if not first:
                return
            body = bytearray(length)
            body[: len(rest)] = rest
            got, view = len(rest), memoryview(body)
            while got < length:
                got += client.recv_into(view[got:])
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length)
            client.sendall(bytes(body))


def serve(one: Callable[[socket.socket], None]) -> None:
    """Serve from blocking threads, where the copying is the kernel's."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    print(listener.getsockname()[1], flush=True)
    while True:
        client, _ = listener.accept()
        threading.Thread(target=one, args=(client,), daemon=True).start()


async def stubs(options: argparse.Namespace) -> None:
    """`count` instances, with load reports unless `silent`; the last is `slow` times slower."""
    made = []
    for number in range(options.count):
        factor = options.slow if number == options.count - 1 else 1.0
        respond = served(
            options.slots,
            options.service * factor,
            spread=options.spread,
            report=not options.silent,
            seed=random.randrange(1 << 30),
            is_mixed=options.mixed,
        )
        origin = Origin(respond, f"i{number}")
        origin.record = False
        await origin.start()
        made.append(origin)
    print(*(origin.port for origin in made), flush=True)
    while True:
        await asyncio.sleep(1)
        for origin in made:
            origin.exchanges.clear()
            origin.connections = [c for c in origin.connections if not c.closed]
            for connection in origin.connections:
                connection.open.clear()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["sink", "mirror", "stubs"])
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--service", type=float, default=0.02)
    parser.add_argument("--spread", type=float, default=math.log(2) / 2)
    parser.add_argument("--slow", type=float, default=5.0)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--mixed", action="store_true", help="short and long requests")
    parser.add_argument("--silent", action="store_true", help="no load reports")
    options = parser.parse_args()
    if options.kind == "sink":
        serve(_sink_one)
    elif options.kind == "mirror":
        serve(_mirror_one)
    else:
        gc.disable()  # a pause here would be every proxy's
        asyncio.run(stubs(options))


if __name__ == "__main__":
    main()
