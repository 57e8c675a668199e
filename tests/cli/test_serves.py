"""`--wait`: until `headgate up` has done what an edit asks for."""

from typing import Any

import pytest

from gateway.cli.refusals import Refusal
from gateway.cli.serves import until_done


class Seen:
    """Looks at a fleet, one after another; the last one stays."""

    def __init__(self, *looks: tuple[int, dict[str, Any]]) -> None:
        self.looks, self.now, self.shown = list(looks), 0.0, []

    def __call__(self) -> dict[str, Any]:
        revision, backends = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return {"revision": revision, "backends": backends}

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, *backends: str, timeout_s: float | None = None) -> list[str]:
        until_done(
            self, 7, dict.fromkeys(backends, "will be"), timeout_s=timeout_s,
            show=lambda name, state: self.shown.append(f"{name} {state}"),
            clock=lambda: self.now, sleep=self.sleep,
        )  # fmt: skip
        return self.shown


def state(word: str, error: str | None = None) -> dict[str, Any]:
    return {"state": word, "error": error, "processes": []}


def test_it_waits_until_the_edit_is_taken_up_and_done() -> None:
    seen = Seen(
        (6, {"m": state("ready")}),
        (7, {"m": state("starting"), "gone": state("stopping")}),
        (8, {"m": state("ready")}),
    )
    assert seen.wait("m", "gone") == ["m starting", "gone stopping", "m ready", "gone stopped"]


def test_what_cannot_start_is_refused_with_its_own_words() -> None:
    with pytest.raises(Refusal, match=r"^m: model m:X could not be started: no weights$"):
        Seen((7, {"m": state("failed", "model m:X could not be started: no weights")})).wait("m")


def test_what_takes_too_long_is_named() -> None:
    with pytest.raises(Refusal, match=r"^not done after 3 s: m is starting$"):
        Seen((7, {"m": state("starting")})).wait("m", timeout_s=3)
