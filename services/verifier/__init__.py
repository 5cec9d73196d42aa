"""Verifier: grades completions in killable processes, shapes the rewards, completes the groups."""
