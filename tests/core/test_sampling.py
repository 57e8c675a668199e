"""Which requests are written to the access log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from gateway.core.sampling import EVERY, Sampling, draw

TENTH = Sampling(percent=10.0, slow_s=1.0)
IDS = [
    b"%032x" % (number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128) for number in range(1, 5001)
]


def written(
    sampling: Sampling, request_id: bytes, target=b"/x", status=200, reason="", seconds=0.01
):
    return sampling.percent_of(request_id, target, status, reason, seconds)


def test_of_ordinary_requests_the_share_is_written_and_says_for_how_many_it_stands() -> None:
    shares = [written(TENTH, request_id) for request_id in IDS]
    assert set(shares) == {0.0, 10.0}
    assert sum(100 / share for share in shares if share) == pytest.approx(len(IDS), rel=0.1)


@pytest.mark.parametrize(
    "outcome",
    [
        {"status": 500},
        {"status": 503, "reason": "queue_full"},
        {"status": 404, "reason": "no_route"},
        {"status": 499, "reason": "client_left"},
        {"status": 200, "reason": "upstream_broke"},
        {"seconds": 1.0},
    ],
)
def test_what_failed_was_refused_or_was_slow_is_always_written(outcome) -> None:
    assert {written(TENTH, request_id, **outcome) for request_id in IDS[:200]} == {100.0}


def test_an_instances_complaint_about_a_request_is_ordinary() -> None:
    assert 0.0 in {written(TENTH, request_id, status=422) for request_id in IDS[:200]}


@given(st.binary(min_size=1, max_size=40))
def test_an_id_is_decided_the_same_way_everywhere(request_id: bytes) -> None:
    assert written(TENTH, request_id) == written(Sampling(10.0, 5.0), request_id)
    assert 0 <= draw(request_id) < 1 << 64


@given(st.binary(min_size=1, max_size=40), st.floats(0.01, 99), st.floats(0.01, 99))
def test_a_larger_share_holds_all_of_a_smaller_one(
    request_id: bytes, one: float, two: float
) -> None:
    less, more = sorted((one, two))
    if written(Sampling(less), request_id):
        assert written(Sampling(more), request_id) == more


def test_the_share_is_the_one_that_opentelemetry_samples() -> None:
    sampler = TraceIdRatioBased(0.1)
    for request_id in IDS[:500]:
        chosen = sampler.should_sample(None, int(request_id, 16), "x").decision.is_sampled()
        assert chosen == bool(written(TENTH, request_id))


def test_ids_of_any_form_are_spread_evenly() -> None:
    count = sum(bool(written(TENTH, b"order-%d" % number)) for number in range(5000))
    assert 400 < count < 600


def test_a_good_health_answer_is_never_written_and_a_bad_one_always() -> None:
    for sampling in (EVERY, TENTH):
        assert written(sampling, IDS[0], b"/-/health") == 0.0
        assert written(sampling, IDS[0], b"/-/health?lb=1", seconds=5.0) == 0.0
        assert written(sampling, IDS[0], b"/-/health", 503, "draining") == 100.0
    assert written(EVERY, IDS[0], b"/-/healthy") == 100.0
    assert written(EVERY, IDS[0], b"/-/openapi.json") == 100.0
