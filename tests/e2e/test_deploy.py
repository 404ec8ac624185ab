"""The files for deployment agree with the server that they deploy."""

import re
from pathlib import Path

import pytest
import yaml

from bitgear.checkpoint import write_master
from server.app import create_app
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


@pytest.mark.parametrize("name", ["Dockerfile", "deploy/compose.yaml"])
def test_every_variable_is_a_setting(name: str):
    used = re.findall(
        rf"^\s+{ENVIRONMENT_PREFIX}(\w+)[:=]|\s{ENVIRONMENT_PREFIX}(\w+)=", (ROOT / name).read_text(), re.M
    )
    names = {(a or b).lower() for a, b in used}
    assert names
    assert names <= set(Settings.model_fields)


def test_compose_locks_the_service_up(service: dict):
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "cpus", "pids_limit"} <= set(service)
    delay_s = float(service["environment"]["BITGEAR_DRAIN_DELAY_S"])
    timeout_s = Settings.model_fields["drain_timeout_s"].default
    assert float(service["stop_grace_period"].removesuffix("s")) > delay_s + timeout_s


def test_health_checks_and_scrapes_ask_for_what_the_server_has(service: dict, tmp_path: Path):
    write_master(tiny_master(), tmp_path / "tiny.safetensors")
    app = create_app(Settings(models=(tmp_path,)))
    paths = app.openapi()["paths"]
    app.state.runtime.close()
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    assert job["metrics_path"] in paths
    assert job["static_configs"] == [{"targets": ["bitgear:8000"]}]
    assert _health_path(service["healthcheck"]["test"][-1]) in paths
    assert _health_path((ROOT / "Dockerfile").read_text()) in paths
