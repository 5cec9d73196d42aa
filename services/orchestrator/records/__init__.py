"""Writes the run's folder: spec, provenance, metrics, evaluations, samples, summary."""
