"""What every section of a RunSpec shares."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Section(BaseModel):
    """Unknown fields, infinities and NaN are refused; values do not change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _empty_section_is_default(cls, value: Any) -> Any:
        # YAML reads a heading whose lines are all commented out as null.
        return {} if value is None else value
