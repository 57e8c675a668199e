"""scale, reload, restart and logs, where nobody starts processes or nothing is meant.

With real processes they are tried in tests/processes/test_reconciling.py.
"""

import pytest
from click import UsageError

from gateway.cli.processes import parse_counts


def test_counts_are_read_word_by_word() -> None:
    assert parse_counts(["digits-cnn=3", "a=b=1"]) == [("digits-cnn", 3), ("a=b", 1)]


@pytest.mark.parametrize("word", ["digits-cnn", "=3", "digits-cnn=-1", "digits-cnn=x", "a=999"])
def test_what_is_no_count_is_said(word: str) -> None:
    with pytest.raises(UsageError, match="must be BACKEND=N, such as digits-cnn=3"):
        parse_counts([word])


@pytest.mark.parametrize("command", [("scale", "digits-cnn=2"), ("reload", "digits-cnn")])
def test_a_gateway_that_starts_nothing_refuses(headgate, player, command) -> None:
    revision = player.revision
    ran = headgate(*command)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "headgate: this gateway starts no instances; `headgate up` does\n"
    assert player.revision == revision


def test_a_backend_that_is_not_there_is_named_with_the_nearest(headgate, player) -> None:
    ran = headgate("scale", "digits-cn=2")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "headgate: there is no backend 'digits-cn' (did you mean digits-cnn?)\n"
