"""What is out of order is said, and nothing else."""

from typing import Any

import pytest

from gateway.controlplane.watch.alerts import alerts

QUIET = {
    "requests_per_s": 0.0,
    "answers_per_s": {"refused": 0.0, "5xx": 0.0, "499": 0.0},
    "reasons_per_s": {},
}


def status(**more: Any) -> dict[str, Any]:
    """That of a gateway with one route, two backends and two workers, and `more` of it."""
    workers = [{"slot": n, "pid": 100 + n, "revision": 7, "connected": True} for n in (0, 1)]
    weights = {"stable": 90, "canary": 10}
    route = {"weights": weights, "effective": {"stable": 0.9, "canary": 0.1}, **QUIET}
    whole = {"revision": 7, "workers": workers, "backends": {}, "routes": {"r": route}}
    return {**whole, "silent_workers": [], **more}


def rolled(
    state: str, weights: dict[str, int], effective: dict[str, float], held: str = ""
) -> dict[str, Any]:
    """The route while a rollout to the canary is in that state."""
    rollout = {"to": "canary", "state": state, "held": held, "pending": ""}
    return {"r": {"weights": weights, "effective": effective, **QUIET, "rollout": rollout}}


ALONE = {"stable": 0.0, "canary": 1.0}


def test_where_all_is_well_nothing_is_said() -> None:
    assert alerts(status()) == []


def test_a_rollout_whose_canary_refuses_most_is_said_to_be_held() -> None:
    both = {"stable": 0.9, "canary": 0.1}
    route = rolled("running", {"stable": 90, "canary": 10}, both, "canary refuses most requests")
    (alert,) = alerts(status(routes=route))
    assert (alert["severity"], alert["kind"], alert["route"]) == ("warning", "rollout_held", "r")
    assert alert["text"].endswith("is held: canary refuses most requests")


def test_a_canary_that_failed_and_cannot_go_back_is_critical() -> None:
    both = {"stable": 0.9, "canary": 0.1}
    routes = rolled("paused", {"stable": 90, "canary": 10}, both, "cannot become rolled back: full")
    routes["r"]["rollout"]["pending"] = "rolled_back"
    (alert,) = alerts(status(routes=routes))
    assert (alert["severity"], alert["kind"], alert["route"]) == ("critical", "rollout_held", "r")
    assert alert["text"].endswith("is held: cannot become rolled back: full")


def test_a_rollout_that_has_nothing_beside_it_is_said_to_be_held() -> None:
    (alert,) = alerts(status(routes=rolled("running", {"stable": 90, "canary": 10}, ALONE)))
    assert (alert["severity"], alert["kind"], alert["route"]) == ("warning", "rollout_held", "r")
    assert "no healthy instance of stable" in alert["text"]


@pytest.mark.parametrize(
    ("state", "weights", "effective"),
    [
        ("running", {"stable": 0, "canary": 100}, ALONE),  # nothing is beside it by its plan
        ("running", {"stable": 90, "canary": 10}, {"stable": 0.9, "canary": 0.1}),
        ("running", {"a": 1, "b": 1, "canary": 1}, {"a": 0.0, "b": 0.5, "canary": 0.5}),
        ("paused", {"stable": 90, "canary": 10}, ALONE),  # by command
        ("done", {"stable": 90, "canary": 10}, ALONE),
    ],
)
def test_a_rollout_that_is_not_held_by_that_is_no_alert(
    state: str, weights: dict[str, int], effective: dict[str, float]
) -> None:
    assert alerts(status(routes=rolled(state, weights, effective))) == []


def test_a_worker_that_does_not_answer_is_said_once() -> None:
    found = alerts(status(silent_workers=[101, 99]))
    assert [(each["kind"], each.get("worker"), each.get("process")) for each in found] == [
        ("worker_silent", 1, None),
        ("worker_silent", None, 99),
    ]
    lost = status(silent_workers=[100])
    lost["workers"][0] = {"slot": 0, "pid": 100, "revision": None, "connected": False}
    assert [each["kind"] for each in alerts(lost)] == ["worker_lost"]


@pytest.mark.parametrize(
    ("state", "severity"),
    [("soon", ["warning"]), ("expired", ["critical"]), ("early", ["critical"]), ("holds", [])],
)
def test_a_certificate_that_clients_refuse_or_soon_will_is_said(
    state: str, severity: list[str]
) -> None:
    shown = {"file": "a.crt", "state": state, "says": "the certificate has expired"}
    found = alerts(status(certificates={"admin_tls": shown}))
    assert [alert["severity"] for alert in found] == severity
    for alert in found:
        assert (alert["kind"], alert["listener"]) == ("certificate", "admin_tls")
        assert alert["text"] == "a.crt: the certificate has expired (gateway.admin_tls)"
