"""`dapo runs`: runs as their service has them, and what they have written."""
