"""The client on its own: events, faults, and what it refuses to send."""

import threading

import pytest

from gateway.client import AdminClient, Change, Refused, Unreachable


def test_events_arrive_one_by_one_and_end_with_the_gateway(player) -> None:
    events = AdminClient(player.url).events()
    got = []

    def read() -> None:
        got.extend(event["type"] for event in events)

    reader = threading.Thread(target=read)
    reader.start()
    while not player.listeners:
        threading.Event().wait(0.005)
    player.emit({"type": "edit", "revision": 43})
    player.emit({"type": "health", "instance": "127.0.0.1:8001"})
    player.listeners[0].put(None)
    reader.join(60)
    assert got == ["edit", "health"]


def test_a_refusal_names_every_fault(player) -> None:
    with pytest.raises(Refused) as caught:
        AdminClient(player.url).set_weights("digits", {"digits-cnn": -1, "digits-linear": -2})
    assert caught.value.status == 400
    assert [fault["pointer"] for fault in caught.value.faults] == ["/digits-cnn", "/digits-linear"]


def test_what_is_no_admin_api_is_unreachable(player) -> None:
    player.pages["/x/admin/v1/table"] = ("text/html", b"<html>")
    with pytest.raises(Unreachable):
        AdminClient(player.url + "/x").table()


@pytest.mark.parametrize("name", ["a/b", "..", "a b", "ä", "a?b#c", "%2e"])
def test_a_name_stays_one_segment_of_the_path(player, name) -> None:
    player.table["routes"][name] = {"match": "/", "split": {"square": 3}}
    assert AdminClient(player.url).weights(name)["weights"] == {"square": 3}


def test_a_reason_cannot_smuggle_a_header(player) -> None:
    change = Change(reason="a\r\nX-Evil: 1")
    with pytest.raises(ValueError):
        AdminClient(player.url).set_weights("digits", {"digits-cnn": 1}, change)
    assert player.asked == []
