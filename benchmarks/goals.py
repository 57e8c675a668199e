"""Which goals were set, and which of them does this run meet?"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Results = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """One line of the goals table. `value` takes the results; KeyError means not measured."""

    measure: str
    limit: float
    at_least: bool
    unit: str
    value: Callable[[Results], float]

    def line(self, results: Results) -> tuple[str, str, str, str]:
        """Measure, goal, what was measured, and `met`, `missed` or `not measured`."""
        sign = "≥" if self.at_least else "≤"
        goal = f"{sign} {self.limit:g}{self.unit}"
        try:
            value = self.value(results)
        except (KeyError, ZeroDivisionError):
            return self.measure, goal, "–", "not measured"
        met = value >= self.limit if self.at_least else value <= self.limit
        return self.measure, goal, f"{value:.3g}{self.unit}", "met" if met else "missed"


def _rate(peer: str, kind: str, form: str = "") -> Callable[[Results], float]:
    """Of a peer's rate; KeyError when another form of ours was measured than `form`."""

    def value(results: Results) -> float:
        if form and results["form"] != form:
            raise KeyError(form)
        rates = results["requests"][kind]
        return float(rates["Headgate"]["rate"] / rates[peer]["rate"])

    return value


def _took_us(kind: str, results: Results) -> float:
    one = results["requests"][kind]["Headgate"]
    return float(one["user_us"] + one["system_us"])


def _added(name: str, results: Results) -> float:
    rates = results["requests"]["different"]
    return float(rates[name]["one"] - rates["direct"]["one"])


def _lost(table: str) -> Callable[[Results], float]:
    return lambda r: 100 * r["routes"][table]["different"]["loss"]


def _queued(figure: str) -> Callable[[Results], float]:
    return lambda r: r["uneven"][OURS][figure] / r["uneven"][BY_HAND][figure]


def _moved(way: str) -> Callable[[Results], float]:
    return lambda r: r["bodies"]["Headgate"][way] / r["bodies"]["nginx"][way]


def _memory(kind: str) -> Callable[[Results], float]:
    return lambda r: r["bodies"]["Headgate"][kind] / (1 << 20)


def _instance(kind: str, peer: str) -> Callable[[Results], float]:
    return lambda r: r["instance"][kind]["Headgate"]["rate"] / r["instance"][kind][peer]["rate"]


def _large(results: Results, name: str) -> float:
    return float(results["instance"]["large"][name]["ms"])


BY_HAND = "HAProxy leastconn, maxconn 2 by hand"
OURS = "Headgate, by default"
COMPILED, PURE = "compiled", "pure Python"


def form() -> str:
    """Which of the two forms of the gateway a start in this environment runs."""
    found = importlib.util.find_spec("gateway.dataplane.exchange")
    assert found is not None
    assert found.origin is not None
    return PURE if found.origin.endswith(".py") else COMPILED


