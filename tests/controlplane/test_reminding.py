"""What a worker has concluded from what it saw late is what all others know, soon."""

from typing import Any

from gateway.controlplane.workers import REMINDED, Workers
from gateway.core.evidence import SETTLED_S, Evidence, Signal
from gateway.core.health import HealthState
from gateway.core.table import Backend, Eject, Table


def evidence() -> Evidence:
    made = Evidence()
    made.configure(Backend("b", eject=Eject(failures=3)))
    for address in ("a:1", "b:1"):
        made.set(address, HealthState("up", is_new=False))
    made.instances = frozenset(made.states)
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
