"""Agents of the tests: as processes with scripted workers, and as what Redis is asked of them."""
