"""What can be said of the Dockerfile and the compose file without a container engine."""

from __future__ import annotations

import json
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest
import yaml

from tests.docker.stages import BASE, Stage, stages_of

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
STAGES = stages_of(DOCKER / "Dockerfile")
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))


def test_the_linter_has_nothing_to_say() -> None:
    linter = Path(sysconfig.get_path("scripts")) / "hadolint"
    done = subprocess.run(
        [linter, DOCKER / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_last_stage_is_the_server() -> None:
    assert list(STAGES)[-1] == "server"


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: stage.name)
def test_what_is_copied_is_not_ignored_and_there(stage: Stage) -> None:
    let_in = [
        line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    for name, value in stage.steps:
        if name == "COPY" and not value.startswith("--from"):
            for source in value.split()[:-1]:
                assert (ROOT / source).exists()
                assert source in let_in


@pytest.mark.parametrize("name", [name for name, stage in STAGES.items() if stage.last("ENTRYPOINT")])
def test_what_is_started_is_not_root_and_has_a_health_check(name: str) -> None:
    stage = STAGES[name]
    assert stage.base == BASE
    user, group = stage.last("USER").split(":")
    assert int(user) > 1000
    assert int(group) > 1000
    assert stage.last("HEALTHCHECK")


@pytest.mark.parametrize("name", list(COMPOSE["services"]))
def test_services_are_closed_but_for_their_volume(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    stage = STAGES[service["build"]["target"]]
    mounted = [volume.partition(":")[2] for volume in service.get("volumes", [])]
    assert mounted == (json.loads(stage.last("VOLUME")) if stage.last("VOLUME") else [])
    inner = {port.rpartition(":")[2] for port in service["ports"]}
    assert inner == {stage.last("EXPOSE")}


def test_every_setting_of_the_compose_file_is_in_the_example() -> None:
    used = set(re.findall(r"\$\{(\w+)", (DOCKER / "compose.yaml").read_text(encoding="utf-8")))
    shown = set(re.findall(r"^#?(\w+)=", (DOCKER / ".env.example").read_text(encoding="utf-8"), re.MULTILINE))
    assert used == shown


def test_build_arguments_of_the_compose_file_exist() -> None:
    arguments = {value.partition("=")[0] for name, value in STAGES["server"].steps if name == "ARG"}
    assert set(COMPOSE["services"]["server"]["build"]["args"]) == arguments
