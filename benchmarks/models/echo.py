"""Raw bytes in, the same bytes out."""


class Echo:
    """Its request."""

    def setup(self, device: str) -> None:
        self.device = device

    def decode_request(self, request: bytes) -> bytes:
        return request

    def predict(self, x: bytes) -> bytes:
        return x

    def encode_response(self, output: bytes) -> bytes:
        return output
