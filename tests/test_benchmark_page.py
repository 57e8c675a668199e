"""What the page of the benchmark says of measured figures, and which goals are met."""

from typing import Any

import pytest

from benchmarks.goals import COMPILED, PURE, form, table
from benchmarks.report import page

RATES = {"direct": 60_000, "Headgate": 18_000, "Envoy": 10_000, "HAProxy": 40_000}


def measured(equal_rate: float = 30_000.0) -> dict[str, Any]:
    """Results of the section `requests`."""

    def figures(name: str, rate: float, took_us: float) -> dict[str, float]:
        one = {"rate": rate, "p50": 1.0, "p99": 2.0, "one": 0.1, "half_p99": 3.0, "errors": 0}
        if name == "direct":
            return one | {"one": 0.02}
        return one | {"user_us": took_us / 2, "system_us": took_us / 2}

    return {
        "form": PURE,
        "requests": {
            "different": {name: figures(name, rate, 100.0) for name, rate in RATES.items()},
            "equal": {name: figures(name, equal_rate, 70.0) for name in RATES},
        },
    }


def verdicts(results: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Per goal what was measured and whether it is met; … is what the line before is of."""
    return {measure: (value, verdict) for measure, _, value, verdict in reversed(table(results))}


def test_the_page_leads_with_the_harder_load() -> None:
    text = page(measured(), [], False)
    assert text.index("### Different heads") < text.index("### Equal heads")
    assert "| Headgate | 18,000 | 50.0 | 50.0 | 1.00 | 2.00 |" in text
    assert "| Headgate | 30,000 | 35.0 | 35.0 | 1.00 | 2.00 |" in text
    assert "| direct | 60,000 | – | – |" in text


def test_goals_are_of_the_harder_load() -> None:
    found = verdicts(measured())
    pure = "requests/s per core, different heads, of Envoy's, in pure Python"
    assert found[pure] == ("1.8×", "met")
    took = "processor time of a request, different against equal heads"
    assert found[took] == ("1.43×", "missed")


@pytest.mark.parametrize("which", [PURE, COMPILED])
def test_a_goal_of_the_other_form_is_not_measured(which: str) -> None:
    lines = table(measured() | {"form": which})
    pure, compiled = lines[0], lines[1]
    assert (pure[3], compiled[3]) == (
        ("met", "not measured") if which == PURE else ("not measured", "missed")
    )


def test_the_form_that_runs_here_is_told() -> None:
    assert form() in (PURE, COMPILED)


def test_what_a_thousand_routes_cost_is_told_of_both_loads() -> None:
    lost = {"few": 2e4, "many": 1.9e4, "loss": 0.05, "few_us": 50.0, "many_us": 53.0}
    routes = {
        "path": {"what": "1,000 routes by path", "different": lost, "equal": lost | {"loss": 0.0}}
    }
    text = page({"routes": routes}, [], False)
    assert "1,000 routes by path, different heads: 19,000 requests/s and 53 µs against" in text
    assert "(5.0 % lost)" in text
    assert "(0.0 % lost)" in text
    assert verdicts({"routes": routes})["1,000 routes by path, loss"] == ("5 %", "missed")
