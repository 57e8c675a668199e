"""What a worker has concluded from what it saw late is what all others know, soon."""

from typing import Any

from gateway.controlplane.watch.health_book import HealthBook, Key
from gateway.controlplane.workers import REMINDED, Workers
from gateway.core.evidence import SETTLED_S, Evidence, Signal, by_backend
from gateway.core.health import HealthState
from gateway.core.table import Backend, Eject, Table

UP = HealthState("up", is_new=False)


def evidence() -> Evidence:
    made = Evidence()
    for address in ("a:1", "b:1"):
        made.set(address, UP)
    made.judge_by(Backend("b", eject=Eject(failures=3)), frozenset(made.states), 0.0)
    return made


def test_who_was_told_too_late_comes_back_to_what_is_known() -> None:
    control, worker = evidence(), evidence()
    failed = [Signal(1.0, "a:1", "reset"), Signal(1.1, "a:1", "reset")]
    answered = Signal(5.0, "a:1", "success")
    late = 6.0 + SETTLED_S
    control.merge([*failed, answered])
    worker.merge([answered])
    worker.merge([Signal(late, "b:1", "reset")])
    worker.merge(failed)  # the control process stood still meanwhile
    assert worker.states["a:1"] != control.states["a:1"]
    control.merge([Signal(late, "b:1", "reset")])
    worker.load(*control.as_of(late + 0.1), late + 0.1)
    assert worker.states == control.states


def test_an_edit_has_the_control_process_judge_what_was_just_seen_anew_as_workers_do() -> None:
    ejected: list[Any] = []
    known = {"b": {"a:1": UP.told(), "b:1": UP.told()}}
    book = HealthBook(lambda *_: None, ejected.extend, known, lambda: 2.0)
    table = Table.from_document({"backends": {"b": {"instances": ["http://a:1"]}}, "routes": {}}, 1)
    book.add(Key("b", "a:1"))
    book.judge_by(table, {"b": {"a:1"}})
    book.merge([("b", 1.0 + n / 10, "a:1", "reset") for n in range(5)])
    assert book.ejected() == {}, "the only one is never ejected"
    book.add(Key("b", "b:1"))
    both = frozenset(("a:1", "b:1"))
    book.judge_by(table, {"b": {*both}})
    (told,) = book.messages()
    worker = Evidence()
    for address in both:
        worker.set(address)
    worker.judge_by(table.backends["b"], both, 2.0)
    states = {address: HealthState(*each) for address, each in told["states"]["b"].items()}
    worker.load(states, by_backend(told["signals"])["b"], 2.0)
    assert book.states["b"] == {address: it.told() for address, it in worker.states.items()}
    assert [each[:2] for each in ejected] == [["b", "a:1"]]


async def test_all_workers_are_reminded_of_all_instances_a_few_at_a_time() -> None:
    backends: dict[str, Any] = {
        f"b{n}": {"instances": [f"http://10.0.{n}.{k}:80" for k in range(1 + n % 5)]}
        for n in range(200)
    }
    sent: list[Any] = []

    class Noted(Workers):
        def send_all(self, message: Any) -> None:
            sent.append(message)

    workers = Noted({}, replace=lambda _: None, health=lambda names: [{"names": names}])
    workers.remind()
    assert sent == [], "there is nothing to be said"
    await workers.put_in_force(Table.from_document({"backends": backends, "routes": {}}, 1))
    beats = 200 * 4 // REMINDED + 1
    for _ in range(2 * beats):
        workers.remind()
    told = [name for message in sent for name in message["names"]]
    assert set(told[:200]) == set(told[-200:]) == set(backends)
    sizes = [
        sum(1 + len(backends[name]["instances"]) for name in message["names"]) for message in sent
    ]
    assert max(sizes) < REMINDED + 6
    del backends["b7"]
    await workers.put_in_force(Table.from_document({"backends": backends, "routes": {}}, 2))
    sent.clear()
    for _ in range(2 * beats):
        workers.remind()
    assert "b7" not in {name for message in sent for name in message["names"]}
