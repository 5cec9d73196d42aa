"""The OpenAPI document is the one that is checked in, and its examples are what it says."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from services.orchestrator.api.__main__ import render
from services.orchestrator.api.examples import ANSWERS, REQUESTS
from tests.support.paths import REPO

DOCUMENT = json.loads(render())
REGISTRY = Registry().with_resource("urn:openapi", Resource(DOCUMENT, DRAFT202012))


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for methods in DOCUMENT["paths"].values():
        for operation in methods.values():
            yield operation["operationId"], operation


def test_the_document_is_the_one_that_is_checked_in() -> None:
    assert (REPO / "docs/openapi.json").read_text() == render(), "make proto writes docs/openapi.json anew"


def test_names_of_operations_are_single() -> None:
    names = [name for name, _ in operations()]
    assert len(names) == len(set(names))
    assert {*REQUESTS, *ANSWERS} <= set(names)


@pytest.mark.parametrize(("name", "operation"), list(operations()), ids=[name for name, _ in operations()])
def test_an_operation_is_described_with_its_errors_and_examples_that_fit(name: str, operation: dict[str, Any]) -> None:
    assert operation["description"]
    assert {"413", "422", "429"} <= operation["responses"].keys()
    parts = [operation.get("requestBody", {}), *operation["responses"].values()]
    contents = [content for part in parts for content in part.get("content", {}).values()]
    for content in contents:
        if "example" in content:
            schema = json.loads(json.dumps(content["schema"]).replace('"#/', '"urn:openapi#/'))
            jsonschema.Draft202012Validator(schema, registry=REGISTRY).validate(content["example"])
    assert (name in REQUESTS) <= ("requestBody" in operation)
