"""ResNet-50 with random weights, in half precision on a GPU: what serving it should cost.

`python -m benchmarks.models.resnet50 DEVICE SECONDS SIZE …` prints, as JSON, the predictions a
second of the bare loop at each batch size: pictures in pinned memory, copied to the device,
computed, the classes copied back. Nothing is decoded, batched or sent there.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from instance import ModelAPI

SIDE = int(os.environ.get("BENCH_SIDE", "224"))
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, first stride


class Bottleneck(nn.Module):
    """Narrow, convolve, widen, and a way around."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        outside = 4 * width
        self.path = nn.Sequential(
            *_convolved(inside, width, 1, 1),
            nn.ReLU(),
            *_convolved(width, width, 3, stride),
            nn.ReLU(),
            *_convolved(width, outside, 1, 1),
        )
        self.around: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.around = nn.Sequential(*_convolved(inside, outside, 1, stride))
        with torch.no_grad():
            # Sixteen sums of random numbers leave what half precision can hold, unless damped.
            self.path[-1].weight.fill_(0.2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.path(x) + self.around(x))


def _convolved(inside: int, outside: int, size: int, stride: int) -> Iterator[nn.Module]:
    yield nn.Conv2d(inside, outside, size, stride, size // 2, bias=False)
    yield nn.BatchNorm2d(outside)


def network(device: str) -> nn.Module:
    """The network on `device`, in half precision where that is a GPU."""
    torch.manual_seed(50)
    layers: list[nn.Module] = [*_convolved(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inside = 64
    for width, blocks, stride in STAGES:
        for number in range(blocks):
            layers.append(Bottleneck(inside, width, stride if number == 0 else 1))
            inside = 4 * width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, 1000)]
    kind = torch.float16 if device.startswith("cuda") else torch.float32
    made = nn.Sequential(*layers).eval()
    return made.to(device=device, dtype=kind, memory_format=torch.channels_last)


class ResNet50(ModelAPI):
    """The most probable class of a picture that comes as SIDE×SIDE×3 bytes."""

    max_batch_size = 32
    media_type = "application/json"

    def setup(self, device: str) -> None:
        self.device = device
        self.network = network(device)
        self.kind = next(self.network.parameters()).dtype
        for size in (1, self.max_batch_size):  # libraries choose their kernels now, not later
            self.predict(torch.zeros(size, SIDE, SIDE, 3, dtype=torch.uint8, device=device))

    def decode_request(self, request: bytes) -> torch.Tensor:
        return torch.frombuffer(bytearray(request), dtype=torch.uint8).view(SIDE, SIDE, 3)

    def batch(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        stacked: torch.Tensor = super().batch(inputs)  # pinned, where there is a GPU
        return stacked.to(self.device, non_blocking=True)

    @torch.inference_mode()
    def predict(self, x: torch.Tensor) -> list[int]:
        pictures = x.permute(0, 3, 1, 2).to(self.kind).div_(255.0)
        classes: list[int] = self.network(pictures).argmax(1).tolist()
        return classes

    def encode_response(self, output: int) -> dict[str, int]:
        return {"class": output}


@torch.inference_mode()
def offline(device: str, seconds: float, sizes: Sequence[int]) -> dict[int, float]:
    """Predictions a second of the bare loop at each of `sizes`."""
    model = ResNet50()
    model.setup(device)
    rates = {}
    for size in sizes:
        pictures = torch.randint(0, 256, (size, SIDE, SIDE, 3), dtype=torch.uint8)
        if device.startswith("cuda"):
            pictures = pictures.pin_memory()
        for _ in range(3):
            model.predict(pictures.to(device, non_blocking=True))
        done, began = 0, time.monotonic()
        while time.monotonic() < began + seconds:
            done += len(model.predict(pictures.to(device, non_blocking=True)))
        rates[size] = done / (time.monotonic() - began)
    return rates


def main() -> None:
    device, seconds, sizes = sys.argv[1], float(sys.argv[2]), [int(n) for n in sys.argv[3:]]
    answer: dict[str, Any] = {"rates": offline(device, seconds, sizes), "name": device}
    if device.startswith("cuda"):
        answer["name"] = torch.cuda.get_device_name(device)
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
