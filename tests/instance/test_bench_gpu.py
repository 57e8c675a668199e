"""`make bench-gpu`: it runs from end to end, and says so where there is no GPU."""

import os
import re
import subprocess
import sys

import pytest

from tests.harness.late import late_or_skip
from tests.instance.conftest import ROOT

late_or_skip("torch")
pytestmark = pytest.mark.timeout(300)  # torch, in one process after the other


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )


def test_it_measures_loop_and_instance_on_the_processor_when_asked_to() -> None:
    ran = bench("--device", "cpu", "--smoke")
    assert ran.returncode == 0, ran.stderr
    lines = dict(
        re.findall(r"^(offline loop|instance|latency|batches|device) +(.*)$", ran.stdout, re.M)
    )
    assert re.match(r"[\d,]+/s at batches of \d", lines["offline loop"])
    assert re.match(r"[\d,]+/s +[\d.]+ of the loop", lines["instance"])
    assert re.match(r"p50 [\d.]+ ms, p99 [\d.]+ ms, 12 connections, 0 refused", lines["latency"])
    assert re.match(r"[1-9]\d* formed, [1-4]\.\d requests in each", lines["batches"])
    assert "not known" in lines["device"]


def test_without_a_gpu_it_is_one_line_and_exit_1() -> None:
    ran = bench()
    assert ran.returncode == 1
    assert re.fullmatch(r"bench-gpu: torch \S+ finds no CUDA device here\n", ran.stderr)
    assert ran.stdout == ""
    assert bench("--device", "mps").returncode == 1
