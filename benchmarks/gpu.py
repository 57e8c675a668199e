"""How much of a GPU does an instance turn into predictions, beside the bare loop?

`make bench-gpu`, or `python -m benchmarks.gpu --device cuda:0`. ResNet-50 with random weights
in half precision, through a real instance over TCP, against the best batch size of a loop
without a server on the same device, one after the other. `--device cpu --smoke` does the same
with tiny pictures on the processor: not to measure, but to see that all of it runs.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

from benchmarks.machine import PYTHON, ROOT, Running, new_folder, start, wait_for
from benchmarks.posting import Seen
from tests.harness.ports import free_port

START_S = 300  # a first import of torch with CUDA, on a cold disk
SAMPLE_MS = 200


@dataclass(frozen=True)
class Served:
    """What came of one load on the instance."""

    rate: float
    p50: float
    p99: float
    failed: int
    batches: int
    mean_batch: float
    utilisation: list[int]


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--seconds", type=float, default=20, help="of the load on the instance")
    parser.add_argument("--batch", type=int, default=32, help="the instance's largest batch")
    parser.add_argument("--connections", type=int, help="by default three for each of a batch")
    parser.add_argument("--side", type=int, default=224, help="of a picture, in pixels")
    parser.add_argument("--smoke", action="store_true", help="tiny and short, to see that it runs")
    options = parser.parse_args(given)
    if options.smoke:
        options.side, options.seconds, options.batch = 32, 1.0, 4
    options.connections = options.connections or 3 * options.batch
    return options


def why_not(device: str) -> str:
    """Why `device` cannot be measured here, in one line; empty when it can."""
    if find_spec("torch") is None:
        return "torch is not installed"
    if device.startswith("cuda"):
        import torch  # takes seconds

        if not torch.cuda.is_available():
            return f"torch {torch.__version__} finds no CUDA device here"
        if int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
            return f"there is no {device}: torch finds {torch.cuda.device_count()}"
    elif device != "cpu":
        return f"{device} is not measured here, only cuda:N (and cpu, to try it)"
    return ""


def offline(device: str, seconds: float, sizes: Sequence[int]) -> tuple[dict[int, float], str]:
    """(the bare loop's rate by batch size, the device's name)."""
    command = [PYTHON, "-m", "benchmarks.models.resnet50", device, str(seconds), *map(str, sizes)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    answer = json.loads(done.stdout)
    return {int(size): rate for size, rate in answer["rates"].items()}, answer["name"]


def served(options: argparse.Namespace) -> Served:
    """What clients of a real instance get from the same device."""
    port, folder = free_port(), new_folder()
    picture = folder / "picture"
    picture.write_bytes(os.urandom(3 * options.side**2))
    running = start(
        [
            PYTHON, "-m", "instance", "benchmarks.models.resnet50:ResNet50",
            "--host", "127.0.0.1", "--port", str(port), "--device", options.device,
            "--max-batch-size", str(options.batch),
        ],
        folder,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{url}/health/ready", running, START_S)
        _load(url, picture, options.connections, min(3.0, options.seconds))
        before = _batches(url)
        with sampled(options.device) as utilisation:
            seen = _load(url, picture, options.connections, options.seconds)
        count, total = (after - past for after, past in zip(_batches(url), before, strict=True))
    except Exception as error:
        raise RuntimeError(f"{error}\n{_tail(running)}") from error
    finally:
        running.stop()
    if len(seen.took) < 2:
        raise RuntimeError(f"{len(seen.took)} requests were answered, {seen.failed} refused")
    cuts = statistics.quantiles(seen.took, n=100, method="inclusive")
    return Served(
        seen.in_time / options.seconds, cuts[49], cuts[98], seen.failed, int(count),
        total / max(count, 1), utilisation,
    )  # fmt: skip


def _load(url: str, picture: Path, connections: int, seconds: float) -> Seen:
    """What `connections` see, shared by as many processes as there is room for: one Python
    cannot send what a GPU can take."""
    processes = max(1, min(4, connections, (os.cpu_count() or 1) // 4))
    shares = [connections // processes + (n < connections % processes) for n in range(processes)]
    started = [
        subprocess.Popen(
            [PYTHON, "-m", "benchmarks.posting", f"{url}/predict", str(picture), str(share),
             str(seconds)],
            cwd=ROOT, stdout=subprocess.PIPE, text=True,
        )
        for share in shares
    ]  # fmt: skip
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise RuntimeError("a client failed; what it said is above")
    all_seen = Seen()
    for text in said:
        one = Seen(**json.loads(text))
        all_seen.took += one.took
        all_seen.in_time += one.in_time
        all_seen.failed += one.failed
    return all_seen


def _batches(url: str) -> tuple[float, float]:
    """(batches so far, requests in them)."""
    with urlopen(f"{url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    values = [re.search(rf"^instance_batch_size_{n} (\S+)$", text, re.M) for n in ("count", "sum")]
    count, total = (float(value[1]) if value else 0.0 for value in values)
    return count, total


@contextmanager
def sampled(device: str) -> Iterator[list[int]]:
    """Per cent of time in which the GPU computed, sampled meanwhile; stays empty where there
    is none to ask about."""
    values: list[int] = []
    tool = shutil.which("nvidia-smi")
    if tool is None or not device.startswith("cuda"):
        yield values
        return
    number = int(device.partition(":")[2] or 0)
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    which = names[number] if number < len(names) else str(number)
    process = subprocess.Popen(
        [tool, "-i", which, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits",
         "-lms", str(SAMPLE_MS)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip

    def read() -> None:
        assert process.stdout is not None
        values.extend(int(line) for line in process.stdout if line.strip().isdigit())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield values
    finally:
        process.terminate()
        process.wait()
        reader.join()


def _tail(running: Running) -> str:
    log = running.folder / "log"
    return log.read_text(errors="replace")[-2000:] if log.exists() else ""


def report(name: str, rates: dict[int, float], got: Served, options: argparse.Namespace) -> str:
    """What is printed at the end."""
    best = max(rates, key=lambda size: rates[size])
    loop = ", ".join(f"{size}: {rate:,.0f}/s" for size, rate in rates.items())
    busy = "not known (nvidia-smi says nothing)"
    if got.utilisation:
        low = min(got.utilisation)
        busy = f"{statistics.mean(got.utilisation):.0f} % on average, {low} % at least"
    return "\n".join(
        [
            f"ResNet-50, {options.side}×{options.side}, random weights, on {name}",
            f"offline loop    {rates[best]:10,.0f}/s at batches of {best}   ({loop})",
            f"instance        {got.rate:10,.0f}/s   {got.rate / rates[best]:.2f} of the loop",
            f"latency         p50 {got.p50:.1f} ms, p99 {got.p99:.1f} ms, "
            f"{options.connections} connections, {got.failed} refused",
            f"batches         {got.batches} formed, {got.mean_batch:.1f} requests in each",
            f"device          {busy}",
        ]
    )


def main(given: Sequence[str] | None = None) -> int:
    # nvidia-smi counts devices as the bus does; CUDA only when it is told to.
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    options = _arguments(given)
    if reason := why_not(options.device):
        print(f"bench-gpu: {reason}", file=sys.stderr)
        return 1
    os.environ["BENCH_SIDE"] = str(options.side)
    sizes = sorted({max(1, options.batch // 4), options.batch, 2 * options.batch})
    try:
        rates, name = offline(options.device, min(5.0, options.seconds), sizes)
        got = served(options)
    except (RuntimeError, subprocess.CalledProcessError) as error:
        print(f"bench-gpu: {error}", file=sys.stderr)
        return 1
    print(report(name, rates, got, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
