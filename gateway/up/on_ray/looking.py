"""What do `headgate fleet status` and `headgate fleet down` do in a cluster?"""

import threading
from typing import Any

from gateway.core.cluster import parse_seat
from gateway.up.on_ray import cluster

DRAIN_S = 10.0
LET_IN_WITHIN_S = 30.0


def answer(asked: str) -> tuple[Any, int]:
    """What is said about it, and the exit code."""
    why: list[str] = []
    done = threading.Thread(target=_connect, args=(why,), daemon=True)
    done.start()
    done.join(LET_IN_WITHIN_S)
    if done.is_alive() or why:
        return {"refused": why[0] if why else cluster.not_let_in()}, 0
    return {"instances": _status() if asked == "status" else _down()}, 0


def _connect(why: list[str]) -> None:
    try:
        cluster.connect(None)
    except cluster.ClusterRefused as error:
        why.append(str(error))


def _status() -> list[dict[str, Any]]:
    found = []
    for fleet, names in _fleets().items():
        seen = cluster.Actors(fleet)
        for name, each in seen.look_within(names, 5.0).items():
            seat = parse_seat(name)
            if seat is None:
                continue
            told = each.told
            found.append(
                {
                    "fleet": fleet.removeprefix(cluster.NAMESPACE),
                    "backend": seat.backend,
                    "state": told["state"] if told and each.state == "there" else each.state,
                    "host": told["host"] if told else None,
                    "address": told["address"] if told else None,
                    "gpus": told["gpus"] if told else [],
                    "pid": told["pid"] if told else None,
                    "restarts": told["restarts"] if told else None,
                    "since": told["since"] if told else None,
                }
            )
    return sorted(found, key=lambda one: (one["fleet"], one["backend"], str(one["address"])))


def _down() -> list[dict[str, Any]]:
    ended: list[dict[str, Any]] = []
    threads = []
    for fleet, names in _fleets().items():
        actors = cluster.Actors(fleet)
        actors.end()
        actors.look_within(names, 5.0)
        for name in names:
            seat = parse_seat(name)
            if seat is not None:
                one = threading.Thread(target=actors.stop, args=(name, DRAIN_S))
                one.start()
                threads.append(one)
                ended.append(
                    {"fleet": fleet.removeprefix(cluster.NAMESPACE), "backend": seat.backend}
                )
    for one in threads:
        one.join()
    return ended


def _fleets() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for namespace, name in cluster.fleets():
        found.setdefault(namespace, []).append(name)
    return found
