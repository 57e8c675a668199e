"""For all tests: nothing that they start outlives them, Ctrl-C reaches what they start, no
pause of this process is taken for one of what it tests, and nothing is compiled twice."""

import gc
import os
import re
import signal
import sys
from pathlib import Path

import pytest

# Images for CI like to forbid compiled files. Then pytest would compile every test again in each
# of its workers, and each gateway and instance its whole program at every start: a third of the
# processor time of all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

MEASURED = re.compile(r"(?<!not )\b(?:paced|alone)\b")
REQUIREMENTS = Path(__file__).parent / "requirements"
COMPOSE = Path(__file__).parent / "compose"

pytest_plugins = ["tests.harness.orphans"]

# A shell lets what it starts in the background ignore SIGINT, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """On a busy machine one case of a property takes a thousand times as long as the next."""
    if not MEASURED.search(config.option.markexpr):  # those have no properties
        from hypothesis import HealthCheck, settings

        slow = [HealthCheck.too_slow]
        settings.register_profile("unhurried", deadline=None, suppress_health_check=slow)
        settings.load_profile("unhurried")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file that does not speak of the marks that are asked for is not loaded: torch and all
    that other files need take longer than many a test. Requirements are marked by their folder."""
    if "not compose" in config.option.markexpr and collection_path == COMPOSE:
        return True
    wanted = MEASURED.findall(config.option.markexpr)
    if not wanted or collection_path.suffix != ".py" or collection_path.parent == REQUIREMENTS:
        return None
    text = collection_path.read_text(encoding="utf-8")
    return None if any(f"mark.{mark}" in text for mark in wanted) else True


def pytest_collection_finish() -> None:
    # Half a million objects are there to stay: to walk through them takes a third of a second,
    # in which the clients of a test stand still.
    gc.collect()
    gc.freeze()
