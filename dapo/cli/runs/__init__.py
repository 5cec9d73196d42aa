"""`dapo runs`: what runs have written, read from their folders."""
