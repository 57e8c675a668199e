"""The files that make Prometheus and Grafana show a gateway: they name what exists."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.telemetry.catalogue import BY_NAME, METRICS
from instance.telemetry.metrics import Metrics as InstanceMetrics

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker" / "observability"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
TARGETS = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
EXPRESSIONS = [
    *(target["expr"] for target in TARGETS),
    *(annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]),
]
RARE = (
    r"> 0$|retries|ejections|_limit|rollout|consumer|mirror|instance_(starts|load)"
    r"|gateways|gateway_revision|lease_held|store_up|cluster_up|tls_|certificate_"
)
"""Of an expression without a series yet: a counter that nothing was counted by, a limit that no
instance is held to, or what nobody configured (rollouts, mirrors, keys, TLS, several gateways, a
cluster). All else has one."""
SERIES = re.compile(r"((?:headgate|instance)_[a-z_]+)(?:\{([^}]*)\})?")
NAMED = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
SCRAPE_LABELS = {"gateway", "job"}
OF_INSTANCES = {"backend", "instance", "job"}
"""What Prometheus adds to a gateway's series and an instance's, by the configuration shipped."""


def plain(expression: str, window: str = "1m") -> str:
    """`expression` with Grafana's variables filled in: everything, over `window`."""
    filled = re.sub(r"\$(route|backend)\b", ".*", expression)
    return filled.replace("$__rate_interval", window)


def instance_series() -> dict[str, set[str]]:
    """Every series of an instance that counted something, with its own labels."""
    metrics = InstanceMetrics()
    metrics.requests[200] += 1
    samples = [sample for family in metrics.collect() for sample in family.samples]
    return {sample.name: set(sample.labels) for sample in samples}


def labels_of(series: str) -> set[str]:
    if series.startswith("instance_"):
        return instance_series()[series] | OF_INSTANCES
    metric = BY_NAME.get(series) or BY_NAME[re.sub(r"_(bucket|sum|count)$", "", series)]
    le = {"le"} if series.endswith("_bucket") else set()
    return {*metric.labels, *SCRAPE_LABELS, *le}


def selections(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each series that `expression` selects, and the labels it selects by."""
    for series, matchers in SERIES.findall(expression):
        yield series, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))


def known() -> set[str]:
    """Every series name that the exposition shows."""
    parts = ("", "_bucket", "_sum", "_count")  # without a part: a native histogram
    histograms = [metric.name for metric in METRICS if metric.kind == "histogram"]
    names = {metric.name for metric in METRICS if metric.kind != "histogram"}
    return {*names, *(f"{name}{part}" for name in histograms for part in parts), *instance_series()}


def test_every_panel_asks_for_series_that_exist() -> None:
    text = json.dumps(DASHBOARD)
    assert set(re.findall(r"(?:headgate|instance)_\w+", text)) <= known()


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_expression_uses_labels_that_its_series_have(expression: str) -> None:
    found = list(selections(expression))
    assert found, "asks for nothing of a gateway"
    for series, labels in found:
        assert labels <= labels_of(series), series
    grouped = {
        label.strip() for group in NAMED.findall(expression) for label in group.split(",") if label
    }
    assert grouped <= set.union(*(labels_of(series) for series, _ in found))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target["expr"])
def test_every_legend_names_labels_that_are_left(target: dict[str, Any]) -> None:
    wanted = set(re.findall(r"\{\{\s*(\w+)\s*\}\}", target["legendFormat"]))
    kept = NAMED.search(target["expr"])
    if kept is not None:
        left = {label.strip() for label in kept[1].split(",")}
    else:
        left = set.union(*(labels_of(series) for series, _ in selections(target["expr"])))
    assert wanted <= left


def test_every_variable_asks_for_a_label_that_exists() -> None:
    asked = re.findall(r"label_values\((\w+), (\w+)\)", json.dumps(DASHBOARD["templating"]))
    assert {label for _, label in asked} == {"route", "backend"}
    for series, label in asked:
        assert label in labels_of(series)


def test_prometheus_understands_every_expression(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian's package prometheus)")
    rules = [
        {"record": f"dashboard:{number}", "expr": plain(expression)}
        for number, expression in enumerate(EXPRESSIONS)
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(
        [promtool, "check", "rules", str(file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def test_grafana_is_given_the_files_where_it_looks_for_them() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    mounts = dict(volume.split(":")[:2][::-1] for volume in services["grafana"]["volumes"])
    assert all((ROOT / source).is_file() for source in mounts.values())
    (provider,) = yaml.safe_load((FOLDER / "grafana-dashboards.yml").read_text())["providers"]
    assert f"{provider['options']['path']}/dashboard.json" in mounts
    (source,) = yaml.safe_load((FOLDER / "grafana-datasource.yml").read_text())["datasources"]
    assert source["type"] == DASHBOARD["templating"]["list"][0]["query"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home in mounts
    for name in ("datasources", "dashboards"):
        assert f"/etc/grafana/provisioning/{name}/headgate.yml" in mounts


def test_every_panel_asks_the_source_that_is_chosen() -> None:
    chosen = {"type": "prometheus", "uid": "${source}"}
    assert all(panel["datasource"] == chosen for panel in DASHBOARD["panels"])
    assert all(target["datasource"] == chosen for target in TARGETS)
    identities = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(identities) == len(set(identities))
    for panel in DASHBOARD["panels"]:
        names = [target["refId"] for target in panel["targets"]]
        assert len(names) == len(set(names)), panel["title"]


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
    job, _ = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    assert set(job["authorization"]) == {"type", "credentials_file"}
    assert job["static_configs"] == [{"targets": ["gateway:8081"]}]


def test_prometheus_finds_the_instances_by_the_names_that_the_gateway_has() -> None:
    _, job = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    backends = yaml.safe_load((ROOT / "docker" / "headgate.yaml").read_text())["backends"]
    asked = {f"dns+http://{name}:{found['port']}" for name in found["names"]}
    assert asked == {url for backend in backends.values() for url in backend["instances"]}
    assert set(found["names"]) == set(backends), "the label `backend` is the name"
