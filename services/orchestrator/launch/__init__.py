"""Starts a run's processes on this machine, watches them and ends them."""
