"""What is asked of a run service beside running."""
