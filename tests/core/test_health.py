"""Evidence in, who may get requests out. F fails, s succeeds, digits are seconds."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.health import (
    AVOID_S,
    GONE,
    ILL,
    PROBE,
    PROBES,
    UNKNOWN,
    HealthState,
    had_time,
    may_eject,
    serving,
    slow_start,
)
from gateway.core.table import Eject, Health

EJECT = Eject(failures=3, base_s=1.0, max_s=4.0)
HEALTH = Health(rise=2, fall=3)
UP = HealthState("up", good=2, is_new=False)
SIGNALS = {
    "r": "ready", "u": "unready", "l": "late", "m": "malformed", "x": "probe_refused",
    "t": "probe_unreachable",
    "F": "reset", "T": "timeout", "E": "error", "X": "refused", "U": "unreachable",
    "A": "turned_away", "N": "unresolved", "G": "gateway_error", "B": "broken_head",
    "s": "success", "a": "answered", "b": "alive",
}  # fmt: skip


def states(script: str, state: HealthState = UP, health: Health = HEALTH) -> list[HealthState]:
    """The state after each step, from `state` on: a letter is a signal, a digit so many seconds,
    a dot a tenth of one."""
    now, found = 0.0, []
    for step in script:
        if step.isdigit() or step == ".":
            now += 0.1 if step == "." else int(step)
        else:
            state = state.after(SIGNALS[step], now, health, EJECT)
        found.append((now, state))
    return found


def play(script: str) -> str:
    """What is thought of the instance after each step: (h)ealthy, (e)jected, on (t)rial; in
    capitals while it is avoided."""
    words = ""
    for now, state in states(script):
        word = state.standing(now)[0]
        words += word.upper() if state.avoid_until > now else word
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
        ("FFF9FF9", "hheteet"),
        ("T", "e"),  # R27: a timeout held a slot for its whole time
        ("GBF", "hhe"),
        ("FaF", "hhh"),  # the head of an answer is no success yet
        ("FFaF", "hhhe"),
        ("EEE", "hhH"),  # R31: answers of 500 are the model's: others are preferred, it is not out
        ("EEE1", "hhHh"),
        ("EEsE", "hhhh"),
        ("EEEs", "hhHh"),
        ("EEEF", "hhHH"),  # a row of 500s and one reset is not three resets
        ("EEEFFF", "hhHHHE"),
        ("X", "H"),  # R24: who is refused is avoided until somebody has looked
        ("X.....", "HHHHHh"),
        ("U.....", "HHHHHh"),
        ("A.....", "HHHHHh"),
        ("N.....", "HHHHHh"),
        ("Xs", "Hh"),
        ("XXX", "HHE"),  # R29
        ("UUU", "HHE"),
        ("AAAAAA", "HHHHHH"),  # R69: who says that it takes nothing has not failed
        ("NNNNNN", "HHHHHH"),  # nor has one whose name nobody knows
        ("AAs", "HHh"),
    ],
)
def test_what_requests_say_step_by_step(script: str, words: str) -> None:
    assert play(script) == words


@pytest.mark.parametrize("signal", sorted(ILL - {"timeout"}))
def test_five_signals_of_ill_health_in_a_row_eject(signal: str) -> None:
    state = UP
    for _ in range(5):
        assert state.standing(10.0) == "healthy"
        state = state.after(signal, 10.0, Health(), Eject())
    assert (state.ejected_until, state.ejections) == (15.0, 1)


def test_eject_configures_when_others_are_preferred_too() -> None:
    never = Eject(failures=1_000_000)
    state = UP
    for _ in range(100):
        state = state.after("error", 1.0, HEALTH, never)
    assert not state.avoid_until
    once = UP.after("error", 1.0, HEALTH, Eject(failures=1, base_s=2.0))
    assert once.avoid_until == 3.0


def test_what_may_not_be_ejected_is_ejected_by_the_next_failure_that_may() -> None:
    state = UP
    for _ in range(10):
        state = state.after("reset", 1.0, HEALTH, EJECT, may_eject=False)
    assert state.standing(1.0) == "healthy"
    assert state.avoid_until > 1.0, "others are preferred"
    assert state.after("reset", 2.0, HEALTH, EJECT).standing(2.0) == "ejected"


def test_a_storm_of_the_same_failure_is_no_news() -> None:
    state, news = UP, 0
    for step in range(1000):
        after = state.after("reset", step / 1000, HEALTH, EJECT, may_eject=False)
        news += after is not state
        state = after
    assert news <= 10


@given(st.text("FTEXUAsarxlt123.", max_size=40))
def test_an_ejection_is_never_longer_than_its_maximum(script: str) -> None:
    for step, (now, state) in zip(script, states(script), strict=True):
        assert state.ejected_until <= now + EJECT.max_s
        if step == "s" and state.standing(now) != "ejected":
            assert (state.failures, state.ill, state.avoid_until) == (0, 0, 0.0)


@given(st.text("FTEXUAsarulmxt1.", max_size=30))
def test_what_says_nothing_new_leaves_the_very_same_state(script: str) -> None:
    for now, state in states(script):
        for signal in SIGNALS.values():
            after = state.after(signal, now, HEALTH, EJECT)
            assert (after is state) == (after == state)
        if state.is_clear:
            assert state.after("success", now, HEALTH, EJECT) is state


def probe(script: str, health: Health = HEALTH) -> str:
    """The words of the probes after each step, from an unknown instance on."""
    letters = {"starting": "s", "up": "u", "failing": "f", "down": "d"}
    return "".join(letters[state.word] for _, state in states(script, UNKNOWN, health))


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
        ("rrxlrr", "suussu"),  # refused: what hangs there now is a new process
        ("rrXl", "suus"),
        ("rrXrl", "suuuu"),
        ("rrUl", "suuu"),  # who does not accept in time and answers late is busy
        ("rrtl", "suuu"),
        ("rrtlt", "suuuf"),  # overload takes it out while others are up, and never to starting
        ("rrlll", "suuuf"),
        ("rrmmm", "suuuf"),
        ("rrtttlllllll", "suuuffffffff"),
        ("rrttttt", "suuufff"),
        ("rrtttttt", "suuufffd"),  # no connection at all for twice as long: nobody is there
        ("rrttttsttt", "suuufffffd"),  # a request's answer says that somebody is
        ("rrtttltlt", "suuufffff"),
        ("rrtttttttl", "suuufffddf"),  # it was never gone: the better choice if all are bad
        ("rrttttttst", "suuufffdff"),
        ("rrttttttbt", "suuufffdff"),
        ("rrtttttttu", "suuufffdds"),  # it says itself that it is not ready
        ("rrxxxl", "suuuds"),
    ],
)
def test_r29_probes_step_by_step(script: str, words: str) -> None:
    assert probe(script) == words


def test_rise_and_fall_of_one_act_at_once() -> None:
    assert probe("rurxr", Health(rise=1, fall=1)) == "ufudu"


def test_a_missing_pair_of_the_table_changes_nothing() -> None:
    for word in ("starting", "up", "failing", "down"):
        for signal in PROBES:
            state = replace(UP, word=word)
            for _ in range(10):
                if state.word == word:
                    state = state.after(signal, 1.0, HEALTH, EJECT)
            assert state.word == PROBE.get((word, signal), word)


@given(st.text("rulmxt", max_size=60))
def test_r30_nothing_is_up_without_enough_good_probes_in_a_row(script: str) -> None:
    for step, word in enumerate(probe(script)):
        if word == "u" and (step == 0 or probe(script)[step - 1] != "u"):
            assert script[step - 1 : step + 1] == "rr"


UP3 = {"a": "up", "b": "up", "c": "up"}


def test_a_deadline_says_something_of_who_had_half_of_its_time() -> None:
    assert had_time(10.0, 10.0, 12.0)
    assert had_time(10.0, 11.0, 12.0)
    assert not had_time(10.0, 11.1, 12.0)
    assert not had_time(10.0, math.inf, 12.0), "the upload never ended"


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
    assert probe("rru") == "suu"  # one bad probe alone is counted
    for letter in ("x", "X", "A"):
        assert SIGNALS[letter] in GONE
        assert probe(f"rr{letter}u")[-1] == "s"
        assert probe(f"rr{letter}ru")[-1] == "u", "it was ready since"
    assert probe("rrUu")[-1] == "u", "who accepts nothing in time is not gone"


@pytest.mark.parametrize(
    ("script", "returned_at"),
    [
        ("rr", 0.0),  # nobody has known it cold or warm: no slow start
        ("xxx5rr", 5.0),  # it was down before
        ("rrs3uuu4rr", 7.0),
        ("rrs3xu4rr", 7.0),  # R24: a new process
        ("rrs3r", 0.0),
    ],
)
def test_r24_who_comes_back_begins_slowly(script: str, returned_at: float) -> None:
    assert states(script, UNKNOWN)[-1][1].returned_at == returned_at


def test_r25_who_is_ready_again_is_not_ejected_any_more() -> None:
    now, state = states("FFF", UP)[-1]
    for signal in ("late", "late", "late", "ready", "ready"):
        state = state.after(signal, now, HEALTH, EJECT)
    assert (state.word, state.standing(now), state.failures) == ("up", "healthy", 0)


def test_a_state_crosses_a_channel_whole() -> None:
    for script in ("rrFFF", "rrXul", "ttt", ""):
        for _, state in states(script, UNKNOWN):
            assert HealthState(*state.told()) == state
    assert AVOID_S > 0
