import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.orchestrator.launch.kubernetes.settings import TemplateError, check_template, load_templates
from tests.support.cluster.templates import template


def write(folder: Path, **files: Any) -> Path:
    """The files of a chart's release, of which `files` are others."""
    whole: dict[str, Any] = {"launcher": {"instance": "dapo", "redis": {"name": "dapo-redis"}}}
    whole |= {role: template(role) for role in ("generator", "verifier", "learner")}
    for name, content in {**whole, **files}.items():
        (folder / f"{name}.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return folder


def test_a_folder_of_templates(tmp_path: Path) -> None:
    found = load_templates(write(tmp_path))
    assert found.settings.redis.key == "redis-url"
    assert found.pods["learner"] == template("learner")


@pytest.mark.parametrize(
    ("launcher", "words"),
    [
        ({"instance": "dapo"}, "redis"),
        ({"instance": "Dapo!", "redis": {"name": "r"}}, "instance"),
        ({"instance": "dapo", "redis": {"name": "r"}, "lerner": "Job"}, "lerner"),
        ({"instance": "dapo", "redis": {"name": "r"}, "learner": "Deployment"}, "learner"),
        ({"instance": "dapo", "redis": {"name": "r"}, "scaled_by_others": ["learner"]}, "scaled_by_others"),
        ("[1, 2]", "no mapping"),
        ("{", "cannot be read as YAML"),
    ],
)
def test_settings_that_cannot_be_used_are_named(launcher: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=words) as refused:
        load_templates(write(tmp_path, launcher=launcher))
    assert "launcher.yaml" in str(refused.value)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "verifier.yaml").unlink()
    with pytest.raises(TemplateError, match=r"verifier\.yaml is not there"):
        load_templates(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("spec", "containers", 0, "name"), "other", "none is named worker"),
        (("spec", "containers", 0, "image"), "", "image: is missing"),
        (("spec", "containers", 0, "command"), ["sh"], "command: the launcher sets it"),
        (("spec", "containers", 0, "args"), ["-c"], "args: the launcher sets it"),
        (("spec", "containers", 0, "livenessProbe"), {"exec": {}}, "livenessProbe: dapo restarts workers"),
        (("spec", "containers", 0, "env"), [{"name": "DAPO_TERM", "value": "1"}], "DAPO_TERM is set by the launcher"),
        (("spec", "restartPolicy"), "Never", "restartPolicy: the launcher sets it"),
        (("spec", "volumes"), [], "none is named runs"),
        (("spec",), None, "spec: is missing"),
        (("replicas",), 2, "replicas: a pod template has"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(path: tuple[Any, ...], value: Any, words: str) -> None:
    given = copy.deepcopy(template("image"))
    part: Any = given
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    with pytest.raises(TemplateError, match=words) as refused:
        check_template(given, "generator.yaml")
    assert str(refused.value).startswith("generator.yaml: ")
