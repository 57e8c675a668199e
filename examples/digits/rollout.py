"""Three rollouts, one after the other, with nobody at the controls: two go back, one goes through.

    python -m examples.digits.rollout

Starts `headgate up examples/digits/rollout.yaml`, sends held-out scans all the time, and lets the
gateway try a version that fails for one digit, one that is slow, and the CNN, which is better.
"""

import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import orjson

from examples.digits import scans
from gateway.client import AdminClient, Json, Unreachable

FILE = Path(__file__).with_name("rollout.yaml")
ROUTE = "http://127.0.0.1:8080/digits"
CLIENTS = 4
PAUSE_S = 0.02
SLOWER_THAN = 5  # the CNN computes more than the linear model, which is no fault
PLAN = {
    "steps": [10, 50, 100], "hold": "5s", "min_requests": 50,
    "guards": {"errors": {}, "latency": {"slower_than": SLOWER_THAN}},
}  # fmt: skip
EXPECTED = {"digits-broken": "rolled_back", "digits-slow": "rolled_back", "digits-cnn": "done"}


@contextmanager
def served() -> Iterator[AdminClient]:
    """Everything in FILE, ready."""
    command = [sys.executable, "-m", "gateway", "up", str(FILE), "--access-log", "off"]
    up = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    client = AdminClient()
    try:
        while not _is_ready(client):
            if up.poll() is not None:
                sys.exit(f"it did not start: headgate up {FILE} says why")
            threading.Event().wait(0.2)
        yield client
    finally:
        up.terminate()
        up.wait()


def _is_ready(client: AdminClient) -> bool:
    try:
        backends = client.status()["backends"]
    except Unreachable:
        return False
    return all(
        one["health"] == "up" for each in backends.values() for one in each["instances"].values()
    )


@contextmanager
def traffic() -> Iterator[None]:
    """Scans, one after the other, from some clients until the end."""
    over = threading.Event()
    images = scans.load()[1].images.tolist()
    threads = [
        threading.Thread(target=_ask, args=(cycle(images[n::CLIENTS]), over))
        for n in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _ask(images: Iterator[list[list[float]]], over: threading.Event) -> None:
    while not over.wait(PAUSE_S):
        body = orjson.dumps({"pixels": next(images)})
        request = urllib.request.Request(ROUTE, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                response.read()
        except urllib.error.HTTPError:
            pass  # what the broken one answers: the gateway counts it


def tried(client: AdminClient, backend: str) -> Json:
    """How the rollout to `backend` ended; each change is printed."""
    print(
        f"\n$ headgate rollout digits {backend} --steps 10,50,100 --hold 5s --min-requests 50"
        f" --slower-than {SLOWER_THAN}"
    )
    found = client.begin_rollout("digits", {"to": backend, **PLAN})
    told = 0
    while True:
        for each in found["history"][told:]:
            print(f"{each['time'][11:19]}  step {each['step']}  {each['state']}: {each['why']}")
        told = len(found["history"])
        if found["state"] not in ("running", "paused", "waiting"):
            return found
        threading.Event().wait(0.2)
        found = client.rollout("digits")


def main() -> int:
    with served() as client, traffic():
        ends = {backend: tried(client, backend)["state"] for backend in EXPECTED}
        print("\n", client.weights("digits")["weights"], sep="")
    return 0 if ends == EXPECTED else 1


if __name__ == "__main__":
    sys.exit(main())
