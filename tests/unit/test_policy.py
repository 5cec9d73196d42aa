"""What a spec over the wire may ask for."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.policy import LIMITS, Admission, Policy, PolicyError, load_policy
from dapo.spec.load import build_spec
from dapo.spec.run import RunSpec
from tests.support.paths import REPO


def make(root: Path, *overrides: str, **sections: object) -> RunSpec:
    tree = {"model": {"path": str(root / "model")}, "data": {"path": str(root / "d.jsonl")}, **sections}
    return build_spec(tree, ["resources.redis.memory_mib=1000000", *overrides])


def refused(spec: RunSpec, state_dir: Path, policy: Policy | None = None) -> dict[str, str]:
    """Message by field."""
    problems = Admission(policy or Policy(), state_dir, ("tokens.json", "audit.jsonl")).refusals(spec)
    return {problem.field: problem.message for problem in problems}


def test_what_lies_in_the_services_directory_and_hub_names_are_allowed(tmp_path: Path) -> None:
    assert refused(make(tmp_path), tmp_path) == {}
    hub = build_spec({"model": {"path": "Qwen/Qwen2.5-0.5B"}, "data": {"path": "openai/gsm8k"}})
    assert refused(hub, tmp_path) == {}
    narrow = Policy(hub_models=["HuggingFaceTB/*"], hub_datasets=[])
    assert refused(hub, tmp_path, narrow).keys() == {"model.path", "data.path"}
    assert refused(hub, tmp_path, Policy(hub_models=["Qwen/*"], hub_datasets=["openai/gsm8k"])) == {}


def test_paths_elsewhere_are_refused_links_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "inside-not"
    for folder in (inside, outside):
        folder.mkdir()
    found = refused(make(outside), inside)
    assert found.keys() == {"model.path", "data.path"}
    assert str(inside) in found["model.path"]
    assert "--policy" in found["model.path"]
    (inside / "model").symlink_to(outside)
    (inside / "d.jsonl").symlink_to(outside / "d.jsonl")
    assert refused(make(inside), inside).keys() == {"model.path", "data.path"}
    assert refused(make(inside), inside, Policy(roots=[str(outside)])) == {}
    dots = build_spec({"model": {"path": f"{inside}/../x"}, "data": {"path": f"{inside}/../d.jsonl"}})
    assert refused(dots, inside).keys() == {"model.path", "data.path"}
    assert refused(make(outside), inside, Policy(roots=["/"])) == {}


def test_every_place_of_a_path_is_looked_at(tmp_path: Path) -> None:
    elsewhere = {"path": "/elsewhere/d.jsonl"}
    spec = build_spec(
        {
            "model": {"path": str(tmp_path / "model")},
            "data": {"sources": {"one": elsewhere, "two": {"path": str(tmp_path / "d.jsonl")}}},
            "evaluation": {"sets": {"aime": elsewhere}},
            "reward": {"graders": {"form": {"type": "json_schema", "schema_path": "/elsewhere/s.json"}}},
        }
    )
    fields = {"data.sources.one.path", "evaluation.sets.aime.path", "reward.graders.form.schema_path"}
    assert refused(spec, tmp_path).keys() == fields


@pytest.mark.parametrize("name", ["audit.jsonl", "link.jsonl"])
def test_the_services_own_files_are_no_data(tmp_path: Path, name: str) -> None:
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "audit.jsonl")
    found = refused(make(tmp_path, f"data.path={tmp_path / name}"), tmp_path)
    assert found == {"data.path": "is a file of the run service itself"}


def test_python_graders_are_refused_wherever_they_are_named(tmp_path: Path) -> None:
    data = {"path": str(tmp_path / "d.jsonl")}
    weighted = {"type": "weighted", "parts": {"python:os:system": 1}}
    places = {
        "reward.grader": {"reward": {"grader": "python:subprocess:getoutput"}},
        "reward.graders.mine": {"reward": {"graders": {"mine": {"type": "python", "function": "os:system"}}}},
        "reward.graders.sum.parts": {"reward": {"graders": {"sum": weighted}}},
        "data.sources.one.grader": {"data": {"sources": {"one": {**data, "grader": "python:os:system"}}}},
        "evaluation.sets.one.grader": {"evaluation": {"sets": {"one": {**data, "grader": "python:os:system"}}}},
    }  # fmt: skip
    for field, sections in places.items():
        spec = build_spec({"model": {"path": str(tmp_path)}, "data": data, **sections})
        found = refused(spec, tmp_path)
        assert found.keys() == {field}
        assert "python_graders" in found[field]
        assert refused(spec, tmp_path, Policy(python_graders=["os:*", "subprocess:getoutput"])) == {}
        assert refused(spec, tmp_path, Policy(python_graders=["o:*"])).keys() == {field}


def graders(tmp_path: Path, url: str, **options: object) -> RunSpec:
    judge = {"type": "judge", "url": url, "model": "m", "rubric": "r", **options}
    return make(tmp_path, reward={"grader": "judge", "graders": {"judge": judge}})


def test_hosts_and_variables_of_graders_are_those_of_the_list(tmp_path: Path) -> None:
    spec = graders(tmp_path, "https://judge.example.org/v1", api_key_env="AWS_SECRET_ACCESS_KEY")
    url, variable = "reward.graders.judge.url", "reward.graders.judge.api_key_env"
    assert refused(spec, tmp_path).keys() == {url, variable}
    for host in ("judge.example.org", "*.example.org", "judge.example.org:443"):
        policy = Policy(grader_hosts=[host], grader_env=["AWS_SECRET_ACCESS_KEY"])
        assert refused(spec, tmp_path, policy) == {}
    for host in ("example.org", "judge.example.org:80", "judge"):
        assert url in refused(spec, tmp_path, Policy(grader_hosts=[host]))
    for other in ("http://judge@evil.example/", "http://judge.evil.example", "http://judge:99999/", "http://[/"):
        assert url in refused(graders(tmp_path, other), tmp_path, Policy(grader_hosts=["judge"]))


@pytest.mark.parametrize(
    "url", ["http://me:canary@judge/v1", "http://judge/v1?api_key=canary", "http://judge?Token=canary"]
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(tmp_path: Path, url: str) -> None:
    spec = graders(tmp_path, url)
    (problem,) = Admission(Policy(grader_hosts=["judge"]), tmp_path).refusals(spec)
    assert problem.field == "reward.graders.judge.url"
    assert "api_key_env" in problem.message
    assert "canary" not in str(problem)


def test_the_server_of_a_run_is_not_the_callers_matter(tmp_path: Path) -> None:
    urls = ["resources.redis.url=redis://:canary@h:1", "resources.redis.payload_url=redis://:canary@h:2"]
    found = Admission(Policy(), tmp_path).refusals(make(tmp_path, *urls))
    assert [problem.field for problem in found] == ["resources.redis.url", "resources.redis.payload_url"]
    assert "canary" not in "\n".join(map(str, found))


@pytest.mark.parametrize(
    ("section", "hosts", "field"),
    [
        ({"tensorboard": True}, [], None),
        ({"wandb": {"mode": "offline"}}, [], None),
        ({"wandb": {}}, [], "tracking.wandb.base_url"),
        ({"wandb": {}}, ["api.wandb.ai"], None),
        ({"mlflow": {"tracking_uri": "http://mlflow:5000"}}, ["mlflow:80"], "tracking.mlflow.tracking_uri"),
        ({"mlflow": {"tracking_uri": "http://mlflow:5000"}}, ["mlflow:5000"], None),
        ({"mlflow": {"tracking_uri": "file:mlruns"}}, [], None),
        ({"mlflow": {"tracking_uri": "file:../mlruns"}}, ["*"], "tracking.mlflow.tracking_uri"),
        ({"mlflow": {"tracking_uri": "file:///srv/mlruns"}}, ["*"], "tracking.mlflow.tracking_uri"),
        ({"opentelemetry": {}}, [], "tracking.opentelemetry.endpoint"),
        ({"opentelemetry": {"endpoint": "https://traces.example.org"}}, ["*.example.org"], None),
    ],
)
def test_a_run_is_told_to_hosts_of_the_policy_and_below_its_folder_only(
    tmp_path: Path, section: dict, hosts: list[str], field: str | None
) -> None:
    found = Admission(Policy(tracking_hosts=hosts), tmp_path).refusals(make(tmp_path, tracking=section))
    assert [problem.field for problem in found] == ([field] if field else [])


@given(limit=st.integers(1, 50), value=st.integers(1, 60))
def test_a_number_is_refused_above_its_limit_only(limit: int, value: int) -> None:
    sets = {"one": {"path": "/d.jsonl", "samples": value}}
    spec = make(Path("/"), f"training.steps={value}", evaluation={"sets": sets})
    limits = {"training.steps": limit, "evaluation.sets.<name>.samples": limit}
    fields = {"training.steps", "evaluation.sets.one.samples"} if value > limit else set()
    assert refused(spec, Path("/"), Policy(limits=limits)).keys() == fields


def test_the_replicas_of_a_run_that_goes_on_are_limited_too(tmp_path: Path) -> None:
    admission = Admission(Policy(limits={"resources.generator.replicas": 2}), tmp_path)
    assert admission.refused_replicas(2, None) == []
    (problem,) = admission.refused_replicas(3, 1)
    assert (problem.field, problem.value) == ("resources.generator.replicas", "3")


def test_the_default_limits_are_of_fields_that_there_are() -> None:
    assert Policy(limits=dict(LIMITS)).limits == LIMITS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("roots: [data]", "absolute"),
        ("root: [/data]", "root is no field of a policy. There are roots, "),
        ("limits: {training.step: 3}", "no number field"),
        ("limits: {model.path: 3}", "no number field"),
        ("limits: {training.steps: many}", "limits.training.steps"),
        ("roots: [", "not YAML"),
        ("- 1", "the file"),
    ],
)
def test_a_policy_that_says_something_else_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(PolicyError, match=words):
        load_policy(path)


@pytest.mark.parametrize(
    ("allowed", "url", "refused_there"),
    [
        ([], "s3://bucket/dapo", True),
        (["s3://bucket/dapo"], "s3://bucket/dapo", False),
        (["s3://bucket/dapo/"], "s3://bucket/dapo/team", False),
        (["s3://bucket"], "s3://bucket/dapo/", False),
        (["s3://bucket/dapo"], "s3://bucket/dapo-other", True),
        (["s3://bucket/dapo"], "s3://bucket", True),
        (["s3://bucket"], "gs://bucket", True),
        (["file:///srv/mirror"], "file:///srv/mirrors", True),
    ],
)
def test_mirrors_lie_below_what_is_named(tmp_path: Path, allowed: list[str], url: str, refused_there: bool) -> None:
    found = refused(make(tmp_path, f"checkpoint.mirror={url}"), tmp_path, Policy(mirrors=allowed))
    assert found.keys() == ({"checkpoint.mirror"} if refused_there else set())
    assert all("dapo serve --policy): mirrors" in message for message in found.values())


def test_an_empty_policy_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("# nothing yet\n")
    assert load_policy(path) == Policy()
    with pytest.raises(PolicyError, match="cannot be read"):
        load_policy(tmp_path / "absent.yaml")


def test_the_page_for_operators_shows_the_policy_that_holds_without_one(tmp_path: Path) -> None:
    page = (REPO / "docs/operating.md").read_text(encoding="utf-8")
    path = tmp_path / "policy.yaml"
    path.write_text(page.partition("```yaml\n")[2].partition("```")[0])
    shown = load_policy(path)
    assert shown == Policy(limits=dict(LIMITS))
    assert set(Policy.model_fields) == shown.model_fields_set
