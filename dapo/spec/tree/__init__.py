"""The fields of a run: a pydantic class for each section of the YAML, `run` at the root, `fields` as rows."""
