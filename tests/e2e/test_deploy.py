"""The files for deployment agree with the server that they deploy."""

import re
from pathlib import Path

import pytest
import yaml

from bitgear.checkpoint import write_master
from server.app import create_app
from server.profiles import load_profiles
from server.settings import ENVIRONMENT_PREFIX, Settings
from tests.masters import tiny_master

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


@pytest.fixture(scope="module")
def service() -> dict:
    (service,) = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"].values()
    return service


def _health_path(command: str) -> str:
    return re.search(r"'GET', '([^']+)'", command)[1]


@pytest.fixture(scope="module")
def kserve() -> tuple[dict, dict]:
    runtime, service = yaml.safe_load_all((DEPLOY / "kserve.yaml").read_text())
    return runtime, service


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the server answers to."""
    folder = tmp_path_factory.mktemp("deploy")
    write_master(tiny_master(), folder / "tiny.safetensors")
    app = create_app(Settings(models=(folder,)))
    app.state.runtime.close()
    return app.openapi()["paths"]


@pytest.mark.parametrize("name", ["Dockerfile", "deploy/compose.yaml"])
def test_every_variable_is_a_setting(name: str):
    used = re.findall(
        rf"^\s+{ENVIRONMENT_PREFIX}(\w+)[:=]|\s{ENVIRONMENT_PREFIX}(\w+)=", (ROOT / name).read_text(), re.M
    )
    names = {(a or b).lower() for a, b in used}
    assert names
    assert names <= set(Settings.model_fields)


def test_compose_names_what_can_be_set():
    comment, services = (DEPLOY / "compose.yaml").read_text().split("services:")
    assert set(re.findall(r"\$\{(\w+)", services)) == set(re.findall(r"BITGEAR_\w+", comment))


def test_compose_locks_the_service_up(service: dict):
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "cpus", "pids_limit"} <= set(service)
    assert service["pids_limit"] == "${BITGEAR_PIDS:-512}"
    delay_s = float(service["environment"]["BITGEAR_DRAIN_DELAY_S"])
    timeout_s = Settings.model_fields["drain_timeout_s"].default
    assert float(service["stop_grace_period"].removesuffix("s")) > delay_s + timeout_s


def fits(settings: Settings, memory_bytes: int) -> bool:
    """Whether the pictures and bodies that may be in work fit beside a server at rest: see docs/settings.md."""
    at_rest_bytes = 160 << 20
    return at_rest_bytes + 10 * settings.max_pixels + settings.max_bodies_bytes <= memory_bytes


def test_compose_takes_no_more_pictures_than_fit_into_its_memory(service: dict):
    defaults = {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in service["environment"].items()}
    variables = {name.removeprefix(ENVIRONMENT_PREFIX).lower(): value for name, value in defaults.items()}
    assert service["mem_limit"] == "${BITGEAR_MEMORY:-512m}"
    assert fits(Settings(**variables), 512 << 20)


def test_kserve_starts_what_the_server_can_be_told(kserve: tuple[dict, dict]):
    runtime, service = kserve
    assert (runtime["apiVersion"], runtime["kind"]) == ("serving.kserve.io/v1alpha1", "ServingRuntime")
    assert (service["apiVersion"], service["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"  # the one that KServe looks for
    variables = {entry["name"].removeprefix(ENVIRONMENT_PREFIX).lower(): entry["value"] for entry in container["env"]}
    settings = Settings(**variables)
    assert [port["containerPort"] for port in container["ports"]] == [settings.port]
    assert settings.models == (Path("/mnt/models"),)
    assert container["resources"]["limits"]["memory"] == "512Mi"
    assert fits(settings, 512 << 20)
    assert settings.profile in load_profiles()
    user = int(re.search(r"^USER (\d+)", (ROOT / "Dockerfile").read_text(), re.M)[1])
    assert container["securityContext"]["runAsUser"] == user
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    grace_s = service["spec"]["predictor"]["terminationGracePeriodSeconds"]
    assert grace_s > settings.drain_delay_s + settings.drain_timeout_s


def test_kserve_finds_the_runtime_by_format_and_protocol(kserve: tuple[dict, dict]):
    runtime, service = kserve
    model = service["spec"]["predictor"]["model"]
    formats = [each["name"] for each in runtime["spec"]["supportedModelFormats"] if each["autoSelect"]]
    assert model["modelFormat"]["name"] in formats
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]


def test_kserve_asks_for_what_the_server_has(kserve: tuple[dict, dict], paths: dict):
    (container,) = kserve[0]["spec"]["containers"]
    port = container["ports"][0]["containerPort"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] in paths
        assert asked["port"] == port
    annotations = kserve[0]["spec"]["annotations"]
    assert annotations["prometheus.kserve.io/path"] in paths
    assert annotations["prometheus.kserve.io/port"] == str(port)


def test_health_checks_and_scrapes_ask_for_what_the_server_has(service: dict, paths: dict):
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    assert job["metrics_path"] in paths
    assert job["static_configs"] == [{"targets": ["bitgear:8000"]}]
    assert _health_path(service["healthcheck"]["test"][-1]) in paths
    assert _health_path((ROOT / "Dockerfile").read_text()) in paths
