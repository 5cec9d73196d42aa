"""What a run survives: a successor of its orchestrator, another start, workers that end, come and go."""
