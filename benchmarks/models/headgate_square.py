"""Headgate: batches of up to 32."""

from typing import Any


class Square:
    """The square of `input`."""

    def setup(self, device: str) -> None:
        self.device = device

    def decode_request(self, request: dict[str, Any]) -> float:
        return float(request["input"])

    def batch(self, inputs: list[float]) -> list[float]:
        return inputs

    def predict(self, x: list[float] | float) -> list[float] | float:
        return [value * value for value in x] if isinstance(x, list) else x * x

    def unbatch(self, output: list[float]) -> list[float]:
        return output

    def encode_response(self, output: float) -> dict[str, float]:
        return {"output": output}