# Unless another load is named, requests have different heads.
GOALS = (
    Goal(
        "requests/s per core, different heads, of Envoy's, in pure Python", 1.4, True, "×",
        _rate("Envoy", "different", PURE),
    ),
    Goal("… compiled", 2.0, True, "×", _rate("Envoy", "different", COMPILED)),
    Goal("… of HAProxy's", 0.5, True, "×", _rate("HAProxy", "different")),
    Goal("… of plain aiohttp's", 4.0, True, "×", _rate("plain aiohttp", "different")),
    Goal(
        "requests/s per core, equal heads, of Envoy's, in pure Python", 1.0, True, "×",
        _rate("Envoy", "equal", PURE),
    ),
    Goal("… compiled", 2.5, True, "×", _rate("Envoy", "equal", COMPILED)),
    Goal("… of HAProxy's", 0.5, True, "×", _rate("HAProxy", "equal")),
    Goal(
        "processor time of a request, different against equal heads", 1.25, False, "×",
        lambda r: _took_us("different", r) / _took_us("equal", r),
    ),
    Goal(
        "added p50 at one connection, of Envoy's", 0.6, False, "×",
        lambda r: _added("Headgate", r) / _added("Envoy", r),
    ),
    Goal(
        "p99 at half of our rate, of Envoy's", 1.5, False, "×",
        lambda r: r["requests"]["different"]["Headgate"]["half_p99"]
        / r["requests"]["different"]["Envoy"]["half_p99"],
    ),
    Goal("1 GiB down, of nginx's", 0.8, True, "×", _moved("down")),
    Goal("1 GiB up, of nginx's", 0.8, True, "×", _moved("up")),
    Goal("memory for 1 GiB", 32, False, " MiB", _memory("memory")),
    Goal("memory for 50 slow readers", 32, False, " MiB", _memory("slow_readers")),
    Goal(
        "first event, added", 1.0, False, " ms",
        lambda r: r["events"]["Headgate"]["first"] - r["events"]["direct"]["first"],
    ),
    Goal(
        "1,000 streams × 10 events/s, p99", 50, False, " ms",
        lambda r: r["events"]["Headgate"]["p99"],
    ),
    Goal("1,000 routes by path, loss", 3, False, " %", _lost("path")),
    Goal("… by host", 3, False, " %", _lost("host")),
    Goal("… by header", 3, False, " %", _lost("header")),
    Goal("10,000 hosts, loss", 3, False, " %", _lost("hosts")),
    Goal(
        "10,000 idle connections, loss", 3, False, " %",
        lambda r: 100 * r["idle"]["loss"]["different"],
    ),
    Goal(
        "an idle connection", 20, False, " KiB", lambda r: r["idle"]["bytes_each"] / 1024
    ),
    Goal(
        "uneven instances at 70 %, p99, of HAProxy's set by hand", 0.45, False, "×",
        _queued("p99_70"),
    ),
    Goal("… p50", 1.2, False, "×", _queued("p50_70")),
    Goal(
        "uneven instances at 90 %, p99, of HAProxy's set by hand", 0.8, False, "×",
        _queued("p99_90"),
    ),
    Goal("… p50", 1.2, False, "×", _queued("p50_90")),
    Goal(
        "goodput at three times the capacity", 98, True, " %",
        lambda r: 100 * r["overload"][OURS]["goodput"],
    ),
    Goal(
        "refusals then, p99", 5, False, " ms", lambda r: r["overload"][OURS]["refusal_p99"]
    ),
    Goal(
        "wake-ups of an idle gateway, each process", 10, False, "/s",
        lambda r: max(r["idle"]["wakeups"].values()),
    ),
    Goal("instance, requests/s, of LitServe's", 12, True, "×", _instance("trivial", "LitServe")),
    Goal("instance, requests/s, of mosec's", 1.6, True, "×", _instance("trivial", "mosec")),
    Goal(
        "a lone request through a 5 ms window", 1.5, False, " ms",
        lambda r: r["instance"]["trivial"]["Headgate"]["lone"],
    ),
    Goal(
        "saturated batches of a ResNet-18, of the offline loop's best", 0.95, True, "×",
        _instance("heavy", "offline loop"),
    ),
    Goal("… of LitServe's", 1.5, True, "×", _instance("heavy", "LitServe")),
    Goal(
        "saturated batches of the digit network, of the offline loop's best", 0.8, True, "×",
        _instance("digits", "offline loop"),
    ),
    Goal("… of LitServe's", 1.5, True, "×", _instance("digits", "LitServe")),
    Goal("one stream of 10,000, of LitServe's", 3, True, "×", _instance("streamed", "LitServe")),
    Goal(
        "an idle instance, all its processes", 1, False, " % of a core",
        lambda r: 100 * r["resting"]["cores"],
    ),
    Goal(
        "… memory above bare torch, each process", 60, False, " MiB",
        lambda r: max(r["resting"]["above"].values()) / (1 << 20),
    ),
    Goal(
        "10 MiB in and out, of parsing and copying it once", 1.3, False, "×",
        lambda r: _large(r, "Headgate") / _large(r, "parsed and copied once"),
    ),
)  # fmt: skip


def table(results: Results) -> list[tuple[str, str, str, str]]:
    return [goal.line(results) for goal in GOALS]
