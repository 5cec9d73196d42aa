"""Runs that are struck on purpose, and the audit of what they did: for chaos.py, goodput.py and the tests."""
