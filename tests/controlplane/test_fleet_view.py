"""What the control process tells of the processes that `headgate up` runs."""

import asyncio
from typing import Any

import pytest

from gateway.cli.grids import Cell
from gateway.cli.watching import drawn
from gateway.controlplane.events import Events
from gateway.controlplane.watch.alerts import alerts
from gateway.controlplane.watch.fleet_view import FleetView
from gateway.wire.line import Fleet


def fleet(*processes: tuple[str, str], state: str = "ready", error: str | None = None) -> Fleet:
    found: list[Any] = [
        {
            "address": address, "pid": 7, "state": word, "model": "m:A", "current": True,
            "restarts": 0, "error": error if word == "failed" else None, "is_here": True,
        }
        for address, word in processes
    ]  # fmt: skip
    served: Any = {
        "state": state, "error": error, "waits": None, "starts": 1, "load_s": None,
        "addresses": None, "processes": found,
    }  # fmt: skip
    return {"type": "fleet", "revision": 3, "backends": {"m": served}, "devices": []}


async def told(*fleets: Fleet) -> list[tuple[str, str, str | None]]:
    """What events say of it when fleets come one after another."""
    events = Events()
    subscription = events.subscribe()
    view = FleetView(events, lambda message: None)
    for each in fleets:
        view.take(each)
    subscription.close()
    return [(e["instance"], e["state"], e["detail"]) async for e in subscription]


async def test_events_tell_what_is_new_and_nothing_of_what_was_before() -> None:
    assert await told(fleet(("a:1", "ready"))) == []
    assert await told(
        fleet(("a:1", "ready")),
        fleet(("a:1", "ready"), ("a:2", "starting")),
        fleet(("a:1", "stopping"), ("a:2", "ready")),
        fleet(("a:2", "ready")),
        fleet(("a:2", "ready"), ("a:3", "failed"), state="failed", error="no weights"),
    ) == [
        ("a:2", "starting", None),
        ("a:1", "stopping", None),
        ("a:2", "ready", None),
        ("a:1", "stopped", None),
        ("a:3", "failed", "no weights"),
    ]


def test_who_has_a_failed_one_started_or_stopped_hears_no_more_of_the_old_failure() -> None:
    heard: list[Any] = []
    view = FleetView(Events(), heard.append)
    for command, messages in ((view.start, ["sleep", "wake"]), (view.stop, ["sleep"])):
        view.take(fleet(("a:1", "failed"), state="failed", error="no weights"))
        heard.clear()
        command("m")
        assert [message["type"] for message in heard] == messages
        assert (view.state("m"), view.error("m")) == ("unloading", None)
        view.take(fleet(("a:1", "failed"), state="failed", error="still none"))
        assert view.error("m") == "still none", "what is told since is new"
    view.take(fleet(("a:1", "ready")))
    heard.clear()
    view.start("m")
    assert [message["type"] for message in heard] == ["wake"]


async def test_logs_are_asked_for_and_nobody_waits_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    view = FleetView(Events(), asked.append)
    question = asyncio.create_task(view.logs("m", 4, 10))
    await asyncio.sleep(0)
    (message,) = asked
    assert (message["backend"], message["after"], message["lines"]) == ("m", 4, 10)
    view.hear({"type": "logs", "id": 99, "lines": []})
    view.hear({"type": "logs", "id": message["id"], "lines": [(5, "a:1", "loaded")]})
    assert (await question)["lines"] == [(5, "a:1", "loaded")]
    monkeypatch.setattr("gateway.controlplane.watch.fleet_view.ANSWER_WITHIN_S", 0.0)
    with pytest.raises(TimeoutError):
        await view.logs("m", 0, 10)


def test_what_cannot_be_started_is_wrong_now() -> None:
    view = FleetView(Events(), lambda message: None)
    why = "model m:B could not be started: no weights"
    for processes, severity, end in (
        (
            [("a:1", "ready"), ("a:2", "failed")],
            "warning",
            "; the version before goes on answering",
        ),
        ([("a:2", "failed")], "critical", ""),
    ):
        view.take(fleet(*processes, state="failed", error=why))
        status = {"routes": {}, "backends": {}, "workers": [], "revision": 3, **view.status()}
        assert alerts(status) == [
            {
                "severity": severity, "kind": "not_started", "backend": "m",
                "text": f"backend m is not what was asked for: {why}{end}",
            }
        ]  # fmt: skip


async def test_a_cluster_that_cannot_be_reached_is_said_and_since_when() -> None:
    events = Events()
    heard = events.subscribe()
    view = FleetView(events, lambda message: None)
    assert "cluster" not in view.status()["fleet"], "on one machine there is none"
    assert "headgate_cluster_up" not in view.gauges()
    view.take_cluster(None)
    assert view.status()["fleet"]["cluster"] == {"state": "connected", "since": None}
    since = "2026-01-01T12:00:00.000Z"
    for _ in range(2):  # a second control process is told anew
        view.take_cluster(since)
    assert view.status()["fleet"]["cluster"] == {"state": "away", "since": since}
    assert view.gauges()["headgate_cluster_up"] == {(): 0.0}
    status = {"revision": 1, "workers": [], "routes": {}, "backends": {}, **view.status()}
    (alert,) = alerts(status)
    assert (alert["severity"], alert["kind"]) == ("warning", "cluster_lost")
    line = (
        f"the cluster cannot be reached since {since}: nothing is placed or moved to another host"
        " meanwhile; requests go on to the instances that are there"
    )
    assert alert["text"] == line
    assert drawn({**status, "alerts": [alert]})[0] == Cell(line, "warn")
    view.take_cluster(None)
    assert alerts({**status, **view.status()}) == []
    assert view.gauges()["headgate_cluster_up"] == {(): 1.0}
    heard.close()
    assert [(e["type"], e["what"], e["since"]) async for e in heard] == [
        ("cluster", "lost", since), ("cluster", "reached", since),
    ]  # fmt: skip
