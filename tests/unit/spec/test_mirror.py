"""The fields of `checkpoint.mirror`."""

import pytest

from dapo.spec.checks import training
from dapo.spec.load import parse_spec, show_tree
from dapo.spec.problem import SpecError
from tests.support.spec import MINIMAL_YAML


@pytest.mark.parametrize(
    "url", ["s3://bucket", "s3://bucket/a/b-c.d/", "gs://bucket.example/x=1", "file:///srv/mirror", "null"]
)
def test_urls_of_stores(url: str) -> None:
    found = parse_spec(MINIMAL_YAML, [f"checkpoint.mirror={url}"])
    assert found.checkpoint.mirror == (None if url == "null" else url)


@pytest.mark.parametrize(
    "url",
    [
        "bucket/x",
        "https://bucket.s3.amazonaws.com/x",
        "s3://",
        "s3:///x",
        "s3://bucket/../other",
        "s3://bucket/.hidden",
        "s3://bucket//x",
        "s3://key:canary@bucket/x",
        "s3://bucket/x?secret=canary",
        "s3://bucket/x#canary",
        "file://srv/x",
        "file:///",
        "file:///srv/../etc",
        "simplecache::s3://bucket",
    ],
)
def test_other_urls_are_refused_and_no_secret_is_repeated(url: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse_spec(MINIMAL_YAML, [f"checkpoint.mirror={url}"])
    (problem,) = refused.value.problems
    assert problem.field == "checkpoint.mirror"
    assert "does not have the right form" in problem.message
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("field", ["mirror_keep=3", "mirror_wait_s=5"])
def test_fields_of_a_mirror_need_one(field: str) -> None:
    with pytest.raises(SpecError, match=r"Set checkpoint\.mirror, e.g. s3://bucket/prefix"):
        parse_spec(MINIMAL_YAML, [f"checkpoint.{field}"])
    assert parse_spec(MINIMAL_YAML, [f"checkpoint.{field}", "checkpoint.mirror=s3://bucket"])


def test_a_machine_without_the_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "find_spec", lambda name: None)
    (problem,) = training.missing_for_mirror(parse_spec(MINIMAL_YAML, ["checkpoint.mirror=s3://bucket/x"]))
    assert problem.field == "checkpoint.mirror"
    assert "pip install 'dapo[object-store]'" in problem.message
    assert list(training.missing_for_mirror(parse_spec(MINIMAL_YAML))) == []


def test_what_is_shown_of_a_spec_has_its_mirror() -> None:
    shown = show_tree(parse_spec(MINIMAL_YAML, ["checkpoint.mirror=s3://bucket/x"]))["checkpoint"]
    assert shown["mirror"] == "s3://bucket/x"
