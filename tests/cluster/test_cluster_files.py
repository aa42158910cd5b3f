"""The files in cluster/, held against Ray's and KubeRay's schemas and against what a shared network asks for."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from rayvos.pipelines.metrics import COUNTERS, GAUGES, HISTOGRAMS

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
LAUNCHER = ("aws.yaml", "gcp.yaml", "machines.yaml")
KUBERAY = ("kuberay/raycluster.yaml", "kuberay/rayjob.yaml")
RAY_VERSION = re.search(r"^ray==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE)[1]  # type: ignore[index]


def read(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text())


def cluster_spec(name: str) -> dict[str, Any]:
    """Return the RayCluster spec of a KubeRay file."""
    spec = read(name)["spec"]
    return dict(spec.get("rayClusterSpec", spec))


def errors_of(document: dict[str, Any]) -> list[str]:
    schema = f"{document['kind'].lower()}s.v1.schema.json.gz"
    checker = jsonschema.Draft202012Validator(
        json.loads(gzip.decompress((Path(__file__).parent / "kuberay" / schema).read_bytes()))
    )
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in checker.iter_errors(document)]


@pytest.mark.parametrize("name", LAUNCHER)
def test_a_launcher_file_follows_rays_schema(name: str) -> None:
    validate_config(prepare_config(read(name)))


@pytest.mark.parametrize("name", LAUNCHER)
def test_a_launcher_file_with_a_misspelt_key_is_refused(name: str) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config({**read(name), "max_wokers": 2}))


@pytest.mark.parametrize("name", KUBERAY)
def test_a_kubernetes_file_follows_kuberays_schema(name: str) -> None:
    assert errors_of(read(name)) == []


@pytest.mark.parametrize("name", KUBERAY)
def test_a_kubernetes_file_with_a_misspelt_key_is_refused(name: str) -> None:
    document = read(name)
    spec = document["spec"].get("rayClusterSpec", document["spec"])
    spec["headGroupSpec"]["rayStartParms"] = {}

    assert errors_of(document)


def test_the_job_runs_on_the_cluster_that_the_other_file_describes() -> None:
    assert cluster_spec("kuberay/rayjob.yaml") == cluster_spec("kuberay/raycluster.yaml")


@pytest.mark.parametrize("name", LAUNCHER)
def test_every_machine_of_the_launcher_wants_the_token(name: str) -> None:
    config = read(name)

    for side in ("head", "worker"):
        starts = [words for words in config[f"{side}_start_ray_commands"] if "ray start" in words]
        assert starts
        assert all(words.startswith("export RAY_AUTH_MODE=token") for words in starts)
    assert [place for place in config["file_mounts"] if place.endswith(".ray/auth_token")]


@pytest.mark.parametrize("name", KUBERAY)
def test_every_pod_wants_the_token(name: str) -> None:
    assert cluster_spec(name)["authOptions"]["mode"] == "token"


def test_the_image_wants_the_token_and_runs_as_no_root() -> None:
    lines = (CLUSTER / "Dockerfile").read_text().splitlines()

    assert any(line.startswith("ENV") and "RAY_AUTH_MODE=token" in line for line in lines)
    assert "USER ray" in lines


@pytest.mark.parametrize("name", LAUNCHER)
def test_dashboard_and_job_api_of_the_launcher_listen_on_the_head_alone(name: str) -> None:
    (start,) = [words for words in read(name)["head_start_ray_commands"] if "ray start --head" in words]

    assert "--dashboard-host=127.0.0.1" in start
    assert "--ray-client-server-port" not in start


@pytest.mark.parametrize("name", KUBERAY)
def test_dashboard_and_job_api_of_the_pods_have_no_public_service(name: str) -> None:
    head = cluster_spec(name)["headGroupSpec"]

    assert head["serviceType"] == "ClusterIP"
    assert not head.get("enableIngress")


def test_only_the_clusters_own_pods_and_its_keepers_reach_it() -> None:
    policy = read("kuberay/networkpolicy.yaml")["spec"]

    assert policy["policyTypes"] == ["Ingress"]
    assert all(rule["from"] for rule in policy["ingress"])
    open_ports = [rule.get("ports") for rule in policy["ingress"] if "prometheus" in str(rule["from"])]
    assert open_ports == [[{"protocol": "TCP", "port": 8080}]]


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml", *KUBERAY])
def test_workers_with_and_without_gpu_start_at_zero(name: str) -> None:
    config = read(name) if name in LAUNCHER else cluster_spec(name)
    if name in LAUNCHER:
        groups = {key: found["min_workers"] for key, found in config["available_node_types"].items() if key != "head"}
        assert config["idle_timeout_minutes"] > 0
    else:
        groups = {found["groupName"]: found["minReplicas"] for found in config["workerGroupSpecs"]}
        assert config["enableInTreeAutoscaling"]
        assert config["autoscalerOptions"]["version"] == "v2"

    assert len([key for key in groups if "gpu" in key]) == 1
    assert len([key for key in groups if "cpu" in key]) == 1
    assert set(groups.values()) == {0}


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_workers_are_preemptible_and_the_head_is_not(name: str) -> None:
    for group, found in read(name)["available_node_types"].items():
        assert ("spot" in str(found["node_config"]).lower()) == (group != "head"), group


@pytest.mark.parametrize("name", KUBERAY)
def test_images_and_versions_are_those_of_the_lock(name: str) -> None:
    assert cluster_spec(name)["rayVersion"] == RAY_VERSION


@pytest.mark.parametrize("name", [*LAUNCHER, *KUBERAY])
def test_whatever_a_reader_must_fill_in_is_explained(name: str) -> None:
    words = set(re.findall(r"FILL_IN_\w+", (CLUSTER / name).read_text()))
    explained = set(re.findall(r"FILL_IN_\w+", (CLUSTER / "README.md").read_text()))

    assert words
    assert words <= explained


@pytest.mark.parametrize("path", sorted(CLUSTER.rglob("*.*")), ids=lambda path: path.name)
def test_no_file_holds_a_key(path: Path) -> None:
    text = path.read_text()

    assert not re.search(r"AKIA[0-9A-Z]{16}|aws_secret_access_key\s*[:=]|BEGIN [A-Z ]*PRIVATE KEY", text)


def test_dashboard_and_alerts_ask_for_metrics_that_exist() -> None:
    known = {*COUNTERS, *GAUGES, *(f"{name}{part}" for name in HISTOGRAMS for part in ("_bucket", "_count", "_sum"))}
    text = "".join((CLUSTER / "monitoring" / name).read_text() for name in ("grafana.json", "alerts.yml"))

    asked = {name.removeprefix("ray_") for name in re.findall(r"\bray_rayvos_\w+", text)}

    assert asked
    assert asked <= known
    json.loads((CLUSTER / "monitoring" / "grafana.json").read_text())
    for name in ("alerts.yml", "podmonitor.yaml", "prometheus.yml"):
        assert read(f"monitoring/{name}")
