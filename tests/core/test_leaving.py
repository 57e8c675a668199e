"""How a worker leaves, in every order in which it may hear of its end."""

from functools import reduce
from itertools import product
from typing import get_args

import pytest

from gateway.core.leaving import FAULT_DRAIN_S, Event, Leaving

EVENTS: tuple[Event, ...] = get_args(Event)
ORDERS = [order for length in range(5) for order in product(EVENTS, repeat=length)]


def after(*events: Event) -> Leaving:
    return reduce(Leaving.after, events, Leaving())


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_only_who_is_told_twice_to_end_cuts_off_what_it_has(order: tuple[Event, ...]) -> None:
    heard = after(*order)
    told = order.count("told") + order.count("interrupted")
    assert heard.is_hurried == (told > 1)
    assert heard.has_begun == bool(order)
    # Where another gateway accepts on the same sockets, or a part failed, nobody is accepted.
    assert heard.accepts == (not {"replaced", "failed"} & {*order})
    lame_duck_s, drain_s = heard.limits_s(2.0, 20.0)
    assert drain_s == (FAULT_DRAIN_S if "failed" in order else 20.0)
    assert (lame_duck_s == 0.0) == bool({"failed", "interrupted"} & {*order})


def test_who_fails_takes_no_longer_than_the_settings_allow() -> None:
    assert after("failed").limits_s(2.0, 1.0) == (0.0, 1.0)
