"""The verifier: grades completions in killable processes, shapes the rewards and completes the groups."""
