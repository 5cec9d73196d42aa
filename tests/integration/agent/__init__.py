"""Agents and the launcher that gives them workers, on a real Valkey, with real processes."""
