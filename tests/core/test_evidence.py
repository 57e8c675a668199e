"""Whoever has seen the same comes to the same states, in whatever order it was told."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.evidence import MAX_UNSETTLED, SETTLED_S, Evidence, Signal, by_backend
from gateway.core.health import UNKNOWN, HealthState, serving
from gateway.core.table import Backend, Eject, Health

CONFIG = Backend("b", health=Health(rise=2, fall=3), eject=Eject(failures=3, base_s=5.0))
NAMES = ("reset", "timeout", "error", "success", "refused", "ready", "late", "probe_refused")
ADDRESSES = ("a:1", "b:1", "c:1", "d:1")
UP = HealthState("up", good=2, is_new=False)


def evidence(*addresses: str) -> Evidence:
    made = Evidence()
    for address in addresses or ADDRESSES:
        made.set(address, UP)
    made.judge_by(CONFIG, frozenset(addresses or ADDRESSES), 0.0)
    return made


def note(here: Evidence, signals: list[Signal]) -> None:
    for at, address, name in signals:
        here.note(address, name, at)


SEEN = st.lists(
    st.builds(
        Signal,
        st.floats(0.0, SETTLED_S * 0.9).map(lambda at: round(at, 3)),
        st.sampled_from(ADDRESSES),
        st.sampled_from(NAMES),
    ),
    max_size=30,
    unique=True,
)


@given(SEEN, st.randoms(use_true_random=False))
def test_r31_the_order_of_arrival_does_not_matter(
    seen: list[Signal], chance: random.Random
) -> None:
    one, other = evidence(), evidence()
    one.merge(sorted(seen))
    mixed = list(seen)
    chance.shuffle(mixed)
    while mixed:
        count = chance.randint(1, len(mixed))
        other.merge(mixed[:count])
        del mixed[:count]
    assert other.states == one.states


@given(SEEN)
def test_what_is_told_twice_counts_once(seen: list[Signal]) -> None:
    one, other = evidence(), evidence()
    one.merge(seen)
    other.merge(seen)
    other.merge(seen)
    assert other.states == one.states


@given(SEEN, st.integers(0, 30))
def test_who_comes_late_is_told_enough(seen: list[Signal], split: int) -> None:
    here, late = evidence(), Evidence()
    late.judge_by(CONFIG, frozenset(ADDRESSES), 0.0)
    here.merge(seen[:split])
    states, signals = here.as_of(SETTLED_S)
    late.load(states, signals, SETTLED_S)
    here.merge(seen[split:])
    late.merge(seen[split:])
    assert late.states == here.states


@given(
    SEEN,
    st.integers(0, 30),
    st.frozensets(st.sampled_from(ADDRESSES)),
    st.sampled_from((CONFIG.eject, Eject(failures=1), Eject(failures=5, base_s=1.0))),
)
def test_r31_an_edit_that_comes_before_what_was_seen_or_after_it_ends_alike(
    seen: list[Signal], split: int, instances: frozenset[str], eject: Eject
) -> None:
    edited, early, late = replace(CONFIG, eject=eject), evidence(), evidence()
    early.judge_by(edited, instances, SETTLED_S)
    early.merge(seen)
    late.merge(seen[:split])
    before = late.states
    changed = late.judge_by(edited, instances, SETTLED_S)
    assert changed == {key: each for key, each in late.states.items() if each != before[key]}
    late.merge(seen[split:])
    assert late.states == early.states


def test_an_edit_leaves_alone_what_was_seen_long_before() -> None:
    here = evidence("a:1")
    note(here, [Signal(1.0 + n / 10, "a:1", "reset") for n in range(3)])
    assert here.states["a:1"].ejections == 0, "the only one is never ejected"
    here.set("b:1", UP)
    assert here.judge_by(CONFIG, frozenset(("a:1", "b:1")), 1.3 + SETTLED_S) == {}
    here.merge([Signal(1.4 + SETTLED_S, "b:1", "success")])
    assert here.states["a:1"].ejections == 0


def test_r31_two_workers_that_each_saw_a_part_eject_together() -> None:
    one, other = evidence(), evidence()
    mine = [Signal(1.0, "a:1", "reset"), Signal(1.2, "a:1", "reset")]
    theirs = [Signal(1.1, "a:1", "reset")]
    note(one, mine)
    note(other, theirs)
    assert one.states["a:1"].ejections == other.states["a:1"].ejections == 0
    assert set(one.merge(theirs)) == set(other.merge(mine)) == {"a:1"}
    assert one.states == other.states
    assert one.states["a:1"].ejected_until == pytest.approx(6.2)
    assert one.has_ejected("a:1"), "and it is counted by one of them"
    assert not other.has_ejected("a:1")


def test_r31_all_workers_spare_the_same_half() -> None:
    """At most half of a backend is out: which half is a matter of time alone."""
    one, other = evidence("a:1", "b:1"), evidence("a:1", "b:1")
    first = [Signal(1.0 + step / 10, "a:1", "reset") for step in range(3)]
    second = [Signal(1.01 + step / 10, "b:1", "reset") for step in range(3)]
    note(one, first)
    note(other, second)
    assert other.states["b:1"].ejections == 1, "as far as it knows"
    one.merge(second)
    other.merge(first)
    assert one.states == other.states
    assert [one.states[address].ejections for address in ("a:1", "b:1")] == [1, 0]


def test_what_is_no_news_is_not_told() -> None:
    here = evidence()
    assert here.note("a:1", "success", 1.0) is None
    assert here.note("unknown:1", "reset", 1.0) is None
    assert here.note("a:1", "ready", 1.0) is None
    assert here.note("a:1", "reset", 1.1) == Signal(1.1, "a:1", "reset")
    assert here.states["a:1"].failures == 1
    assert here.note("a:1", "success", 1.2) is not None
    assert here.states["a:1"] == UP


def test_what_comes_in_one_moment_is_told_apart() -> None:
    one, other = evidence(), evidence()
    other.merge([seen for _ in range(3) if (seen := one.note("a:1", "reset", 1.0)) is not None])
    assert one.states == other.states
    assert one.states["a:1"].ejections == 1


def test_nothing_is_known_of_who_is_not_there() -> None:
    here = evidence()
    here.merge([Signal(1.0, "new:1", "ready")])
    assert "new:1" not in here.states


def test_r57_an_instance_that_is_added_again_starts_clean() -> None:
    here = evidence()
    here.note("a:1", "timeout", 1.0)
    here.forget("a:1")
    here.set("a:1")
    here.merge([Signal(1.1, "b:1", "reset")])
    assert here.states["a:1"] == UNKNOWN


def test_a_storm_is_bounded() -> None:
    here = evidence()
    for step in range(1000):
        here.note("a:1", "reset" if step % 2 else "success", 1.0 + step / 10_000)
    assert len(here.as_of(1.1)[1]) <= MAX_UNSETTLED


def test_signals_cross_a_channel() -> None:
    told = [["b", 1.0, "a:1", "reset"], ["c", 2.0, "x:1", "late"], ["b", 3.0, "a:1", "success"]]
    assert by_backend(told) == {
        "b": [Signal(1.0, "a:1", "reset"), Signal(3.0, "a:1", "success")],
        "c": [Signal(2.0, "x:1", "late")],
    }


SIGNALS = {
    "r": "ready", "u": "unready", "l": "late", "x": "probe_refused", "t": "probe_unreachable",
    "F": "reset", "T": "timeout", "E": "error", "X": "refused", "U": "unreachable",
    "A": "turned_away", "s": "success", "b": "alive",
}  # fmt: skip


def served(script: str, *others: str) -> str:
    """What `a:1` gets after each step beside the `others`, which are well: + its share, ~ only what
    nobody else can take, - nothing. Digits are seconds."""
    here = Evidence()
    here.judge_by(Backend("b"), frozenset(("a:1", *others)), 0.0)
    for address in here.instances:
        here.set(address, UP)
    now, found = 1.0, ""
    for step in script:
        if step.isdigit():
            now += int(step)
        else:
            now += 0.01
            here.note("a:1", SIGNALS[step], now)
        words = {key: each.word for key, each in here.states.items()}
        out = frozenset(key for key, each in here.states.items() if each.ejected_until > now)
        is_avoided = here.states["a:1"].avoid_until > now
        found += "-" if "a:1" not in serving(words, out) else "~" if is_avoided else "+"
    return found


@pytest.mark.parametrize(
    ("script", "gets"),
    [
        ("Xxxx9rr", "~~~---+"),  # R24: killed; it comes back after two good probes
        ("Xu9urr", "~----+"),  # R24: killed, and a new process loads at once
        ("lll9rr", "++---+"),  # R25: stopped, and goes on
        ("TT1rr", "+----"),  # R25: its requests end at their deadlines; ejected
        ("TT9s", "+-++"),
        ("FsFsFsFs", "++++++++"),  # R26: resets now and then
        ("TTr9Ts", "+--+--"),  # R27: drips; on trial after five seconds, out for ten
        ("UUUUU9s", "~~~~-++"),  # R28: a black hole, that requests meet first
        ("ttt9rr", "++---+"),  # R28: and that the probes meet first
        ("XsXsXsXs", "~+~+~+~+"),  # R29: flaps
        ("xrxrxr", "++++++"),
        ("Xu9uuu9Xurr", "~---------+"),  # R30: a crash loop, nothing before it is ready
        ("EEEEE1s", "++++~~+"),  # R31: fails fast
        ("FFFFF1", "++++--"),
        ("AAs", "~~+"),  # R69: leaves
    ],
)
def test_r24_to_r31_what_an_instance_gets_beside_one_that_is_well(script: str, gets: str) -> None:
    assert served(script, "b:1") == gets


@pytest.mark.parametrize(
    ("script", "gets"),
    [
        ("FFFFFFFF", "++++~~~~"),  # R31: the last one is never ejected
        ("xxxr9r", "++---+"),  # R32: down, and back
        ("uuuuuu", "++++++"),  # R32: its probes fail, it does not
        ("llllllll", "++++++++"),
        ("Utlllllll", "~~~~~~~~~"),  # one connect timeout and slow probes are overload
        ("ttttttt", "+++++--"),  # nobody there at all
        ("tttbttbttb", "++++++++++"),  # streams go on
        ("tttsttstts", "++++++++++"),  # requests are answered
        ("Xl", "~-"),  # refused, and what listens now is not ready: a new process
    ],
)
def test_r32_what_the_only_instance_gets(script: str, gets: str) -> None:
    assert served(script) == gets
