"""What every section of a RunSpec shares: unknown fields are refused, and values do not change after validation."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
