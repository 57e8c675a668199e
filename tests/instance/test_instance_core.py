"""Deadlines, pace, life cycle and frames, without processes."""

from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instance.core.deadlines import deadline_of
from instance.core.errors import KINDS, Fault, Problem
from instance.core.lifecycle import WORKER, Backoff, Signal, State, after, is_ready
from instance.core.pacing import Pace
from instance.devices import inside, parse_devices, visible
from instance.settings import Settings, parse_duration, parse_size
from instance.wire.frames import INLINE_MAX, Decoder, found, pack, place


@pytest.mark.parametrize(("text", "deadline"), [(None, inf), ("250", 10.25), ("0", 10.0)])
def test_a_deadline_counts_from_arrival(text: str | None, deadline: float) -> None:
    assert deadline_of(text, 10.0) == deadline


@pytest.mark.parametrize("text", ["", "-1", "1.5", "soon", "²", "9" * 13])
def test_a_deadline_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whole number of milliseconds"):
        deadline_of(text, 0.0)


def test_pace_finds_the_cost_of_an_item_and_of_a_batch() -> None:
    pace = Pace()
    for n in (1, 8, 32, 4, 16):
        pace.learn(n, 0.010 + 0.002 * n)
    per_item, fixed = pace.line()
    assert per_item == pytest.approx(0.002)
    assert fixed == pytest.approx(0.010)
    assert pace.seconds(20) == pytest.approx(0.050)
    assert pace.largest_within(0.050, 32) == 20
    assert pace.largest_within(1.0, 32) == 32
    assert pace.largest_within(0.001, 32) == 1


def test_pace_before_and_with_one_size_of_batch() -> None:
    pace = Pace()
    assert (pace.seconds(8), pace.wait_s(5, 1, 1, 8)) == (0.0, 0.0)
    pace.learn(4, 0.4)
    assert pace.line() == (pytest.approx(0.1), 0.0)


def test_what_the_first_batch_took_is_forgotten_with_the_second() -> None:
    pace = Pace()
    pace.learn(1, 5.0)
    assert pace.seconds(1) == 5.0
    pace.learn(1, 0.02)
    pace.learn(1, 0.02)
    assert pace.seconds(1) == pytest.approx(0.02)


def test_a_slower_model_is_believed_within_some_batches() -> None:
    pace = Pace()
    for _ in range(100):
        pace.learn(1, 0.01)
    for _ in range(60):
        pace.learn(1, 0.1)
    assert pace.seconds(1) > 0.09


def test_the_expected_wait_grows_with_the_queue_and_falls_with_workers() -> None:
    pace = Pace()
    pace.learn(1, 0.1)
    assert pace.wait_s(0, 0, 1, 1) == 0.0
    assert pace.wait_s(0, 1, 1, 1) == pytest.approx(0.05)
    assert pace.wait_s(10, 1, 1, 1) == pytest.approx(1.05)
    assert pace.wait_s(10, 2, 2, 1) == pytest.approx(0.55)
    assert pace.wait_s(0, 1, 2, 1) == 0.0


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0, 10)), min_size=1, max_size=50))
def test_no_history_gives_a_negative_estimate(history: list[tuple[int, float]]) -> None:
    pace = Pace()
    for n, seconds in history:
        pace.learn(n, seconds)
    assert min(pace.line()) >= 0.0
    assert 1 <= pace.largest_within(0.5, 64) <= 64


def play(signals: str) -> str:
    """States by first letters, after each of start, warm, exit, Stop (`w`, `x`, `s`, `S`)."""
    names = {"s": Signal.START, "w": Signal.WARM, "x": Signal.EXIT, "S": Signal.STOP}
    state, seen = State.DOWN, ""
    for letter in signals:
        state = after(state, names[letter])
        seen += {"starting": "g", "ready": "r", "down": "d", "stopping": "p", "stopped": "."}[state]
    return seen


def test_the_life_of_a_worker() -> None:
    assert play("swxswSx") == "grdgrp."
    assert play("sxS") == "gd."
    assert play("sSx") == "gp."


def test_a_signal_that_cannot_come_raises() -> None:
    with pytest.raises(KeyError):
        after(State.READY, Signal.START)
    assert all(isinstance(state, State) for state in WORKER.values())


def test_back_off_is_none_at_first_then_doubles_and_forgets() -> None:
    backoff, delays = Backoff(), []
    for _ in range(9):
        backoff = backoff.failed(lived_s=0.0)
        delays.append(backoff.delay_s)
    assert delays == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert backoff.failed(lived_s=60.0).delay_s == 0.0


