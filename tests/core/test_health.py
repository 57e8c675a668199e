"""Evidence in, who may get requests out. F fails, s succeeds, digits are seconds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.health import (
    CLEAR,
    PROBE,
    Ejection,
    Probed,
    ProbeSignal,
    may_eject,
    serving,
    slow_start,
)
from gateway.core.table import Eject, Health

EJECT = Eject(failures=3, base_s=1.0, max_s=4.0)
FAILS = ("connect_failure", "reset", "timeout", "broken_head", "gateway_error")


def play(script: str, eject: Eject = EJECT) -> str:
    """What is thought of the instance after each step: (h)ealthy, (e)jected, on (t)rial."""
    now, state, words = 0.0, CLEAR, ""
    for step in script:
        if step.isdigit():
            now += int(step)
        else:
            signal = {"F": "timeout", "s": "success", "r": "recovered"}[step]
            state = state.after(signal, now, eject)
        words += state.word(now)[0]
    return words


def test_r27_failures_in_a_row_eject_and_the_time_grows() -> None:
    assert play("FFF1F12s") == "hheteeth"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("FFsFFsFF", "hhhhhhhh"),  # a success begins the count anew
        ("FFF1s1FFF1", "hhethhhhet"),  # and clears the row of ejections
        ("FFF1F2F3F4F4F4", "hhetetetetetet"),  # 1, 2, 3, 4, 4 … seconds
        ("FFFFFF1", "hheeeet"),  # late answers of requests sent before say nothing new
        ("FFFs1", "hheet"),
        ("FFF1F1rFF", "hheteehhh"),  # the probes saw it come back
        ("FFF9FF9", "hheteet"),
    ],
)
def test_ejection_step_by_step(script: str, words: str) -> None:
    assert play(script) == words


@pytest.mark.parametrize("signal", FAILS)
def test_any_signal_but_success_is_a_failure(signal: str) -> None:
    state = Ejection()
    for _ in range(5):
        assert not state.is_ejected(10.0)
        state = state.after(signal, 10.0, Eject())
    assert state == Ejection(5, 15.0, 1)


def test_what_may_not_be_ejected_is_ejected_by_the_next_failure_that_may() -> None:
    state = Ejection()
    for _ in range(10):
        state = state.after("reset", 1.0, EJECT, may_eject=False)
    assert not state.is_ejected(1.0)
    assert state.after("reset", 2.0, EJECT).is_ejected(2.0)


@given(st.text("Fsr123", max_size=40))
def test_an_ejection_is_never_longer_than_its_maximum(script: str) -> None:
    now, state = 0.0, CLEAR
    for step in script:
        if step.isdigit():
            now += int(step)
        else:
            state = state.after({"F": "reset", "s": "success", "r": "recovered"}[step], now, EJECT)
        assert not state.is_ejected(now + EJECT.max_s)
        if step in "sr":
            assert state.failures == 0 or state.is_ejected(now)


def probe(script: str, health: Health | None = None) -> str:
    """The words after each probe: r ready, u not ready, x unreachable."""
    signals: dict[str, ProbeSignal] = {"r": "ready", "u": "unready", "x": "unreachable"}
    state, words = Probed(), ""
    for step in script:
        state = state.after(signals[step], health or Health(rise=2, fall=3))
        words += {"starting": "s", "up": "u", "failing": "f", "down": "d"}[state.word]
    return words


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("rr", "su"),
        ("uuuuuurr", "sssssssu"),  # R30: a model that loads is never up before it is ready
        ("xxx", "ssd"),
        ("xxxuurr", "ssdsssu"),  # its process is back and loads
        ("rruuu", "suuuf"),
        ("rrxxx", "suuud"),
        ("rruur", "suuuu"),  # two are not enough
        ("rruuuruurr", "suuufffffu"),  # R29: one good probe among bad ones changes nothing
        ("rruuuxxx", "suuufffd"),
        ("rruux", "suuud"),  # the last one says how it ended
        ("rrxxxrr", "suuuddu"),
        ("rrxxxurxx", "suuudssss"),
    ],
)
def test_r29_probes_step_by_step(script: str, words: str) -> None:
    assert probe(script) == words


def test_rise_and_fall_of_one_act_at_once() -> None:
    assert probe("rurxr", Health(rise=1, fall=1)) == "ufudu"


def test_a_missing_pair_of_the_table_changes_nothing() -> None:
    for word in ("starting", "up", "failing", "down"):
        for signal in ("ready", "unready", "unreachable"):
            state = Probed(word)
            for _ in range(10):
                state = state.after(signal, Health())
            assert state.word == PROBE.get((word, signal), word)


@given(st.text("rux", max_size=60))
def test_r30_nothing_is_up_without_enough_good_probes_in_a_row(script: str) -> None:
    for step, word in enumerate(probe(script)):
        if word == "u" and (step == 0 or probe(script)[step - 1] != "u"):
            assert script[step - 1 : step + 1] == "rr"


UP3 = {"a": "up", "b": "up", "c": "up"}


def test_what_is_up_and_not_ejected_serves() -> None:
    words = {**UP3, "d": "starting", "e": "failing", "f": "down"}
    assert serving(words, frozenset("b")) == {"a", "c"}


def test_r32_when_all_that_are_up_are_ejected_they_serve() -> None:
    assert serving({"a": "up", "b": "up", "c": "failing"}, frozenset("ab")) == {"a", "b"}


def test_r32_when_none_is_up_the_failing_ones_serve() -> None:
    assert serving({"a": "failing", "b": "failing", "c": "down"}, frozenset("a")) == {"b"}
    assert serving({"a": "failing", "c": "starting"}, frozenset("a")) == {"a"}


def test_r30_what_starts_or_is_down_never_serves() -> None:
    assert serving({"a": "starting", "b": "down"}, frozenset()) == frozenset()
    assert serving({}, frozenset("a")) == frozenset()


def test_the_last_instance_is_never_ejected() -> None:
    assert not may_eject("a", {"a": "up"}, frozenset())
    assert not may_eject("a", {"a": "up", "b": "down", "c": "starting"}, frozenset())
    assert not may_eject("a", {"a": "up", "b": "up", "c": "down", "d": "down"}, frozenset("b"))


def test_r31_at_most_half_of_a_backend_is_ejected() -> None:
    words = dict.fromkeys("abcde", "up")
    assert may_eject("a", words, frozenset("b"))
    assert not may_eject("a", words, frozenset("bc"))
    assert may_eject("a", words, frozenset("ab"))  # again, after its trial
    assert may_eject("a", {"a": "up", "b": "up"}, frozenset())
    assert not may_eject("a", {"a": "up", "b": "up"}, frozenset("b"))


WORDS = st.dictionaries(
    st.sampled_from("abcdef"), st.sampled_from(["starting", "up", "failing", "down"])
)


@given(WORDS, st.frozensets(st.sampled_from("abcdef")))
def test_something_serves_whenever_something_might_answer(
    words: dict[str, str], ejected: frozenset[str]
) -> None:
    chosen = serving(words, ejected)
    assert all(words[address] in ("up", "failing") for address in chosen)
    assert bool(chosen) == any(word in ("up", "failing") for word in words.values())


@given(WORDS, st.lists(st.sampled_from("abcdef")))
def test_no_order_of_evidence_ejects_more_than_half(
    words: dict[str, str], order: list[str]
) -> None:
    ejected: frozenset[str] = frozenset()
    for address in order:
        if words.get(address) == "up" and may_eject(address, words, ejected):
            ejected |= {address}
    assert 2 * len(ejected) <= len(words)
    assert "up" not in words.values() or any(
        word == "up" and address not in ejected for address, word in words.items()
    )


def test_r24_a_returning_instance_is_given_its_load_little_by_little() -> None:
    assert slow_start(0.0) == 0.1
    assert slow_start(5.0) == 0.5
    assert slow_start(10.0) == slow_start(1e9) == 1.0


def test_who_was_refused_a_connection_and_then_loads_is_a_new_process_at_once() -> None:
    up, health = Probed("up"), Health()
    assert up.after("unready", health).word == "up"  # one bad probe alone is counted
    assert up.after("unreachable", health).after("unready", health) == Probed("starting")
    assert up.was_refused().after("unready", health) == Probed("starting")
    well_again = up.was_refused().after("ready", health)
    assert well_again.after("unready", health).word == "up"
