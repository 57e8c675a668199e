"""What is wrong now?

The first thing that a person who looks wants to know: which routes are not served, which
instances do not take part, who is turned away, which workers lag behind. Pure: it reads the
status (`watch.status`) and says in sentences what of it is out of order, the worst first. What
an operator asked for (a weight of 0, an instance that is draining) is none of it.
"""

from collections.abc import Iterator, Mapping
from typing import Any

CRITICAL, WARNING = "critical", "warning"
SHARE = 0.05
"""The part of a route's requests that must fail for somebody to be told."""

STARTING_S = 30.0
"""How long an instance may be starting before somebody is told."""

Json = Any
Alert = dict[str, Any]

WORDS = {
    "down": "cannot be connected to",
    "failing": "does not answer its probes",
    "starting": "is not ready yet",
}


def alerts(status: Mapping[str, Json]) -> list[Alert]:
    """What is wrong: severity, kind, what it is about and a sentence; critical ones first."""
    found = [*_routes(status), *_instances(status), *_processes(status), *_workers(status)]
    found += [*_cluster(status), *_gateways(status), *_certificates(status)]
    return sorted(found, key=lambda alert: alert["severity"] != CRITICAL)


def _routes(status: Mapping[str, Json]) -> Iterator[Alert]:
    for name, route in status["routes"].items():
        about = {"route": name}
        weights, effective = route["weights"], route["effective"]
        wanted = [backend for backend, weight in weights.items() if weight]
        lost = [backend for backend in wanted if not effective.get(backend)]
        served = sum(effective.values())
        if wanted and not served:
            yield _alert(CRITICAL, "not_served", f"nothing can serve route {name}", about)
        elif served < 0.999 and lost:
            part = f"{100 * (1 - served):.0f} %"
            text = f"{part} of route {name} is not served: {_and(lost)} cannot"
            yield _alert(CRITICAL, "not_served", text, about)
        yield from _rollout(about, route)
        yield from _answers(f"route {name}", about, route)


def _rollout(about: dict[str, str], route: Mapping[str, Json]) -> Iterator[Alert]:
    """A rollout that takes no step, and cannot, or not the one that was decided: a guard that
    objects is judged in its own place."""
    rollout = route.get("rollout")
    if rollout is None:
        return
    held = f"the rollout of {rollout['to']} on route {about['route']} is held"
    if rollout["pending"]:
        yield _alert(CRITICAL, "rollout_held", f"{held}: {rollout['held']}", about)
        return
    if rollout["state"] != "running":
        return
    to, effective = rollout["to"], route["effective"]
    others = [name for name, weight in route["weights"].items() if weight and name != to]
    if others and not any(effective.get(name) for name in others):
        text = f"no healthy instance of {' or '.join(others)}, nothing to compare it with"
        yield _alert(WARNING, "rollout_held", f"{held}: {text}", about)
    elif rollout["held"]:
        yield _alert(WARNING, "rollout_held", f"{held}: {rollout['held']}", about)


def _answers(what: str, about: dict[str, str], rates: Mapping[str, Json]) -> Iterator[Alert]:
    """Who is turned away, fails or gives up, as a part of all who ask."""
    total, answers = rates["requests_per_s"], rates["answers_per_s"]
    reasons = sorted(rates.get("reasons_per_s", {}).items(), key=lambda each: -each[1])
    why = ", ".join(f"{reason} {rate:.3g}/s" for reason, rate in reasons[:3])
    why = f" ({why})" if why else ""
    for kind, text in (
        ("refused", "are turned away"),
        ("5xx", "fail"),
        ("499", "are given up by their clients"),
    ):
        part = answers[kind] / total if total else 0.0
        if part >= SHARE:
            severity = CRITICAL if part >= 0.5 else WARNING
            sentence = f"{100 * part:.0f} % of the requests to {what} {text}{why}"
            yield _alert(severity, kind, sentence, about)


def _instances(status: Mapping[str, Json]) -> Iterator[Alert]:
    for name, backend in status["backends"].items():
        asked = {a: one for a, one in backend["instances"].items() if not one["state"]}
        for address, one in asked.items():
            about = {"backend": name, "instance": address}
            word, since_s = one["health"], one["since_s"] or 0.0
            if one["ejected_s"]:
                text = f"instance {address} of {name} is ejected for {one['ejected_s']:.0f} s more"
                yield _alert(WARNING, "ejected", text, about)
            elif one["since_s"] is None and one.get("cause"):  # it was never asked
                text = f"instance {address} of {name} {one['cause']}"
                yield _alert(WARNING, word, text, about)
            elif word != "up" and (word != "starting" or since_s >= STARTING_S):
                why = one.get("cause") or WORDS[word]
                text = f"instance {address} of {name} {why} ({word} for {_for(since_s)})"
                yield _alert(WARNING, word, text, about)
        if asked and backend["queue_depth"] and backend["queued_s"] >= 1.0:
            depth = backend["queue_depth"]
            text = (
                f"{depth} request{'s' * (depth != 1)} wait{'s' * (depth == 1)} for room at {name}"
                f"{_why_they_wait(asked)}"
            )
            yield _alert(WARNING, "queued", text, {"backend": name})


