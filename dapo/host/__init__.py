"""What this machine has and does: GPUs, ports, files, processes. Imports nothing of the house."""