def test_only_who_was_never_ready_fails_to_start() -> None:
    backoff = Backoff().failed(lived_s=0.0).failed(lived_s=0.0)
    assert backoff.never_ready == 2
    died = backoff.failed(lived_s=0.1)
    assert (died.never_ready, died.failures) == (0, 3)


def test_ready_means_all_at_first_and_any_later() -> None:
    half = [State.READY, State.DOWN]
    assert not is_ready(half, was_ready=False, draining=False, healthy=True)
    assert is_ready(half, was_ready=True, draining=False, healthy=True)
    assert not is_ready(half, was_ready=True, draining=True, healthy=True)
    assert not is_ready([State.READY], was_ready=True, draining=False, healthy=False)
    assert not is_ready([State.DOWN], was_ready=True, draining=False, healthy=True)


FRAMES = st.lists(
    st.tuples(
        st.tuples(st.integers(), st.text(max_size=20), st.binary(max_size=300)),
        st.lists(st.integers(INLINE_MAX + 1, 3 * INLINE_MAX), max_size=3),
    ),
    max_size=5,
)


@settings(deadline=None, max_examples=40)
@given(FRAMES, st.sampled_from([499, 4_096, 65_536, 300_000]))
def test_frames_survive_any_cut(frames: list[tuple[tuple, list[int]]], cut: int) -> None:
    sent = [(message, [bytes([i]) * size for i, size in enumerate(sizes)])
            for message, sizes in frames]  # fmt: skip
    stream = b"".join(b"".join(pack(message, list(blobs))) for message, blobs in sent)
    decoder, got, at = Decoder(), [], 0
    while at < len(stream):
        view = decoder.buffer()
        count = min(cut, len(view), len(stream) - at)
        view[:count] = stream[at : at + count]
        at += count
        view.release()
        got += decoder.updated(count)
    assert [(message, [bytes(blob) for blob in blobs]) for message, blobs in got] == sent


def test_large_bodies_travel_beside_the_header() -> None:
    blobs: list = []
    small, large = b"x" * INLINE_MAX, b"y" * (INLINE_MAX + 1)
    assert place(small, blobs) == small
    assert place(large, blobs) == 0
    assert found(0, [bytearray(large)]) == large


def test_problems_say_what_the_contract_says() -> None:
    problem = Problem("invalid_request", "no", faults=[Fault("/a", "missing", "Field required")])
    document = problem.document("id")
    assert document["status"] == 422
    assert document["request_id"] == "id"
    assert document["errors"] == [{"pointer": "/a", "code": "missing", "detail": "Field required"}]
    assert Problem("refused", "no", status=418).status_code == 418
    assert all(kind.code == code for code, kind in KINDS.items())


def test_a_worker_sees_only_its_own_gpu() -> None:
    assert visible("cuda:1", {}) == {"CUDA_VISIBLE_DEVICES": "1"}
    assert visible("cuda:1", {"CUDA_VISIBLE_DEVICES": "4,7"}) == {"CUDA_VISIBLE_DEVICES": "7"}
    assert visible("cpu", {}) == {"CUDA_VISIBLE_DEVICES": ""}
    assert visible("auto", {}) == {}
    assert inside("cuda:3") == "cuda:0"
    assert parse_devices("cpu, cuda:1") == ("cpu", "cuda:1")
    with pytest.raises(ValueError, match="'gpu' is no device"):
        parse_devices("gpu")


def test_settings_read_durations_and_sizes_and_give_workers_their_share() -> None:
    assert [parse_duration(text) for text in ("2ms", "0.5", "1m")] == [0.002, 0.5, 60.0]
    assert [parse_size(text) for text in ("1KiB", "3")] == [1024, 3]
    many = Settings("m:M", devices=("cpu", "cuda:0"), workers=2, threads=3)
    assert many.worker_devices() == ("cpu", "cpu", "cuda:0", "cuda:0")
    assert many.worker_threads() == 3


def test_a_queue_is_as_long_as_the_wait_is_within_reason_unless_its_length_is_said() -> None:
    def bounds(size: int, **settings: Any) -> tuple[int, int, float]:
        policy = Settings("m:M", **settings).queue_policy(size, 0.0)
        return policy.sure_queue, policy.max_queue, policy.max_wait_s

    assert bounds(1) == (64, 1024, 30.0)
    assert bounds(64) == (128, 1024, 30.0)
    assert bounds(64, workers=10) == (1280, 1280, 30.0)
    assert bounds(64, max_queue=3) == (3, 3, 30.0)
    assert bounds(1, max_wait_s=0.0) == (64, 1024, inf)