def _processes(status: Mapping[str, Json]) -> Iterator[Alert]:
    """What is served as it was, because what is asked for cannot be started."""
    for name, served in status.get("fleet", {}).get("backends", {}).items():
        if served["state"] == "failed":
            goes_on = any(each["state"] == "ready" for each in served["processes"])
            before = "; the version before goes on answering" if goes_on else ""
            text = f"backend {name} is not what was asked for: {served['error']}{before}"
            severity = WARNING if goes_on else CRITICAL
            yield _alert(severity, "not_started", text, {"backend": name})


def _cluster(status: Mapping[str, Json]) -> Iterator[Alert]:
    """What it means that nobody can be asked who places instances."""
    cluster = status.get("fleet", {}).get("cluster", {})
    if cluster.get("state") == "away":
        text = (
            f"the cluster cannot be reached since {cluster['since']}: nothing is placed or moved"
            " to another host meanwhile; requests go on to the instances that are there"
        )
        yield _alert(WARNING, "cluster_lost", text, {})


def _why_they_wait(instances: Mapping[str, Json]) -> str:
    """Which instances get no more because more of them were seen to wait there."""
    limited = {a: one["learned_limit"] for a, one in instances.items() if one.get("learned_limit")}
    if not limited:
        return ""
    each = _and([f"{address} no more than {limit}" for address, limit in limited.items()])
    return f"; {each} at once: more were seen to wait there"


def _workers(status: Mapping[str, Json]) -> Iterator[Alert]:
    for worker in status["workers"]:
        about = {"worker": worker["slot"]}
        slot, revision = worker["slot"], status["revision"]
        if not worker["connected"]:
            text = f"worker {slot} is not connected; it serves what it was told last, if it runs"
            yield _alert(WARNING, "worker_lost", text, about)
        elif worker["revision"] != revision:
            text = f"worker {slot} serves revision {worker['revision']}, not {revision} yet"
            yield _alert(WARNING, "worker_behind", text, about)
    yield from _silent(status)


def _silent(status: Mapping[str, Json]) -> Iterator[Alert]:
    """Workers that do not say what they do; of one that is not connected that is said already."""
    slots = {worker["pid"]: worker for worker in status["workers"]}
    for pid in status.get("silent_workers", ()):
        worker = slots.get(pid)
        if worker is None:
            text = f"process {pid}, which finishes what it has, does not answer"
            yield _alert(WARNING, "worker_silent", text, {"process": pid})
        elif worker["connected"]:
            slot = worker["slot"]
            text = f"worker {slot} (process {pid}) does not answer; what it does now is not known"
            yield _alert(WARNING, "worker_silent", text, {"worker": slot})


def _gateways(status: Mapping[str, Json]) -> Iterator[Alert]:
    """What is wrong with those that share the table, and with their store."""
    store = status.get("store")
    if store is None:
        return
    if store["lease"] != "held":
        text = f"this gateway is lost to the others and takes no edits: {store['why']}"
        yield _alert(CRITICAL, "store_lost", text, {})
    for name, one in status["gateways"].items():
        about = {"gateway": name}
        if one.get("self"):
            continue
        if not one["live"]:
            text = f"gateway {name} has lost its lease; edits do not wait for it"
            yield _alert(WARNING, "gateway_lost", text, about)
        elif one["behind"]:
            text = f"gateway {name} decides by revision {one['revision']}, {one['behind']} behind"
            yield _alert(WARNING, "gateway_behind", text, about)


def _certificates(status: Mapping[str, Json]) -> Iterator[Alert]:
    """Which clients refuse, or will soon."""
    for listener, shown in status.get("certificates", {}).items():
        if shown["state"] != "holds":
            severity = WARNING if shown["state"] == "soon" else CRITICAL
            text = f"{shown['file']}: {shown['says']} (gateway.{listener})"
            yield _alert(severity, "certificate", text, {"listener": listener})


def _alert(severity: str, kind: str, text: str, about: Mapping[str, Any]) -> Alert:
    return {"severity": severity, "kind": kind, **about, "text": text}


def _and(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _for(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
