"""The files that make Prometheus and Grafana show a gateway: they name what exists."""

import json
import re
from pathlib import Path

import yaml

from gateway.telemetry.catalogue import METRICS

FOLDER = Path(__file__).parents[2] / "docker" / "observability"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())


def known() -> set[str]:
    """Every series name that the exposition shows."""
    parts = ("_bucket", "_sum", "_count")
    histograms = [metric.name for metric in METRICS if metric.kind == "histogram"]
    names = {metric.name for metric in METRICS if metric.kind != "histogram"}
    return names | {f"{name}{part}" for name in histograms for part in parts}


def test_every_panel_asks_for_series_that_exist() -> None:
    text = json.dumps(DASHBOARD)
    assert set(re.findall(r"headgate_\w+", text)) <= known()


def test_every_metric_of_the_catalogue_is_on_the_dashboard() -> None:
    text = json.dumps(DASHBOARD)
    unseen = {metric.name for metric in METRICS if metric.name not in text}
    assert unseen <= {"headgate_first_byte_seconds"}


def test_panels_lie_side_by_side_and_none_on_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_prometheus_scrapes_the_admin_listener_with_a_token_from_a_file() -> None:
    (job,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert set(job["authorization"]) == {"type", "credentials_file"}
    assert job["static_configs"] == [{"targets": ["gateway:8081"]}]
