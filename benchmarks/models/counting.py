"""A stream of as many items as the request asks for."""

from collections.abc import Iterator
from typing import Any


class Counting:
    """Yields 0, 1, 2, …"""

    stream = True

    def setup(self, device: str) -> None:
        self.device = device

    def decode_request(self, request: dict[str, Any]) -> int:
        return int(request["input"])

    def predict(self, x: int) -> Iterator[int]:
        yield from range(x)

    def encode_response(self, output):  # annotated, FastAPI under LitServe would refuse it
        for number in output:
            yield {"item": number}
