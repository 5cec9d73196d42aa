"""What is asked of a run service beside running: specs before they are runs, lists, logs and checkpoints."""
