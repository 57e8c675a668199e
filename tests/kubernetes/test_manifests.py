"""What `deploy/kubernetes` gives to a cluster is what Kubernetes takes, and fits together."""

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

from gateway.controlplane.configuration.reading import parse
from gateway.controlplane.configuration.settings import Settings
from gateway.controlplane.configuration.yaml_source import read
from gateway.controlplane.watch.resolver import EVERY_S
from tests.harness.gateway import ROOT
from tests.harness.late import Late
from tests.kubernetes.renders import DEPLOY, FOLDERS, golden, kustomize, objects, render

kubernetes_validate = Late("kubernetes_validate")
KUBERNETES = ["1.34", "1.35", "1.36", "1.37"]
FOREIGN = {"HTTPRoute", "ScaledObject"}  # of which Kubernetes itself has no schema
LONGEST_IN_DNS_S = 30  # the most that CoreDNS keeps an answer, and lets others keep it
SETTINGS = Settings()

Object = dict[str, Any]


def test_each_folder_has_a_render() -> None:
    assert {"base", "several-gateways", "gpu", "gateway-api"} <= set(FOLDERS)
    assert all(golden(folder).exists() for folder in FOLDERS)


@pytest.mark.skipif(kustomize() is None, reason="needs kustomize, or kubectl with kustomize 5")
@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_is_rendered_as_before(folder: str) -> None:
    """`python -m tests.kubernetes.renders` writes what is wanted from now on."""
    assert render(folder) == golden(folder).read_text()


@pytest.fixture(scope="module")
def schemas() -> Iterator[None]:
    """Each file of schemas is read once: megabytes, that are asked for with every object."""
    from kubernetes_validate import utils

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(utils, "schema_contents", cache(utils.schema_contents))
        yield


@pytest.mark.usefixtures("schemas")
@pytest.mark.parametrize("release", KUBERNETES)
@pytest.mark.parametrize("folder", FOLDERS)
def test_kubernetes_takes_it(folder: str, release: str) -> None:
    for one in objects(folder):
        if one["kind"] not in FOREIGN:
            kubernetes_validate.validate(one, release, strict=True)


def of_kind(folder: str, kind: str) -> dict[str, Object]:
    return {one["metadata"]["name"]: one for one in objects(folder) if one["kind"] == kind}


def pod(deployment: Object) -> Object:
    spec: Object = deployment["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_service_leads_to_pods_by_a_port_that_they_have(folder: str) -> None:
    pods = of_kind(folder, "Deployment").values()
    for service in of_kind(folder, "Service").values():
        selector = service["spec"]["selector"].items()
        (found,) = [
            one for one in pods if selector <= one["spec"]["template"]["metadata"]["labels"].items()
        ]
        ports = {port["name"] for c in pod(found)["containers"] for port in c["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_configuration_is_one_and_names_services_without_an_address_of_their_own(
    folder: str,
) -> None:
    (configuration,) = of_kind(folder, "ConfigMap").values()
    text = configuration["data"]["headgate.yaml"]
    document = read(text).value
    if document["gateway"].get("store") == "etcd" and "etcd" not in Settings.model_fields:
        pytest.skip("this gateway has no etcd to keep its table in")
    parse(text)
    services = of_kind(folder, "Service")
    for backend in document["backends"].values():
        for url in backend["instances"]:
            found = re.fullmatch(r"dns\+http://([\w-]+):(\d+)", url)
            assert found, url
            spec = services[found[1]]["spec"]
            assert spec["clusterIP"] == "None"
            assert not spec.get("publishNotReadyAddresses")
            (port,) = spec["ports"]
            assert port["port"] == int(found[2])


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_pod_leaves_later_than_anybody_believes_in_it(folder: str) -> None:
    """An instance outlives what DNS and the resolver remember; nobody is killed while draining."""
    for name, deployment in of_kind(folder, "Deployment").items():
        spec = pod(deployment)
        (container,) = spec["containers"]
        sleeps = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        grace = spec["terminationGracePeriodSeconds"]
        if name == "headgate":
            assert grace > sleeps + SETTINGS.lame_duck_s + SETTINGS.drain_s
        else:
            assert sleeps > LONGEST_IN_DNS_S + EVERY_S
            assert grace > sleeps + 30


@pytest.mark.parametrize("folder", FOLDERS)
def test_probes_ask_what_says_whether_it_may_get_requests(folder: str) -> None:
    for name, deployment in of_kind(folder, "Deployment").items():
        (container,) = pod(deployment)["containers"]
        ready = container["readinessProbe"]["httpGet"]
        health = "/-/health?exclude=lease" if folder == "several-gateways" else "/-/health"
        wanted = health if name == "headgate" else "/health/ready"
        assert (ready["path"], ready["port"]) == (wanted, "http")
        if (folder, name) != ("several-gateways", "headgate"):  # it may wait for etcd
            assert container["startupProbe"]["httpGet"] == ready


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_pod_may_do_more_than_it_has_to(folder: str) -> None:
    for deployment in of_kind(folder, "Deployment").values():
        spec = pod(deployment)
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["enableServiceLinks"] is False
        assert spec["automountServiceAccountToken"] is False
        (container,) = spec["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_one_gateway_writes_to_its_volume_alone_and_several_need_none() -> None:
    alone = of_kind("base", "Deployment")["headgate"]["spec"]
    assert (alone["replicas"], alone["strategy"]["type"]) == (1, "Recreate")
    assert of_kind("base", "PersistentVolumeClaim").keys() == {"headgate-state"}
    several = of_kind("several-gateways", "Deployment")["headgate"]
    assert several["spec"]["strategy"]["type"] == "RollingUpdate"
    assert several["spec"]["replicas"] >= 3
    assert not of_kind("several-gateways", "PersistentVolumeClaim")
    assert "persistentVolumeClaim" not in str(pod(several)["volumes"])
    (budget,) = of_kind("several-gateways", "PodDisruptionBudget").values()
    labels = several["spec"]["template"]["metadata"]["labels"].items()
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels


def test_a_gateway_that_waits_for_etcd_is_not_killed_for_it() -> None:
    (container,) = pod(of_kind("several-gateways", "Deployment")["headgate"])["containers"]
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/livez", "port": "admin"}


@pytest.mark.parametrize("folder", ["autoscaling/hpa", "autoscaling/keda"])
def test_whoever_scales_is_the_only_one_who_says_how_many(folder: str) -> None:
    scaled = of_kind(folder, "Deployment")["digits-cnn"]
    assert "replicas" not in scaled["spec"]


def test_images_are_those_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for folder in FOLDERS:
        for deployment in of_kind(folder, "Deployment").values():
            for container in pod(deployment)["containers"]:
                name, _, tag = container["image"].partition(":")
                assert name.startswith("headgate-")
                assert tag == version


def test_the_page_names_every_folder() -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    assert all(f"deploy/kubernetes/{folder}" in page for folder in FOLDERS)
    assert DEPLOY.is_dir()
