"""Who may use the run service, and how much of it."""
