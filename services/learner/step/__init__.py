"""One training step: payloads fetched, cut into updates and micro-batches, prepared, trained on and measured."""
