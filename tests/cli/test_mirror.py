"""`headgate mirror` says how often a mirror agrees, and where it does not."""

import json
from typing import Any


def known(pairs: int = 200) -> dict[str, Any]:
    """What a gateway tells of a mirror."""
    return {
        "route": "digits", "backend": "digits-cnn", "percent": 20,
        "since": "2026-11-29T10:00:00.000Z",
        "pairs": pairs, "agreement": 0.97 if pairs else None, "interval": [0.928, 0.991],
        "confidence": 0.95,
        "noise_floor": {
            "pairs": pairs, "agreement": 0.995 if pairs else None, "interval": [0.965, 1.0],
            "fields": {"/digit": {"differ": 1, "agreement": 0.995}},
        },
        "fields": {
            "/digit": {"differ": 4, "agreement": 0.98, "by": {"mean": 3.25, "max": 6.0}},
            "/label": {"differ": 2, "agreement": 0.99, "by": None},
        },
        "tolerances": {}, "learning": 0,
        "samples": [
            {"time": "2026-11-29T10:00:01.000Z", "request_id": "r1", "more": 0,
             "differs": {"/digit": {"stable": 7, "mirror": 1}, "/label": {"stable": "seven"}}}
        ],
        "verdicts": {"agree": pairs - 6, "differ": 6, "unanswered": 3, "dropped": 0},
        "compare": {},
    }  # fmt: skip


def test_a_mirror_is_told_with_its_fields_and_examples(headgate, player) -> None:
    player.mirrors["digits"] = known()
    ran = headgate("mirror", "digits")
    assert ran.code == 0
    assert "digits: digits-cnn agrees in 97 % of 200 pairs (92.8 to 99.1 %)" in ran.out
    assert "the stable version with itself agrees in 99.5 % of 200 pairs" in ran.out
    assert "3 unanswered" in ran.out
    assert "3.25, at most 6" in ran.out
    assert '"seven"' in ran.out
    assert "–" in ran.out, "what one side lacks"


def test_examples_can_be_left_out(headgate, player) -> None:
    player.mirrors["digits"] = known()
    assert '"seven"' not in headgate("mirror", "digits", "-n", "0").out


def test_one_without_pairs_says_so(headgate, player) -> None:
    player.mirrors["digits"] = {**known(0), "samples": [], "fields": {}, "noise_floor": None}
    assert "digits-cnn has no pairs yet" in headgate("mirror", "digits").out


def test_all_of_it_is_there_as_json(headgate, player) -> None:
    player.mirrors["digits"] = known()
    assert json.loads(headgate("mirror", "digits", "--json").out) == known()


def test_a_route_that_compares_nothing_is_one_line_and_exit_1(headgate, player) -> None:
    ran = headgate("mirror", "digits")
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1
