"""What a backend asks of a cluster, and the words for what it does not get."""

import pytest

from gateway.core.cluster import Needs, Seat, free_index, needs, parse_seat, seat, shortage, taken

GIB = 1 << 30


def test_serve_says_what_a_replica_takes_of_its_host() -> None:
    assert needs({"model": "m:M"}) == Needs(0, 1, 0)
    said = {"model": "m:M", "gpus": 2, "cpus": 4, "memory": "8GiB"}
    assert needs(said) == Needs(2, 4, 8 * GIB)
    assert needs({"model": "m:M", "memory": "auto"}).memory == 0


def test_a_replica_is_known_by_a_name_that_says_which_it_is() -> None:
    one = seat("digits-cnn", '{"model": "m:M"}#3', 1)
    assert (one.backend, one.turn, one.index) == ("digits-cnn", 3, 1)
    assert parse_seat(one.name) == one
    assert seat("digits-cnn", '{"model": "m:N"}#3', 1).digest != one.digest


@pytest.mark.parametrize("name", ["", "a", "a/b", "a/b/1", "a/b.x/1", "a/b.1/x", "/b.1/1"])
def test_other_names_are_no_replicas(name: str) -> None:
    assert parse_seat(name) is None


def test_the_first_free_place_is_taken() -> None:
    assert free_index([]) == 0
    assert free_index([0, 1, 3]) == 2


@pytest.mark.parametrize(
    ("asked", "free", "words"),
    [
        (Needs(1, 1), {"GPU": 0, "CPU": 8}, "a needs 1 GPU; 0 of 6 are free"),
        (Needs(2, 1), {"GPU": 1, "CPU": 8}, "a needs 2 GPUs; 1 of 6 is free"),
        (Needs(0, 4), {"CPU": 2.5}, "a needs 4 CPUs; 2.5 of 16 are free"),
        (
            Needs(0, 1, 8 * GIB),
            {"CPU": 8, "memory": 4 * GIB},
            "a needs 8.0 GiB of memory; 4.0 GiB of 64.0 GiB are free",
        ),
        (
            Needs(4, 2),
            {"GPU": 6, "CPU": 16},
            "a needs 4 GPUs and 2 CPUs on one host; no host has that",
        ),
        (Needs(3, 2), {"GPU": 4, "CPU": 16}, ""),
    ],
)
def test_what_is_missing_is_one_clear_line(
    asked: Needs, free: dict[str, float], words: str
) -> None:
    host = {"GPU": 3.0, "CPU": 8.0, "memory": 32.0 * GIB}
    total = {kind: 2 * amount for kind, amount in host.items()}
    assert shortage("a", asked, total, free, [host, host], {})[0] == words


@pytest.mark.parametrize(
    ("total", "ours", "sure"),
    [
        (0, 0, True),  # there is none at all
        (2, 2, True),  # all are those that run
        (2, 1, False),  # one is somebody else's, or its own already
    ],
)
def test_what_may_be_its_own_already_is_no_sure_shortage(
    total: float, ours: float, sure: bool
) -> None:
    words, is_sure = shortage(
        "a", Needs(1, 1), {"GPU": total, "CPU": 8}, {"GPU": 0, "CPU": 8}, [], {"GPU": ours}
    )
    assert words == f"a needs 1 GPU; 0 of {total:g} are free"
    assert is_sure is sure


def test_what_runs_has_so_much_together() -> None:
    assert taken([Needs(1, 2, GIB), Needs(0, 1)]) == {"GPU": 1, "CPU": 3, "memory": GIB}


def test_a_seat_is_a_value() -> None:
    assert Seat("a", "0f", 0, 0).name == "a/0f.0/0"
