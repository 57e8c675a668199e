"""Do edits, deaths, probes and requests leave control process and workers in agreement, whatever
their order? Tried in a time of its own, by the thousand (`make soak`), a few each time."""

import pytest

from tests.simulation.history import History

SOAKED = 1000
EACH = 25


@pytest.mark.parametrize("seed", range(1, 13))
def test_whatever_happens_no_edit_request_or_evidence_is_lost(seed: int) -> None:
    history = History(seed, 20.0).run()
    assert history.counts["200"] > 0.8 * sum(history.counts.values())


def test_one_seed_gives_one_history() -> None:
    one, again = (History(1, 20.0).run() for _ in range(2))
    assert (one.lines, one.counts) == (again.lines, again.counts)


@pytest.mark.soak
@pytest.mark.parametrize("first", range(1, SOAKED, EACH))
def test_a_thousand_histories(first: int) -> None:
    for seed in range(first, first + EACH):
        History(seed, 60.0).run()
