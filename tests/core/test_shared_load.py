"""N workers know together what one would know."""

import math

from gateway.core.instance_load import Load
from gateway.core.shared_load import (
    KEPT,
    LEASE_S,
    Decision,
    Sample,
    SharedLoad,
    SharedQueue,
    lane_at,
    size,
)

NOW = 1000.0


def loads(count: int) -> list[SharedLoad]:
    """One instance as `count` workers share it."""
    of_queue, of_instance = [0.0] * size(count), [0.0] * size(count)
    made = []
    for lane in range(count):
        others = [lane_at(each) for each in range(count) if each != lane]
        queue = SharedQueue(of_queue, lane, others)
        made.append(SharedLoad(of_instance, lane, others, queue))
    return made


def workers(count: int) -> list[Load]:
    made = [Load() for _ in range(count)]
    for load, shared in zip(made, loads(count), strict=True):
        load.shared = shared
    return made


def sample(number: int) -> Sample:
    return Sample(NOW + number, 0.5, float(number), 1.0, 2.0)


def test_each_sees_at_once_what_the_others_have_and_what_has_departed() -> None:
    one, two, three = workers(3)
    two.sent(NOW)
    two.sent(NOW)
    three.sent(NOW)
    two.done()
    assert one.sent(NOW) == (3.0, 1.0)
    assert (one.others, one.occupied(NOW)) == (2, 3)


def test_what_is_held_is_not_computed_for_the_others_either() -> None:
    one, two = workers(2)
    two.sent(NOW)
    two.stop_computing()
    one.look(NOW)
    assert (one.others, one.others_departed) == (0, 1)


def test_an_old_report_does_not_hide_that_others_have_done_with_what_it_spoke_of() -> None:
    one, two = workers(2)
    for _ in range(4):
        two.sent(NOW)
    one.sent(NOW)
    one.reported(NOW, queue=1, running=4, slots=4, wait_ms=5)
    one.done()
    assert one.occupied_now(NOW + 0.01) == 4
    for _ in range(3):
        two.done()
    assert one.occupied_now(NOW + 0.02) == 1


def test_what_a_report_speaks_of_beyond_all_workers_counts_and_fades() -> None:
    one, two = workers(2)
    two.sent(NOW)
    one.sent(NOW)
    one.reported(NOW, queue=2, running=4, slots=4, wait_ms=5)  # four are another gateway's
    one.done()
    assert one.occupied_now(NOW + 0.01) == 5
    assert 1 < one.occupied_now(NOW + 1.0) < 5
    assert one.occupied_now(NOW + 3.0) == 1


def test_the_longest_queue_of_the_others_says_who_has_most() -> None:
    one, two, three = (each.queue for each in loads(3))
    assert one.longest() == (0.0, 0.0)
    for queue, count, whose in ((two, 3, 7.0), (three, 5, 9.0)):
        queue.tell(count, 0)
        queue.tell_crowd(whose)
        queue.tell_served(count)
    three.tell_next(NOW)
    assert (one.longest(), two.longest(), three.longest()) == ((5.0, 9.0), (5.0, 9.0), (3.0, 7.0))
    assert (one.others_served, one.others_next_at) == (8.0, NOW)


def test_one_leads_while_it_has_answers_then_the_next_one_that_has_leads_on() -> None:
    one, two, three = (each.queue for each in loads(3))
    assert one.leads(NOW)
    assert not two.leads(NOW + 0.1)
    assert one.leads(NOW + 0.2)
    assert not two.leads(NOW + LEASE_S)
    assert three.leads(NOW + 0.2 + LEASE_S)
    assert not one.leads(NOW + 0.3 + LEASE_S)


def test_who_leads_hears_each_answer_of_the_others_once_and_the_last_ones_of_many() -> None:
    one, two, three = loads(3)
    two.pass_on(sample(1))
    three.pass_on(sample(2))
    assert list(one.told()) == [sample(1), sample(2)]
    assert list(one.told()) == []
    for number in range(KEPT + 5):
        two.pass_on(sample(number))
    assert list(one.told()) == [sample(number) for number in range(5, KEPT + 5)]


def test_what_is_decided_is_read_once_by_each_and_emptied_cells_decide_nothing() -> None:
    one, two = loads(2)
    decision = Decision(10, 20, NOW, 0, math.inf, 0.1, 0, 0.2, 4, 3, 20, 0.4, NOW, 30, 0, 1)
    assert two.decided() is None
    one.decide(decision)
    assert one.decided() is None
    assert two.decided() == decision
    assert two.decided() is None
    for at in range(size(2)):
        two.cells[at] = 0.0
    assert two.decided() is None


def test_a_limit_that_one_worker_has_learned_holds_for_all() -> None:
    one, two = workers(2)
    now = NOW
    for _ in range(20):
        now += 0.02
        one.answered(now, 0.02, one.sent(now))
        one.done()
    crowd = [(now, one.sent(now)) for _ in range(5)]
    for _ in range(200):  # two come while one goes, in order
        crowd += [(now, one.sent(now)), (now, one.sent(now))]
        now += 0.02
        at, sent = crowd.pop(0)
        one.answered(now, now - at, sent)
        one.done()
        if one.target < math.inf:
            break
    two.look(now)
    assert two.target == one.target < math.inf
    assert two.others == one.in_flight


def test_nobody_has_an_instance_any_more_when_the_last_one_left() -> None:
    one, two = loads(2)
    assert not one.leave()
    assert two.leave()


def test_a_worker_that_ends_takes_its_departures_along_and_proves_no_room() -> None:
    one, two = workers(2)
    for _ in range(1000):
        two.sent(NOW)
        two.done()
    for _ in range(50):
        sent = one.sent(NOW)
    assert two.shared is not None
    two.shared.leave()
    one.answered(NOW + 1.0, 1.0, sent)
    assert one.concurrency.room <= 1
