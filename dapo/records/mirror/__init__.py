"""A run's checkpoints in an object store: what is there of them, how they get there, and how they come back."""
