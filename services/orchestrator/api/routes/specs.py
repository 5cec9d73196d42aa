"""REST of specs before they are runs: presets, the JSON Schema, and what a spec would be."""

from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse

from services.orchestrator.api.operations import Operations
from services.orchestrator.api.schemas import Preset, PresetList, SpecExamination, ValidateSpec
from services.orchestrator.api.views import examination, spec_text
from services.orchestrator.catalogue.presets import presets, spec_schema

_SCHEMA_JSON = "application/schema+json"


def add_specs(app: FastAPI, operations: Operations, guarded: dict[str, Any]) -> None:
    @app.get("/v1/presets", **guarded)
    async def list_presets() -> PresetList:
        """The presets of `algorithm`, and what each sets."""
        return PresetList(presets=[Preset(**one) for one in presets()])

    @app.get(
        "/v1/spec-schema",
        response_class=JSONResponse,
        responses={200: {"content": {_SCHEMA_JSON: {"schema": {"type": "object"}}}, "description": "The schema."}},
        **guarded,
    )
    async def get_spec_schema() -> JSONResponse:
        """JSON Schema of a spec, with meanings and defaults; editors complete and check with it."""
        return JSONResponse(spec_schema(), media_type=_SCHEMA_JSON)

    @app.post("/v1/specs/validate", **guarded)
    async def validate_spec(body: ValidateSpec) -> SpecExamination:
        """What a spec would be as a run here: its problems by field, what it resolves to, what would be started and
        how much memory it needs. Starts nothing."""
        return examination(await operations.examine(spec_text(body.spec), body.set))
