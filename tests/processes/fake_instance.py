"""An instance that loads for a while, or fails to: `fake_instance.py MODEL … --port PORT …`."""

import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

READY_AT = time.monotonic() + 0.3


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ready = time.monotonic() >= READY_AT
        self.send_response(200 if ready or not self.path.startswith("/health") else 503)
        body = f"{os.getpid()} {sys.argv[1]} {' '.join(os.environ)}".encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    model = sys.argv[1]
    if model == "missing:Model":
        print("looking for it", flush=True)
        sys.exit("no module named 'missing'")
    if model == "slow:Model":
        time.sleep(600)
    if model == "stubborn:Model":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if model == "daemon:Model":  # which goes on by itself, with the same output
        daemon = subprocess.Popen(["sleep", "600"], start_new_session=True)
        print(f"daemon {daemon.pid}", flush=True)
    print("loaded", flush=True)
    print('{"time":"now","event":"loaded"}', flush=True)
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


main()
