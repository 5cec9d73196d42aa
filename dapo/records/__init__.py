"""The files in a run's folder that people and tools read: their formats, and the pictures drawn from them."""
