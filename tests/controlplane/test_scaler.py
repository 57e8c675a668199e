"""Who is scaled, by what workers and instances say."""

from typing import Any

from gateway.controlplane.watch.scaler import Scaler
from gateway.core.table import Table


class House:
    """A backend with two instances, and what is said of it."""

    def __init__(self, **serve: Any) -> None:
        spec = {
            "instances": ["http://127.0.0.1:1", "http://127.0.0.1:2"],
            "serve": {"model": "m:M", "scale": {"max": 4}, "replicas": 2, **serve},
        }
        plain = {"instances": ["http://127.0.0.1:3"], "serve": {"model": "m:N"}}
        self.table = Table.from_document({"backends": {"m": spec, "n": plain}, "routes": {}}, 1)
        self.waits = {"127.0.0.1:1": 0.0, "127.0.0.1:2": 0.0}
        self.queued, self.state, self.edits = 0, "ready", []
        self.scaler = Scaler(
            lambda: self.table, self, lambda name: self.state, lambda *edit: self.edits.append(edit)
        )

    def in_flight(self) -> dict[str, dict[str, int]]:
        return {"m": {"127.0.0.1:1": 5}}

    def queue_depth(self) -> dict[str, int]:
        return {"m": self.queued}

    def report(self, backend: str, address: str) -> Any:
        wait_ms = self.waits[address]
        return {"queue": 0.0, "running": 1.0, "slots": 1.0, "wait_ms": wait_ms}

    def beats(self, count: int) -> list[Any]:
        for now in range(count):
            self.scaler.beat(float(now))
        return self.edits


def test_only_what_has_a_scale_is_scaled() -> None:
    assert list(House().scaler.scaled) == ["m"]


def test_a_wait_counts_where_it_is_shortest() -> None:
    house = House()
    house.waits["127.0.0.1:1"] = 900.0
    assert house.beats(5) == []
    house.waits["127.0.0.1:2"] = 60.0
    assert house.beats(4) == [("m", 3, "scale: requests wait longer than 50 ms")]


def test_who_waits_at_the_gateway_waits_for_all() -> None:
    house = House(scale={"max": 4, "wait": "10s"})
    house.queued = 1
    assert [edit[1] for edit in house.beats(3)] == [3]


def test_nobody_is_scaled_while_processes_are_on_their_way() -> None:
    house = House()
    house.queued, house.state = 1, "starting"
    assert house.beats(9) == []


def test_what_is_out_of_bounds_is_brought_back() -> None:
    assert House(replicas=7).beats(1) == [("m", 4, "scale: from 1 to 4 replicas")]
