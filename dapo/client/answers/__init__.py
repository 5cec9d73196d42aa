"""What a run service answers, as typed dictionaries: JSON as it comes, with the names of the OpenAPI document."""
