"""What the client says of answers is what the OpenAPI document says of them."""

import inspect
import json
from types import ModuleType
from typing import is_typeddict

import pytest

from dapo.client.answers import machine, reads, records, runs, specs
from tests.support.paths import REPO

SCHEMAS = json.loads((REPO / "docs/openapi.json").read_text(encoding="utf-8"))["components"]["schemas"]
SCHEMA_OF = {
    "Run": "RunView",
    "Checkpoint": "CheckpointView",
    "Export": "ExportView",
    "Examination": "SpecExamination",
    "Stream": "StreamView",
    "Generator": "GeneratorView",
    "Workers": "WorkersView",
    "Learner": "LearnerView",
    "Bottleneck": "BottleneckView",
    "Demand": "DemandView",
}
"""Of those that have another name there."""
UNDESCRIBED = {"Evaluation", "Interval"}
"""Lines of a file, any object for the document."""


def answers(*modules: ModuleType) -> list[type]:
    return [
        found
        for module in modules
        for _, found in inspect.getmembers(module, is_typeddict)
        if found.__module__ == module.__name__ and found.__name__ not in UNDESCRIBED
    ]


@pytest.mark.parametrize("answer", answers(machine, reads, records, runs, specs), ids=lambda answer: answer.__name__)
def test_an_answer_has_the_fields_of_its_schema(answer: type) -> None:
    schema = SCHEMAS[SCHEMA_OF.get(answer.__name__, answer.__name__)]
    assert set(schema["properties"]) == set(answer.__annotations__)
