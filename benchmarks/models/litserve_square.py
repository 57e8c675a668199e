"""LitServe: the same class on its base class; batches of up to 32, or a 5 ms window."""

import sys

import litserve

from benchmarks.models.headgate_square import Square


class LitSquare(Square, litserve.LitAPI):
    """The square of `input`."""


if __name__ == "__main__":
    port, window = int(sys.argv[1]), float(sys.argv[2])
    api = LitSquare(max_batch_size=32, batch_timeout=window)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="error")
