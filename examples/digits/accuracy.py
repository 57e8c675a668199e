"""How good are the digits that a gateway serves? Measured over the held-out scans.

    python -m examples.digits.accuracy http://127.0.0.1:8080/digits

Sends every held-out scan once, several at a time, and prints for each version how many
answers it gave and how many were right, and exits 1 when any request was not answered.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from examples.digits import scans

TIMEOUT_S = 30.0
Pixels = list[list[float]]


class Tally(NamedTuple):
    """Answers and right answers for each version, and what went wrong otherwise."""

    answers: Counter[str]
    right: Counter[str]
    errors: Counter[str]

    def accuracy(self, version: str) -> float:
        """The share of `version`'s answers that were right; 0 when it gave none."""
        return self.right[version] / self.answers[version] if self.answers[version] else 0.0


def measure(url: str, held_out: scans.Scans, at_once: int = 8) -> Tally:
    """The tally of one request to `url` for each of the held-out scans."""
    answers: Counter[str] = Counter()
    right: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    with ThreadPoolExecutor(at_once) as threads:
        readings = threads.map(_asking(url), held_out.images.tolist())
        for reading, digit in zip(readings, held_out.digits.tolist(), strict=True):
            if isinstance(reading, str):
                errors[reading] += 1
                continue
            version, read = reading
            answers[version] += 1
            right[version] += read == digit
    return Tally(answers, right, errors)


def _asking(url: str) -> Callable[[Pixels], tuple[str, int] | str]:
    """A function that answers version and digit for one scan, or says what went wrong."""

    def ask(pixels: Pixels) -> tuple[str, int] | str:
        body = json.dumps({"pixels": pixels}).encode()
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            code = error.headers.get("X-Headgate-Error")
            return f"{error.code} {code}" if code else str(error.code)
        except OSError as error:
            return str(error)
        return answer["model"], answer["digit"]

    return ask


def report(tally: Tally) -> Iterable[str]:
    """The tally as lines for people."""
    for version in sorted(tally.answers):
        count, right = tally.answers[version], tally.right[version]
        yield f"{version:<8} {count:>4} answers  {right:>4} right  accuracy {right / count:.4f}"
    total, right = tally.answers.total(), tally.right.total()
    if total:
        yield f"{'all':<8} {total:>4} answers  {right:>4} right  accuracy {right / total:.4f}"
    for error, count in tally.errors.most_common():
        yield f"{count} requests failed: {error}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m examples.digits.accuracy")
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8080/digits")
    parser.add_argument("--at-once", type=int, default=8, help="requests in flight")
    options = parser.parse_args(arguments)
    _, held_out = scans.load()
    tally = measure(options.url, held_out, options.at_once)
    print(*report(tally), sep="\n")
    return 1 if tally.errors else 0


if __name__ == "__main__":
    sys.exit(main())
