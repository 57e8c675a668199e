"""mosec: one worker, batches of up to 32."""

import sys

import mosec


class Square(mosec.Worker):
    """The square of `input`."""

    def forward(self, data: list[dict]) -> list[dict]:
        return [{"output": float(one["input"]) ** 2} for one in data]


if __name__ == "__main__":
    port, window = sys.argv[1], float(sys.argv[2])
    sys.argv[1:] = ["--address", "127.0.0.1", "--port", port, "--log-level", "error"]
    server = mosec.Server()
    wait_ms = max(1, int(window * 1000))
    server.append_worker(Square, num=1, max_batch_size=32, max_wait_time=wait_ms, route="/predict")
    server.run()
