"""Runs that wait for room on the machine of a run service."""
