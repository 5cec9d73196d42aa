"""What a request may hold, of all of them."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from services.orchestrator.api.routes.exports import ExportRun
from services.orchestrator.api.schemas import CreateRun, ResumeRun, UpdateRun, ValidateSpec

REQUESTS = (CreateRun, ResumeRun, UpdateRun, ValidateSpec, ExportRun)
NOT = {"integer": (True, "3", 2.0, 1.5), "boolean": (1, "yes", "true"), "string": (1, True)}


def wrong() -> Iterator[Any]:
    for model in REQUESTS:
        for name, field in model.model_json_schema()["properties"].items():
            kinds = {one.get("type") for one in field.get("anyOf", [field])}
            for kind in kinds & NOT.keys():
                for value in NOT[kind]:
                    yield pytest.param(model, name, value, id=f"{model.__name__}.{name}={value!r}")


@pytest.mark.parametrize(("model", "name", "value"), wrong())
def test_a_value_of_another_type_is_refused_and_not_turned_into_one(
    model: type[BaseModel], name: str, value: object
) -> None:
    needed = {"spec": ""} if "spec" in model.model_fields else {}
    TypeAdapter(model).validate_python(needed)
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(model).validate_python({**needed, name: value})
    assert {error["loc"][0] for error in refused.value.errors()} == {name}
